"""Compare a finished result with its source before it gets its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from carfilter.errors import MediaError
from carfilter.media.source import open_source, read_contents
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions

_TOLERANCE_SECONDS = 0.025  # half a frame at 20 fps; Matroska rounds to a millisecond
_COUNTED = ("video", "audio", "subtitle", "attachment")  # muxers add data streams of their own


class VerificationError(MediaError):
    """A result is not what was written."""


def check_result(
    part: Path,
    source: Path,
    options: FilterOptions,
    run: Run,
    *,
    decode: str,
    report: Callable[[int, float], object],
) -> None:
    """Read a result back: frames, time from the first to the last, streams.

    Args:
        decode: "full" decodes every frame, "fast" reads the packets, "none" looks at nothing.
        report: called now and then, so that a watchdog sees life.

    Raises:
        VerificationError: it differs; the result is to be thrown away.
    """
    if decode == "none":
        return

    def alive() -> None:
        report(run.frames, run.video_seconds)

    contents = read_contents(part, decode=decode == "full", progress=alive)
    wanted = _stream_types(source, options)
    faults = []
    if contents.frames != run.frames:
        faults.append(f"{run.frames} frames were written and {contents.frames} are in it")
    if contents.damaged:
        faults.append(f"{contents.damaged} of its frames cannot be decoded")
    if abs(contents.span_seconds - run.video_seconds) > _TOLERANCE_SECONDS:
        faults.append(
            f"it lasts {contents.span_seconds:.3f} s instead of {run.video_seconds:.3f} s"
        )
    for kind in _COUNTED:
        found, expected = contents.streams.count(kind), wanted[kind] - run.dropped.count(kind)
        if found != expected:
            faults.append(f"it has {found} {kind} streams instead of {expected}")
    if faults:
        part.unlink(missing_ok=True)
        raise VerificationError(
            f"{source}: its result was not as it should be ({'; '.join(faults)});"
            " nothing was kept, look at it with carfilter alone"
        )


def _stream_types(source: Path, options: FilterOptions) -> Counter[str]:
    opened = open_source(source, options.source)
    try:
        return Counter(stream.type for stream in (opened.video, *opened.copied))
    finally:
        opened.close()
