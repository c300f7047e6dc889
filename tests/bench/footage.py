"""The clips that are measured on, made from the sample, and what is in them."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from carfilter.pictures import Luma, Picture

SAMPLE = Path(__file__).parents[2] / "samples" / "plaza.mp4"
_CAMERA = ["-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv420p"]


def make_clip(folder: Path, size: tuple[int, int], frames: int, ffmpeg: str) -> Path:
    """Loop the sample at a size, coded as a camera would: no B-frames, a key frame in 2 s."""
    clip = folder / f"{size[1]}x{size[0]}_{frames}.mp4"
    make = [ffmpeg, "-v", "error", "-y", "-stream_loop", "-1", "-i", str(SAMPLE)]
    make += ["-vf", f"scale={size[1]}:{size[0]},setpts=N/25/TB", "-r", "25"]
    make += ["-frames:v", str(frames), "-an"]
    subprocess.run([*make, *_CAMERA, "-crf", "35", "-g", "50", str(clip)], check=True)
    return clip


def make_moving(folder: Path, size: tuple[int, int], frames: int, ffmpeg: str) -> Path:
    """Pan over the looped sample, with B-frames and a key frame in ten seconds."""
    clip = folder / f"moving_{size[1]}x{size[0]}_{frames}.mp4"
    height, width = size
    wide, high = width * 5 // 4 // 2 * 2, height * 5 // 4 // 2 * 2
    graph = f"scale={wide}:{high},setpts=N/25/TB,crop={width}:{height}:x='mod(2*n,{width // 4})'"
    make = [ffmpeg, "-v", "error", "-y", "-stream_loop", "-1", "-i", str(SAMPLE), "-vf", graph]
    make += ["-frames:v", str(frames), "-r", "25", "-an", "-c:v", "libx264", "-crf", "30"]
    subprocess.run([*make, "-pix_fmt", "yuv420p", "-g", "250", str(clip)], check=True)
    return clip


def make_quiet(folder: Path, size: tuple[int, int], frames: int, ffmpeg: str) -> Path:
    """Make quiet footage: a still photograph, and a small figure that crosses its lower left.

    The photograph is one frame of the sample, the figure a piece of it.
    """
    clip = folder / f"quiet_{size[1]}x{size[0]}.mp4"
    height, width = size
    graph = (
        f"[0:v]trim=end_frame=1,scale={width}:{height}:flags=lanczos,split[a][b];"
        "[a]loop=-1:1,setpts=N/25/TB[still];"
        f"[b]crop={width // 60 // 2 * 2}:{height // 15 // 2 * 2}:{width // 2}:{height // 2},"
        "negate,loop=-1:1,setpts=N/25/TB[figure];"
        f"[still][figure]overlay=x=n*2:y={height - height // 10 // 2 * 2}"
    )
    make = [ffmpeg, "-v", "error", "-y", "-i", str(SAMPLE), "-filter_complex", graph]
    make += ["-frames:v", str(frames), "-r", "25", "-an"]
    subprocess.run([*make, *_CAMERA, "-crf", "30", "-g", "250", str(clip)], check=True)
    return clip


def decode(clip: Path, *, qp_maps: bool) -> Iterator[Any]:
    """Yield each frame of a clip as a Decoded; without QP maps FFmpeg uses its frame threads."""
    # Here, so that the network alone is measured on machines without PyAV too.
    from carfilter.media.options import SourceOptions
    from carfilter.media.source import Decoded, open_source

    source = open_source(clip, SourceOptions(qp_maps=qp_maps))
    try:
        yield from (event for event in source.events() if isinstance(event, Decoded))
    finally:
        source.close()


def pictures(clip: Path, limit: int) -> list[Picture]:
    """Decode the luma, QP maps and frame types of a clip."""
    from carfilter.media.frames import copy_luma

    with closing(decode(clip, qp_maps=True)) as decoded:
        return [
            Picture(copy_luma(one.frame), qp=one.qp, frame_type=one.frame_type)
            for one in islice(decoded, limit)
        ]


def changed_tiles(lumas: Sequence[Luma], side: int = 64) -> float:
    """Return the share of tiles in which a picture [H, W] differs from the one before, 0..1."""
    rows, columns = (np.arange(0, length, side) for length in lumas[0].shape)
    shares = []
    for before, luma in pairwise(lumas):
        by_row = np.logical_or.reduceat(luma != before, rows, axis=0)
        shares.append(np.logical_or.reduceat(by_row, columns, axis=1).mean())
    return float(np.mean(shares))
