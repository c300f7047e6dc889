"""What a detector still finds in each row and column: over all clips, in groups, clip by clip.

Frames of the clips that belong together are pooled; the truth is what the detector finds on the
clean ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carfilter.detection.detector import Boxes
from carfilter.evaluation.average_precision import (
    SMALL,
    Precision,
    average_precision,
    difference_interval,
    truth_of,
)
from carfilter.evaluation.evaluate import ClipResult, Evaluation
from carfilter.evaluation.measures import unpack_boxes
from carfilter.evaluation.prepared import Column
from carfilter.evaluation.tables import DECODE, find_result, row_names

Cells = dict[tuple[str, Column], float]  # mean average precision by row and column
SMALL_THINGS = "small things"


@dataclass(frozen=True)
class Judge:
    """A detector as the scores know it."""

    title: str
    value: str  # name of its boxes among the measured values
    names: Mapping[int, str]  # of the classes that count
    truth_score: float  # boxes of the clean clip count as truth from here on


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap interval over clips and blocks of frames of mAP(row) - mAP(decode)."""

    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Some of the clips, or some of the things on them."""

    cells: Cells
    boxes: int  # in the truth


@dataclass(frozen=True)
class DetectionScores:
    """All precisions of one detector."""

    judge: Judge
    frames: int
    scores: dict[tuple[str, Column], Precision]
    intervals: dict[tuple[str, Column], Interval]
    groups: dict[str, Group]  # each folder, fixed and moving cameras, small things
    clips: dict[str, Group]  # those with anything to find


@dataclass(frozen=True)
class _Seen:
    """The boxes in the frames of some clips in one column."""

    truth: list[Boxes]
    rows: dict[str, list[Boxes]]
    clips: list[int]  # of each frame, the number of its clip


def score_detections(
    evaluation: Evaluation, judge: Judge, replicates: int = 500
) -> DetectionScores | None:
    """Score every row in every column; None if the detector did not run."""
    clips = [clip for clip in evaluation.clips if judge.value in clip.clean]
    if not clips:
        return None
    scores, intervals, frames = {}, {}, 0
    for column in evaluation.columns:
        seen = _seen(evaluation, clips, column, judge)
        frames = len(seen.truth)
        for name, boxes in seen.rows.items():
            scores[name, column] = average_precision(seen.truth, boxes, judge.names)
            if name != DECODE and DECODE in seen.rows:
                decode = seen.rows[DECODE]
                found = difference_interval(
                    seen.truth, boxes, decode, judge.names, seen.clips, replicates
                )
                intervals[name, column] = Interval(*found)
    each = {clip.name: _group(evaluation, [clip], judge) for clip in clips}
    return DetectionScores(
        judge=judge,
        frames=frames,
        scores=scores,
        intervals=intervals,
        groups=_groups(evaluation, clips, judge),
        clips={name: group for name, group in each.items() if group.boxes},
    )


def _groups(evaluation: Evaluation, clips: Sequence[ClipResult], judge: Judge) -> dict[str, Group]:
    parts = {
        folder: [clip for clip in clips if clip.name in names]
        for folder, names in evaluation.groups.items()
    }
    if evaluation.codec in ("h264", ""):  # other encoders skip less or more
        parts["fixed cameras"] = [clip for clip in clips if clip.is_fixed]
        parts["moving cameras"] = [clip for clip in clips if not clip.is_fixed]
    groups = {
        name: _group(evaluation, part, judge)
        for name, part in parts.items()
        if 0 < len(part) < len(clips)
    }
    return {**groups, SMALL_THINGS: _group(evaluation, clips, judge, SMALL)}


def _group(
    evaluation: Evaluation, clips: Sequence[ClipResult], judge: Judge, *largest: float
) -> Group:
    cells: Cells = {}
    boxes = 0
    for column in evaluation.columns:
        seen = _seen(evaluation, clips, column, judge)
        for name, found in seen.rows.items():
            score = average_precision(seen.truth, found, judge.names, *largest)
            cells[name, column] = score.mean
            boxes = score.truths
    return Group(cells, boxes)


def _seen(
    evaluation: Evaluation, clips: Sequence[ClipResult], column: Column, judge: Judge
) -> _Seen:
    seen = _Seen([], {name: [] for name in row_names(evaluation)}, [])
    for number, clip in enumerate(clips):
        result = find_result(clip, column)
        if result is None:
            continue
        clean = [unpack_boxes(rows) for rows in clip.clean[judge.value]]
        seen.truth.extend(truth_of(clean, judge.truth_score))
        seen.clips.extend([number] * len(clean))
        for name, boxes in seen.rows.items():
            boxes += [unpack_boxes(rows) for rows in result.rows[name][judge.value]]
    return seen
