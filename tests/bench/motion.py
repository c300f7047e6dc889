"""The estimator of motion beside OpenCV's DIS, one thread each.

Pairs of neighbours of each clip: the time with the pyramids of both pictures, and how far a
picture is from the other one moved along either field, by the same filter and with the same gate.
"""

import statistics
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np

from carfilter.pictures import Luma
from carfilter.restore.motion.arrays import BLOCK, STEPS, Field
from carfilter.restore.motion.flow import pyramid
from carfilter.restore.motion.kernels import estimate
from carfilter.restore.motion.move import moved_where_better

from .rows import Row, bar, size_name
from .timing import take_times

_AS_FAST = 3.0


def measure(clips: list[Path], runs: int, count: int) -> list[Row]:
    """Compare both on the first pictures of each clip."""
    import cv2  # pip install opencv-python-headless

    cv2.setNumThreads(1)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
    rows = []
    for clip in clips:
        ratios, ours, theirs = [], [], []
        for picture, other in pairwise(_pictures(clip, count)):
            jobs = {
                "carfilter": lambda a=picture, b=other: _field(a, b),
                "dis": lambda a=picture, b=other: dis.calc(a, b, None),
            }
            times = take_times(jobs, runs)
            ratios += [b / a for a, b in zip(times["carfilter"], times["dis"], strict=True)]
            ours.append(_apart(picture, other, _field(picture, other)))
            theirs.append(_apart(picture, other, _in_blocks(dis.calc(picture, other, None))))
        ratio = statistics.median(ratios)
        size = size_name(picture.shape)
        row = {"part": "motion", "clip": clip.name, "size": size, "times_as_fast_as_dis": ratio,
               "levels_apart": statistics.mean(ours),
               "levels_apart_by_dis": statistics.mean(theirs)}  # fmt: skip
        rows += [row, bar(f"motion, {clip.name}: times as fast as DIS fast", ratio, _AS_FAST)]
    return rows


def _pictures(clip: Path, count: int) -> list[Luma]:
    with av.open(str(clip)) as video:
        frames = islice(video.decode(video=0), count)
        return [np.ascontiguousarray(frame.to_ndarray(format="gray")) for frame in frames]


def _field(picture: Luma, other: Luma) -> Field | None:
    return estimate(pyramid(picture, 8), pyramid(other, 8))


def _in_blocks(flow: np.ndarray) -> Field:
    rows, columns = (-side % BLOCK for side in flow.shape[:2])
    whole = np.pad(flow, ((0, rows), (0, columns), (0, 0)), mode="edge")
    middle = whole[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK]
    return np.rint(middle * STEPS).astype(np.int16)


def _apart(picture: Luma, other: Luma, field: Field | None) -> float:
    moved = moved_where_better(picture, other, field, 8)[0]
    return float(np.abs(moved.astype(int) - picture).mean())
