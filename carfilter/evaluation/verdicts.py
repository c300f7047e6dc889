"""What an evaluation has to show before it is believed: each bar with whether it is met.

And the rows that the paper published, to stand beside ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carfilter.evaluation.detection_scores import DetectionScores, Group
from carfilter.evaluation.evaluate import Evaluation
from carfilter.evaluation.prepared import Column
from carfilter.evaluation.tables import (
    DECODE,
    VALUES,
    Cell,
    Table,
    column_label,
    mean_of_clips,
    row_names,
)

_BARS = {"psnr": ("fast", "car-mse"), "ssim": ("car", "car-ssim")}
_BASELINES = (DECODE, "spp (QP/4)", "spp (tuned)")
_FOR_DETECTORS = "detect"
_GAINS: dict[int | None, float] = {
    29: 0.003,
    35: 0.01,
    41: 0.03,
    47: 0.04,
}  # that it owes over the decode, by CRF
_DETECTOR_CLIP_LOSS = -0.02  # that it may have on a single clip
_COLUMN_LOSS, _CLIP_LOSS = -0.005, -0.03  # that the others may have
_PAPER_ROWS = ("spp", "MSE", "SSIM", "CAR-CNN")
# Aqqa & Shah, CAR-CNN, VISAPP 2020, tables 1, 2 and 3: caps 2, 1.5, 1 Mb/s, each CRF 29 to 47.
_PAPER = {
    "Luma PSNR, dB (paper, table 1)": """
29.65 28.09 25.93 24.53 29.25 28.07 25.90 24.53 28.58 27.70 25.85 24.53
30.07 28.36 26.65 25.27 29.61 28.36 26.64 25.17 28.88 27.98 26.62 25.05
29.69 28.12 26.02 24.78 29.32 28.12 25.91 24.78 28.54 27.72 25.88 24.78
29.76 28.19 26.07 24.81 29.38 28.18 25.96 24.81 28.60 27.78 25.93 24.81""",
    "Luma SSIM (paper, table 2)": """
.817 .789 .725 .604 .807 .788 .723 .604 .787 .774 .720 .604
.827 .805 .758 .681 .822 .801 .757 .681 .794 .784 .756 .681
.845 .829 .777 .689 .837 .819 .763 .689 .817 .794 .761 .687
.873 .867 .786 .695 .858 .826 .762 .693 .835 .796 .765 .693""",
    "YOLO mAP at IoU 0.50 (paper, table 3)": """
