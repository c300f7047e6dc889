"""Tables of an evaluation: means over frames and clips, gains over the decode, the best marked.

One structure for the terminal, Markdown, CSV, JSON and the report.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carfilter import metrics
from carfilter.evaluation.bd_rate import bd_rate
from carfilter.evaluation.evaluate import ClipResult, Evaluation, Result
from carfilter.evaluation.prepared import Column
from carfilter.pairs.variants import CODECS

DECODE = "decode"


@dataclass(frozen=True)
class Cell:
    """A value, its distance from the decode's, or a text instead of both."""

    value: float | None
    gain: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; `higher` says which end is better, None that neither is."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    digits: int = 3
    higher: bool | None = True
    notes: tuple[str, ...] = ()
    corner: str = "row"

    @property
    def has_gains(self) -> bool:
        """Whether any cell is shown with a gain."""
        cells = [cell for _, row in self.rows for cell in row]
        return any(cell.gain is not None and cell.text is None for cell in cells)

    def best(self, column: int) -> float | None:
        """Return the best value of a column, rounded as shown; None where none is better."""
        shown = [cells[column].value for _, cells in self.rows]
        values = [
            round(value, self.digits)
            for value in shown
            if value is not None and not math.isnan(value)
        ]
        if self.higher is None or len(values) < 2:
            return None
        return max(values) if self.higher else min(values)

    def is_best(self, cell: Cell, column: int) -> bool:
        """Say whether a cell is the best of its column, ties included."""
        best = self.best(column)
        return (
            best is not None and cell.value is not None and round(cell.value, self.digits) == best
        )

    def text(self, cell: Cell) -> str:
        """Return the value of a cell as it is shown."""
        if cell.text is not None:
            return cell.text
        if cell.value is None or math.isnan(cell.value):
            return "-"
        return f"{cell.value:.{self.digits}f}"

    def gain_text(self, cell: Cell) -> str:
        """Return the signed gain of a cell as it is shown, or nothing."""
        if cell.gain is None or math.isnan(cell.gain):
            return ""
        return signed(cell.gain, self.digits)


def signed(number: float, digits: int) -> str:
    """Return a number with its sign, and what rounds to zero as +0."""
    return f"{round(number, digits) + 0.0:+.{digits}f}"


@dataclass(frozen=True)
class Value:
    """A number per clip and column: how it is called and computed."""

    key: str
    title: str
    reduce: Callable[[Result, dict[str, list[float]]], float | None]
    digits: int
    higher: bool | None
    notes: tuple[str, ...] = ()


def _mean_of(name: str) -> Callable[[Result, dict[str, list[float]]], float | None]:
    return lambda _result, row: float(np.mean(row[name])) if row.get(name) else None


def _swing(_result: Result, row: dict[str, list[float]]) -> float | None:
    return metrics.psnr_swing(row["psnr"])[0]


def _peaks(_result: Result, row: dict[str, list[float]]) -> float | None:
    return metrics.psnr_swing(row["psnr"])[1]


def _flicker(_result: Result, row: dict[str, list[float]]) -> float | None:
    known = [value for value in row["flicker"] if value is not None]
    return float(np.mean(known)) if known else None


def _pop(result: Result, row: dict[str, list[float]]) -> float | None:
    steps = [row["flicker"][frame - 1] for frame in result.key_frames if frame]
    known = [value for value in steps if value is not None]
    return float(np.mean(known)) if known else None


VALUES = (
    Value("psnr", "Luma PSNR, dB", _mean_of("psnr"), 2, True),
    Value("ssim", "Luma SSIM", _mean_of("ssim"), 4, True),
    Value("vmaf", "VMAF (v0.6.1)", _mean_of("vmaf"), 2, True),
    Value("vmaf_neg", "VMAF NEG (v0.6.1neg)", _mean_of("vmaf_neg"), 2, True),
    Value(
        "psnr_sd",
        "Fluctuation: standard deviation of the PSNR over time, dB",
        _swing,
        3,
        False,
    ),
    Value("psnr_peaks", "Fluctuation: peak to valley of the PSNR, dB", _peaks, 3, False),
    Value(
        "flicker",
        "Flicker of still areas, grey levels",
        _flicker,
        3,
        False,
        ("Mean |change of the row - change of the clean clip| where the clean one keeps still.",),
    ),
    Value(
        "flicker_key",
        "Flicker of still areas at key frames (pop), grey levels",
        _pop,
        3,
        False,
        ("Over the key frames after a clip's first frame; clips without one are left out.",),
    ),
)


