"""The tables of a detector: mean average precision by row and column, apart and clip by clip."""

import math
from collections.abc import Mapping

from carfilter.evaluation.average_precision import FEWEST_BOXES
from carfilter.evaluation.detection_scores import SMALL_THINGS, DetectionScores, Group
from carfilter.evaluation.evaluate import Evaluation
from carfilter.evaluation.tables import DECODE, Cell, Table, column_label, row_names, signed

_DIGITS = 3


def detection_tables(evaluation: Evaluation, found: DetectionScores) -> list[Table]:
    """Return mAP, its difference from the decode with intervals, apart by group, clip and class."""
    tables = [_main_table(evaluation, found)]
    if found.intervals:
        tables.append(_difference_table(evaluation, found))
    tables.append(_group_table(evaluation, found))
    if len(found.clips) > 1:
        tables.append(_clip_table(evaluation, found))
    return [*tables, _class_table(evaluation, found)]


def _table(
    evaluation: Evaluation,
    found: DetectionScores,
    key: str,
    title: str,
    rows: list[tuple[str, tuple[Cell, ...]]],
    note: str,
    corner: str = "row",
) -> Table:
    labels = tuple(column_label(column, evaluation) for column in evaluation.columns)
    key, title = f"{key}_{found.judge.title}", f"{title}, {found.judge.title}"
    higher = True if key.startswith("map_mean") else None
    return Table(key, title, labels, tuple(rows), _DIGITS, higher, (note,), corner)


def _main_table(evaluation: Evaluation, found: DetectionScores) -> Table:
    rows = []
    for name in row_names(evaluation):
        cells = []
        for column in evaluation.columns:
            score = found.scores[name, column].mean
            gain = None if name == DECODE else score - found.scores[DECODE, column].mean
            cells.append(Cell(score, gain))
        rows.append((name, tuple(cells)))
    any_score = next(iter(found.scores.values()))
    counts = ", ".join(f"{name} {score.truths}" for name, score in any_score.classes.items())
    enough = all(any_score.classes[name].truths >= FEWEST_BOXES for name in any_score.counted)
    rule = f", the classes with at least {FEWEST_BOXES}" if enough else ""
    note = (
        f"{any_score.truths} boxes on {found.frames} frames of the clean clips are the truth"
        f" ({counts}); the mean is over {', '.join(any_score.counted) or 'no class'}{rule}."
        " Compare rows, not detectors: each has its own truth."
    )
    return _table(evaluation, found, "map_mean", "Detection, mAP at IoU 0.50", rows, note)


def _difference_table(evaluation: Evaluation, found: DetectionScores) -> Table:
    rows = []
    for name in row_names(evaluation):
        cells = []
        for column in evaluation.columns:
            interval = found.intervals.get((name, column))
            if interval is None:
                continue
            gain = found.scores[name, column].mean - found.scores[DECODE, column].mean
            low, high = (signed(end, _DIGITS) for end in (interval.low, interval.high))
            text = "-" if math.isnan(gain) else f"{signed(gain, _DIGITS)} [{low}, {high}]"
            cells.append(Cell(gain, text=text))
        if cells:
            rows.append((name, tuple(cells)))
    note = "95 % bootstrap intervals over clips and blocks of neighbouring frames."
    return _table(
        evaluation, found, "map_difference", "Detection, mAP minus that of the decode", rows, note
    )


def _group_table(evaluation: Evaluation, found: DetectionScores) -> Table:
    counts = ", ".join(f"{name} {group.boxes}" for name, group in found.groups.items())
    note = (
        "Boxes in the truth: " + counts + ". A camera counts as fixed where half of its"
        f" macroblocks keep still in H.264's coarsest variant; {SMALL_THINGS} cover less than 32x32"
        " pixels."
    )
    rows = _apart(evaluation, found.groups)
    return _table(evaluation, found, "map_groups", "Detection apart, mAP", rows, note, "of: row")


def _clip_table(evaluation: Evaluation, found: DetectionScores) -> Table:
    """Return the clips, worst first: a mean hides a camera on which things are lost."""

    def worst(group: Group) -> float:
        losses = [
            value - group.cells[DECODE, column]
            for (name, column), value in group.cells.items()
            if name != DECODE
        ]
        return min(losses, default=0.0)

    order = sorted(found.clips.items(), key=lambda item: worst(item[1]))
    counts = ", ".join(f"{name} {group.boxes}" for name, group in order)
    note = f"The clip with the largest loss of any row first. Boxes in the truth: {counts}."
    rows = _apart(evaluation, dict(order))
    return _table(
        evaluation, found, "map_clips", "Detection clip by clip, mAP", rows, note, "clip: row"
    )


def _apart(
    evaluation: Evaluation, groups: Mapping[str, Group]
) -> list[tuple[str, tuple[Cell, ...]]]:
    rows = []
    for label, group in groups.items():
        for name in row_names(evaluation):
            cells = []
            for column in evaluation.columns:
                value = group.cells[name, column]
                gain = None if name == DECODE else value - group.cells[DECODE, column]
                cells.append(Cell(value, gain))
            rows.append((f"{label}: {name}", tuple(cells)))
    return rows


def _class_table(evaluation: Evaluation, found: DetectionScores) -> Table:
    rows = []
    for kind in found.judge.names.values():
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
    return _table(evaluation, found, "map_classes", title, rows, note, "class: row")