.766 .736 .661 .522 .756 .735 .661 .519 .745 .733 .557 .519
.774 .759 .698 .577 .768 .761 .697 .577 .758 .753 .669 .577
.783 .772 .703 .587 .779 .773 .706 .587 .764 .759 .675 .587
.789 .781 .723 .589 .783 .776 .727 .589 .769 .763 .676 .588""",
}
_PAPER_NOTE = (
    "The paper's own figures on the paper's own footage (1080p surveillance clips, not public):"
    " they say how its rows relate to one another, not how they compare with ours."
)


@dataclass(frozen=True)
class Verdict:
    """A bar in a sentence; `met` is None where it could not be tested."""

    met: bool | None
    sentence: str


def verdicts(evaluation: Evaluation, found: Sequence[DetectionScores]) -> list[Verdict]:
    """Return every bar, the ones that are not met first."""
    rows = row_names(evaluation)
    out = [
        _above_baselines(evaluation, model, key) if model in rows else _untested(model, key)
        for key, models in _BARS.items()
        for model in models
    ]
    out += _detection(evaluation, found)
    return sorted(out, key=lambda verdict: {False: 0, None: 1, True: 2}[verdict.met])


def _untested(model: str, key: str) -> Verdict:
    sentence = f"`{model}` above the decode and both spp rows in {key.upper()}: no such model here."
    return Verdict(None, sentence)


def _above_baselines(evaluation: Evaluation, model: str, key: str) -> Verdict:
    value = next(value for value in VALUES if value.key == key)
    rivals = [row for row in _BASELINES if row in row_names(evaluation)]
    misses, margins = [], []
    for column in evaluation.columns:
        ours = mean_of_clips(evaluation, column, model, value)
        theirs = {row: mean_of_clips(evaluation, column, row, value) for row in rivals}
        known = {row: number for row, number in theirs.items() if number is not None}
        if ours is None or not known:
            continue
        row, number = max(known.items(), key=lambda item: item[1])
        margins.append(ours - number)
        if ours <= number:
            label = column_label(column, evaluation)
            misses.append(f"{label} ({ours - number:+.{value.digits}f} against {row})")
    bar = f"`{model}` above the {_listed(rivals)} in {key.upper()} in every distinct column"
    if misses:
        return Verdict(False, f"{bar}: not in {', '.join(misses)}.")
    return Verdict(
        True, f"{bar}: by {min(margins):+.{value.digits}f} to {max(margins):+.{value.digits}f}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def _detection(evaluation: Evaluation, found: Sequence[DetectionScores]) -> list[Verdict]:
    if not found:
        return [Verdict(None, "What a detector finds, against the decode: no detector was given.")]
    rows = [row for row in row_names(evaluation) if row not in _BASELINES]
    return [_detection_of(evaluation, scores, row) for scores in found for row in rows]


def _detection_of(evaluation: Evaluation, found: DetectionScores, row: str) -> Verdict:
    """Judge a row: what it gains over all clips and in each folder, and loses on a single one."""
    rivals = [DECODE]
    wanted, most = _COLUMN_LOSS, _CLIP_LOSS
    bar = f"mAP at most {-wanted} below the decode"
    gains = dict.fromkeys((crf for crf, _ in evaluation.columns), wanted)
    if row.split(" (")[0] == _FOR_DETECTORS:
        gains |= _GAINS
        rivals = [name for name in _BASELINES if name in row_names(evaluation)]
        most = _DETECTOR_CLIP_LOSS
        spp = " and above spp" if len(rivals) > 1 else ""
        bar = f"mAP above the decode by 0.003 / 0.01 / 0.03 / 0.04{spp}"
    everything = Group({key: score.mean for key, score in found.scores.items()}, 0)
    groups = {"": everything} | {n: g for n, g in found.groups.items() if n in evaluation.groups}
    known = [
        (label, rival, column, gain)
        for label, group in groups.items()
        for rival in rivals
        for column, gain in _gains(group, row, rival)
    ]
    sentence = (
        f"`{row}`, {found.judge.title}: {bar} in every column, at most {-most} below it on any clip"
    )
    if not known:
        return Verdict(None, f"{sentence}: the clean clips show nothing to find.")
    misses = [
        _miss(evaluation, label, column, gain, rival)
        for label, rival, column, gain in known
        if gain < (gains[column[0]] if rival == DECODE else 0)
    ] + [
        _miss(evaluation, label, column, gain)
        for label, group in found.clips.items()
        for column, gain in _gains(group, row, DECODE)
        if gain < most
    ]
    return Verdict(not misses, f"{sentence}: not in {', '.join(misses)}." if misses else sentence)


def _gains(group: Group, row: str, rival: str) -> list[tuple[Column, float]]:
    """Return what a row has over another in each column where that is known.

    It is not where there is nothing to find.
    """
    gains = [
        (column, group.cells[row, column] - base)
        for (name, column), base in group.cells.items()
        if name == rival
    ]
    return [(column, gain) for column, gain in gains if not math.isnan(gain)]


def _miss(
    evaluation: Evaluation, label: str, column: Column, gain: float, rival: str = DECODE
) -> str:
    where = f"{label} {column_label(column, evaluation)}".strip()
    against = "" if rival == DECODE else f" against {rival}"
    return f"{where} ({gain:+.3f}{against})"


def paper_tables() -> list[Table]:
    """Return the paper's three tables with its own figures."""
    columns = tuple(f"{cap}M {crf}" for cap in ("2", "1.5", "1") for crf in (29, 35, 41, 47))
    tables = []
    for index, (title, text) in enumerate(_PAPER.items()):
        lines = [line.split() for line in text.strip().splitlines()]
        rows = tuple(
            (f"{name} (paper)", tuple(Cell(float(number)) for number in line))
            for name, line in zip(_PAPER_ROWS, lines, strict=True)
        )
        digits = 2 if index == 0 else 3
        tables.append(
            Table(f"paper_{index + 1}", title, columns, rows, digits, True, (_PAPER_NOTE,))
        )
    return tables
