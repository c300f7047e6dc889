"""What an evaluation has to show before it is believed: each bar with whether it is met.

And the rows that the paper published, to stand beside ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from carfilter.evaluation.detection_tables import DetectionScores
from carfilter.evaluation.evaluate import Evaluation
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


def verdicts(evaluation: Evaluation, found: DetectionScores | None) -> list[Verdict]:
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
            label = column_label(column, evaluation.columns)
            misses.append(f"{label} ({ours - number:+.{value.digits}f} against {row})")
    bar = f"`{model}` above the {_listed(rivals)} in {key.upper()} in every distinct column"
    if misses:
        return Verdict(False, f"{bar}: not in {', '.join(misses)}.")
    return Verdict(
        True, f"{bar}: by {min(margins):+.{value.digits}f} to {max(margins):+.{value.digits}f}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def _detection(evaluation: Evaluation, found: DetectionScores | None) -> list[Verdict]:
    bar = "mAP not below the decode's beyond the 95 % bootstrap interval"
    if found is None:
        return [Verdict(None, f"{bar}: no detector was given.")]
    out = []
    for name in row_names(evaluation):
        if name in _BASELINES:
            continue
        worse = [
            column_label(column, evaluation.columns)
            for column in evaluation.columns
            if found.intervals[name, column].is_worse
        ]
        sentence = f"`{name}`: {bar}"
        where = f": but it is at {', '.join(worse)}." if worse else " in every distinct column."
        out.append(Verdict(not worse, sentence + where))
    return out


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
