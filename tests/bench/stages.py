"""The stages of the tool, each alone with all cores, through the very libraries of the tool.

The ffmpeg program brings another FFmpeg and another libx264 than PyAV does, so its times would
not tell what the pipeline makes of its own parts.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from carfilter.media.frames import replace_luma
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.media.source import open_source
from carfilter.media.target import open_target
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model

from .footage import decode, pictures


def encode(frames: list[Any], clip: Path, target: Path) -> None:
    """Encode frames as the tool does with `-preset veryfast -crf 18`; `clip` is their source."""
    options = TargetOptions(
        video_codec="libx264", encoder=(("preset", "veryfast"), ("crf", "18")), overwrite=True
    )
    source = open_source(clip, SourceOptions())
    try:
        sink = open_target(target, source, options, None)
        for frame in frames:
            sink.write_frame(frame)
        sink.finish(len(frames))
    finally:
        source.close()


def jobs(
    models: list[Model], clip: Path, device: str, target: Path, limit: int
) -> dict[str, Callable[[], object]]:
    """Return the stages as jobs over a whole clip of `limit` frames; models[0] is encoded."""
    taken = pictures(clip, limit)
    size = taken[0].luma.shape
    options = RestoreOptions(device, reuse=False)
    restorers = {m.name: Restorer(m, options, size) for m in models}
    restored = [decoded.frame for decoded in decode(clip, qp_maps=False)]
    for frame, luma in zip(restored, restorers[models[0].name].restore(taken), strict=True):
        replace_luma(frame, luma)
    found: dict[str, Callable[[], object]] = {
        "decode alone": lambda: deque(decode(clip, qp_maps=False), maxlen=0),
        "decode alone with QP maps": lambda: deque(decode(clip, qp_maps=True), maxlen=0),
        "encode alone": lambda: encode(restored, clip, target),
    }
    for name, restorer in restorers.items():
        found[f"network alone, {name}"] = lambda r=restorer: deque(r.restore(taken), maxlen=0)
    return found
