"""Plots of an evaluation as SVG text for the report: quality over time and over bitrate."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import CarfilterError
from carfilter.evaluation.evaluate import ClipResult, Evaluation
from carfilter.evaluation.prepared import Column
from carfilter.evaluation.tables import (
    DECODE,
    VALUES,
    Value,
    column_label,
    find_result,
    mean_of_clips,
    row_names,
)

# Okabe & Ito's palette, told apart by colour-blind readers, https://jfly.uni-koeln.de/color/
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00")
_DECODE_COLOUR = "#555555"
_STYLE: Any = {
    "svg.fonttype": "none",  # the page's typeface
    "svg.hashsalt": "carfilter",  # the same page for the same values
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#e6e6e6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def _figure(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Yield figure and axes without any display or global state left behind."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CarfilterError("--report needs matplotlib; pip install carfilter[eval]") from error
    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        figure.set_size_inches(kwargs.pop("size"))
        yield figure, figure.subplots(*args, **kwargs)


def _svg(figure: Any, salt: str) -> str:
    """Return the figure as an svg element whose ids are its own on a page with others."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Group ids (figure_1, line2d_3) repeat from figure to figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # Let the page scale it: the viewBox stays, the fixed size goes.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1).replace(
        ' height="', ' data-height="', 1
    )


def colours(rows: Sequence[str]) -> dict[str, str]:
    """Return a colour for each row, gray for the decode."""
    others = [row for row in rows if row != DECODE]
    chosen = {row: _COLOURS[index % len(_COLOURS)] for index, row in enumerate(others)}
    return {DECODE: _DECODE_COLOUR, **chosen}


def quality_over_rate(evaluation: Evaluation) -> str:
    """Return PSNR and SSIM, and their gains, over the mean bitrate of the columns.

    Nothing for a single column, which makes no curve.
    """
    if len(evaluation.columns) < 2:
        return ""
    values = [value for value in VALUES if value.key in ("psnr", "ssim")]
    rows = row_names(evaluation)
    colour = colours(rows)
    rates = [_mean_rate(evaluation, column) for column in evaluation.columns]
    with _figure(2, 2, size=(9, 5.6), sharex=True) as (figure, axes):
        for (above, below), value in zip(axes.T, values, strict=True):
            curves = {row: _curve(evaluation, row, value) for row in rows}
            for row, curve in curves.items():
                order = np.argsort(rates)
                at, gain = np.array(rates)[order], curve - curves[DECODE]
                above.plot(at, curve[order], "o-", color=colour[row], label=row, ms=4)
                below.plot(at, gain[order], "o-", color=colour[row], ms=4)
            above.set_title(value.title)
            below.set_title(f"{value.title}: gain over the decode")
            below.set_xscale("log")
            below.set_xlabel("bitrate, kb/s (mean of the clips)")
            _plain_ticks(below, rates)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(rows), 6))
        return _svg(figure, "rate")


def _curve(evaluation: Evaluation, row: str, value: Value) -> npt.NDArray[np.float64]:
    numbers = [mean_of_clips(evaluation, column, row, value) for column in evaluation.columns]
    return np.array([np.nan if number is None else number for number in numbers])


def _plain_ticks(panel: Any, rates: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    panel.xaxis.set_major_locator(FixedLocator(sorted(rates)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(sorted(rates), [f"{rate:.0f}" for rate in sorted(rates)])


def _mean_rate(evaluation: Evaluation, column: Column) -> float:
    results = [find_result(clip, column) for clip in evaluation.clips]
    return float(np.mean([result.variant.kbps for result in results if result]))


def quality_over_time(clip: ClipResult, evaluation: Evaluation) -> str:
    """Return the PSNR of each frame of a clip, a panel for each column; key frames are marked."""
    pairs = [(column, find_result(clip, column)) for column in evaluation.columns]
    results = [(column, result) for column, result in pairs if result is not None]
    across = min(2, len(results))
    down = -(-len(results) // across)
    colour = colours(list(results[0][1].rows))
    with _figure(down, across, size=(9, 2.3 * down + 0.4), squeeze=False, sharex=True) as (
        figure,
        axes,
    ):
        for panel in axes.flat[len(results) :]:
            panel.set_visible(False)
        for panel, (column, result) in zip(axes.flat, results, strict=False):
            for frame in result.key_frames:
                panel.axvline(frame, color="#bbbbbb", lw=0.8, ls=":")
            for row, values in result.rows.items():
                panel.plot(values["psnr"], color=colour[row], label=row, lw=1.2)
            panel.set_title(column_label(column, evaluation))
            panel.margins(x=0.01)
        for panel in axes[-1]:
            panel.set_xlabel("frame (dotted: key frames)")
        for panel in axes[:, 0]:
            panel.set_ylabel("PSNR, dB")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(colour), 6))
        return _svg(figure, clip.name)