def megabits(cap: int | None) -> str:
    """Return a cap as FFmpeg spells it: 1.5M."""
    return "no cap" if cap is None else f"{cap / 1e6:g}M"


def column_label(column: Column, evaluation: Evaluation) -> str:
    """Return what stands over a column; the cap only where a CRF has several columns."""
    crf, caps = column
    if crf is None:
        return "the pair"
    quality = f"{CODECS[evaluation.codec].scale} {crf}"
    if sum(other == crf for other, _ in evaluation.columns) == 1:
        return quality
    return f"{quality}, {'/'.join(megabits(cap) for cap in caps)}"


def compressed_by(evaluation: Evaluation) -> str:
    """Return which encoder made the variants, as the end of a phrase; nothing of a given pair."""
    return f", compressed by {CODECS[evaluation.codec].encoder}" if evaluation.codec else ""


def row_names(evaluation: Evaluation) -> list[str]:
    """Return the rows in their order."""
    first = next((result for clip in evaluation.clips for result in clip.results), None)
    return list(first.rows) if first else []


def find_result(clip: ClipResult, column: Column) -> Result | None:
    """Return a clip's result in a column, None if it has no such variant."""
    crf, caps = column
    wanted = (r for r in clip.results if r.variant.crf == crf and r.variant.cap == caps[0])
    return next(wanted, None)


def value_of(clip: ClipResult, column: Column, row: str, value: Value) -> float | None:
    """Return one number of a clip: mean over its frames, or what the value's name says."""
    result = find_result(clip, column)
    return value.reduce(result, result.rows[row]) if result and row in result.rows else None


def mean_of_clips(evaluation: Evaluation, column: Column, row: str, value: Value) -> float | None:
    """Return the mean over the clips, each counted once whatever its length."""
    numbers = [value_of(clip, column, row, value) for clip in evaluation.clips]
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known else None


def value_table(evaluation: Evaluation, value: Value) -> Table | None:
    """Return the table of one value; None if it was not measured anywhere."""
    rows = []
    for name in row_names(evaluation):
        cells = []
        for column in evaluation.columns:
            number = mean_of_clips(evaluation, column, name, value)
            base = mean_of_clips(evaluation, column, DECODE, value)
            known = number is not None and base is not None and name != DECODE
            cells.append(Cell(number, number - base if known else None))  # type: ignore[operator]
        rows.append((name, tuple(cells)))
    if all(cell.value is None for _, cells in rows for cell in cells):
        return None
    labels = tuple(column_label(column, evaluation) for column in evaluation.columns)
    return Table(
        value.key, value.title, labels, tuple(rows), value.digits, value.higher, value.notes
    )


def variants_table(evaluation: Evaluation) -> Table:
    """Return what the variants cost: mean bitrate and QP, and how often a cap was felt."""
    lines: dict[str, list[Cell]] = {
        "bitrate, kb/s": [],
        "mean QP": [],
        "pictures at the cap, %": [],
    }
    for column in evaluation.columns:
        found = [find_result(clip, column) for clip in evaluation.clips]
        variants = [result.variant for result in found if result]
        shares = [100 * v.cap_share for v in variants if v.cap_share is not None]
        for cells, numbers in zip(
            lines.values(),
            ([v.kbps for v in variants], [v.mean_qp for v in variants if v.mean_qp], shares),
            strict=True,
        ):
            cells.append(Cell(float(np.mean(numbers)) if numbers else None))
    labels = tuple(column_label(column, evaluation) for column in evaluation.columns)
    rows = tuple((name, tuple(cells)) for name, cells in lines.items())
    notes = []
    joined = [column for column in evaluation.columns if len(column[1]) > 1]
    if joined:
        caps = ", ".join(megabits(cap) for cap in joined[0][1])
        notes.append(
            f"Columns of a CRF whose caps ({caps}) no clip came near are printed once, measured at"
            f" the first; the decodes of such twins differ by at most {evaluation.spread:.3f} dB."
        )
    title = f"The compressed variants{compressed_by(evaluation)}"
    return Table("variants", title, labels, rows, 1, None, tuple(notes), "mean")


