"""The detector's table: mean average precision of each row in each column, with its uncertainty.

Frames of all clips are pooled; the truth is what the detector finds on the clean ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from carfilter.detection.detector import Boxes
from carfilter.evaluation.average_precision import (
    FEWEST_BOXES,
    Precision,
    average_precision,
    difference_interval,
    truth_of,
)
from carfilter.evaluation.evaluate import Evaluation
from carfilter.evaluation.measures import unpack_boxes
from carfilter.evaluation.prepared import Column
from carfilter.evaluation.tables import (
    DECODE,
    Cell,
    Table,
    column_label,
    find_result,
    row_names,
    signed,
)

_DIGITS = 3


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap interval over frames of mAP(row) - mAP(decode)."""

    low: float
    high: float

    @property
    def is_worse(self) -> bool:
        """Whether the row is below the decode beyond the interval."""
        return self.high < 0


@dataclass(frozen=True)
class DetectionScores:
    """All precisions, by row and column."""

    names: Mapping[int, str]  # of the classes that count
    frames: int
    scores: dict[tuple[str, Column], Precision]
    intervals: dict[tuple[str, Column], Interval]


def score_detections(
    evaluation: Evaluation, names: Mapping[int, str], truth_score: float, replicates: int = 500
) -> DetectionScores | None:
    """Score every row in every column; None if no detector ran.

    Args:
        truth_score: boxes of the clean clip count as truth from this score on.
    """
    clips = [clip for clip in evaluation.clips if "boxes" in clip.clean]
    if not clips:
        return None
    scores, intervals, frames = {}, {}, 0
    for column in evaluation.columns:
        found: dict[str, list[Boxes]] = {name: [] for name in row_names(evaluation)}
        truth: list[Boxes] = []
        for clip in clips:
            result = find_result(clip, column)
            if result is not None:
                clean = [unpack_boxes(rows) for rows in clip.clean["boxes"]]
                truth += truth_of(clean, truth_score)
                for name, boxes in found.items():
                    boxes += [unpack_boxes(rows) for rows in result.rows[name]["boxes"]]
        frames = len(truth)
        for name, boxes in found.items():
            scores[name, column] = average_precision(truth, boxes, names)
            if name != DECODE and DECODE in found:
                interval = difference_interval(truth, boxes, found[DECODE], names, replicates)
                intervals[name, column] = Interval(*interval)
    return DetectionScores(names, frames, scores, intervals)


def detection_tables(evaluation: Evaluation, found: DetectionScores) -> list[Table]:
    """Return mAP, its difference from the decode with intervals, and the values of each class."""
    labels = tuple(column_label(column, evaluation.columns) for column in evaluation.columns)
    rows, differences = [], []
    for name in row_names(evaluation):
        cells, intervals = [], []
        for column in evaluation.columns:
            score = found.scores[name, column].mean
            gain = None if name == DECODE else score - found.scores[DECODE, column].mean
            cells.append(Cell(score, gain))
            interval = found.intervals.get((name, column))
            if interval is not None and gain is not None:
                low, high = (signed(end, _DIGITS) for end in (interval.low, interval.high))
                text = f"{signed(gain, _DIGITS)} [{low}, {high}]"
                intervals.append(Cell(gain, text="-" if math.isnan(gain) else text))
        rows.append((name, tuple(cells)))
        if intervals:
            differences.append((name, tuple(intervals)))
    any_score = next(iter(found.scores.values()))
    counts = ", ".join(f"{name} {score.truths}" for name, score in any_score.classes.items())
    enough = all(any_score.classes[name].truths >= FEWEST_BOXES for name in any_score.counted)
    rule = f", the classes with at least {FEWEST_BOXES}" if enough else ""
    note = (
        f"{any_score.truths} boxes on {found.frames} frames of the clean clips are the truth"
        f" ({counts}); the mean is over {', '.join(any_score.counted) or 'no class'}{rule}."
        " Compare rows, not detectors: each has its own truth."
    )
    interval_note = (
        "95 % bootstrap intervals over frames. Frames of a video resemble each other, so the true"
        " ones are wider."
    )
    tables = [
        Table("map", "Detection, mAP at IoU 0.50", labels, tuple(rows), _DIGITS, True, (note,))
    ]
    if differences:
        title = "Detection, mAP minus that of the decode"
        tables.append(
            Table(
                "map_difference",
                title,
                labels,
                tuple(differences),
                _DIGITS,
                None,
                (interval_note,),
            )
        )
    return [*tables, _class_table(evaluation, found, labels)]


def _class_table(evaluation: Evaluation, found: DetectionScores, labels: tuple[str, ...]) -> Table:
    rows = []
    for kind in found.names.values():
        for name in row_names(evaluation):
            scores = [found.scores[name, column].classes[kind] for column in evaluation.columns]
            if scores and scores[0].truths:
                cells = tuple(
                    Cell(score.precision, text=f"{score.precision:.3f} ({score.found})")
                    for score in scores
                )
                rows.append((f"{kind}: {name}", cells))
    note = "In brackets the boxes found from a score of 0.01 on, most of them doubtful ones."
    title = "Detection by class, average precision at IoU 0.50"
    return Table("map_classes", title, labels, tuple(rows), _DIGITS, None, (note,), "class: row")