def bd_rate_table(evaluation: Evaluation) -> Table | None:
    """Return the bitrate saved at equal quality against the decode, in per cent."""
    series = _rate_series(evaluation.columns)
    names = [name for name in row_names(evaluation) if name != DECODE]
    means, left_out = [], []
    for quality in (value for value in VALUES if value.key in ("psnr", "ssim", "vmaf_neg")):
        for caps, columns in series.items():
            mean, missing = _mean_bd_rates(evaluation, columns, names, quality)
            title = quality.key.upper().replace("_", " ")
            label = f"{title}{f', {caps}' if len(series) > 1 else ''}"
            means.append((label, mean))
            if missing:
                left_out.append(f"{label} {missing}")
    if not left_out and not any(mean for _, mean in means):
        return None
    rows = tuple((name, tuple(Cell(mean.get(name)) for _, mean in means)) for name in names)
    notes = [
        "Bitrate of the compressed video at equal quality after the filter, mean over the clips;"
        " negative saves bits. A clip is left out of a column, for all rows, where the quality of"
        " one falls as the bitrate rises, or none is shared with the decode."
    ]
    if left_out:
        notes.append(f"Clips left out: {', '.join(left_out)} of {len(evaluation.clips)}.")
    labels = tuple(label for label, _ in means)
    return Table("bd_rate", "BD-rate against the decode, %", labels, rows, 1, False, tuple(notes))


def _rate_series(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return the columns of each cap over all CRFs, caps with the same columns joined."""
    caps = list(dict.fromkeys(cap for _, group in columns for cap in group))
    joined: dict[tuple[Column, ...], list[int | None]] = {}
    for cap in caps:
        joined.setdefault(tuple(c for c in columns if cap in c[1]), []).append(cap)
    return {
        "/".join(megabits(cap) for cap in group): list(series) for series, group in joined.items()
    }


def _mean_bd_rates(
    evaluation: Evaluation, columns: Sequence[Column], names: Sequence[str], value: Value
) -> tuple[dict[str, float], int]:
    """Return the mean of each row over the same clips, and how many clips that leaves out.

    A row that no clip has a rate of leaves none out, and is not among the means.
    """
    found = [
        {name: rate for name in names if (rate := _bd_rate(clip, columns, name, value)) is not None}
        for clip in evaluation.clips
    ]
    compared = {name for rates in found for name in rates}
    whole = [rates for rates in found if rates.keys() == compared]
    missing = len(found) - len(whole) if compared else 0
    if not whole:
        return {}, missing
    return {n: float(np.mean([rates[n] for rates in whole])) for n in compared}, missing


def _bd_rate(clip: ClipResult, columns: Sequence[Column], row: str, value: Value) -> float | None:
    points = []
    for column in columns:
        result = find_result(clip, column)
        base, test = (value_of(clip, column, name, value) for name in (DECODE, row))
        if result and base is not None and test is not None:
            points.append((result.variant.kbps, base, test))
    rates, reference, filtered = ([p[i] for p in points] for i in range(3))
    return bd_rate(rates, reference, rates, filtered)


def quality_tables(evaluation: Evaluation) -> list[Table]:
    """Return every table but the detector's, the paper's two first."""
    tables = [value_table(evaluation, value) for value in VALUES]
    known = [table for table in tables if table is not None]
    rate = bd_rate_table(evaluation)
    return [*known, *([rate] if rate else []), variants_table(evaluation)]


def clip_tables(evaluation: Evaluation, rows: Sequence[str]) -> list[Table]:
    """Return the gains of some rows in PSNR and SSIM clip by clip; nothing for a single clip."""
    if len(evaluation.clips) < 2:
        return []
    values = [value for value in VALUES if value.key in ("psnr", "ssim")]
    return [_clip_table(evaluation, row, value) for row in rows for value in values]


def _clip_table(evaluation: Evaluation, row: str, value: Value) -> Table:
    rows = []
    for clip in evaluation.clips:
        cells = []
        for column in evaluation.columns:
            number, base = (value_of(clip, column, name, value) for name in (row, DECODE))
            known = number is not None and base is not None
            gain = number - base if known else None  # type: ignore[operator]
            cells.append(Cell(gain, text=None if gain is None else signed(gain, value.digits)))
        rows.append((clip.name, tuple(cells)))
    labels = tuple(column_label(column, evaluation) for column in evaluation.columns)
    title = f"Clip by clip: {row} minus decode, {value.title}"
    key = f"clips_{row}_{value.key}"
    return Table(key, title, labels, tuple(rows), value.digits, None, (), "clip")
