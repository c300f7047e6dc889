"""Charts over time as SVG text, for pages that load nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from carfilter.pages.numbers import clock

# Okabe & Ito's palette, told apart by colour-blind readers, https://jfly.uni-koeln.de/color/
TYPE_COLOURS = {"I": "#D55E00", "P": "#0072B2", "B": "#56B4E9", "": "#777777", "S": "#009E73"}
_WIDTH, _HEIGHT = 1000, 170  # of the drawing; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 10, 24
_TICKS = 6


def stacked(steps: Mapping[str, Sequence[float]], seconds: float, unit: str, about: str) -> str:
    """Draw a bar for each step of time, stacked by the types of pictures.

    Args:
        steps: the height of each step's part by type, in the unit of the axis.
    """
    count = max((len(values) for values in steps.values()), default=0)
    top = max((sum(v[i] for v in steps.values()) for i in range(count)), default=0.0) or 1.0
    width = _across(1) / max(count, 1)
    marks = []
    floor = [0.0] * count
    for kind, values in steps.items():
        rows = []
        for at, value in enumerate(values):
            if value > 0:
                upper = _down((floor[at] + value) / top)
                height = _down(floor[at] / top) - upper
                x, wide = _LEFT + at * width, width * 0.9
                rows.append(f"M{x:.1f} {upper:.1f}h{wide:.1f}v{height:.1f}h-{wide:.1f}z")
            floor[at] += value
        marks.append(f'<path d="{"".join(rows)}" fill="{TYPE_COLOURS.get(kind, "#777")}"/>')
    return _chart("".join(marks), seconds, 0.0, top, unit, about)


def dots(
    points: Sequence[tuple[float, float, str]],
    seconds: float,
    bounds: tuple[float, float],
    unit: str,
    about: str,
) -> str:
    """Draw (seconds, value, type) as dots in the colour of their type."""
    low, high = bounds
    by_kind: dict[str, list[str]] = {}
    for at, value, kind in points:
        x = _LEFT + _across(min(max(at / seconds, 0.0), 1.0)) if seconds else _LEFT
        y = _down((min(max(value, low), high) - low) / (high - low))
        by_kind.setdefault(kind, []).append(f"M{x:.1f} {y:.1f}h0")
    marks = "".join(
        f'<path d="{"".join(places)}" stroke="{TYPE_COLOURS.get(kind, "#777")}" stroke-width="5"'
        ' stroke-linecap="round" fill="none"/>'
        for kind, places in by_kind.items()
    )
    return _chart(marks, seconds, low, high, unit, about)


def _across(share: float) -> float:
    return share * (_WIDTH - _LEFT - _RIGHT)


def _down(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _chart(marks: str, seconds: float, low: float, high: float, unit: str, about: str) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = _down(share)
        value = _number(low + share * (high - low)) + (f" {unit}" if share == 1.0 else "")
        lines.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
        )
    for tick in range(_TICKS + 1):
        x = _LEFT + _across(tick / _TICKS)
        end = "end" if tick == _TICKS else "start" if tick == 0 else "middle"
        at = seconds * tick / _TICKS
        label = clock(at) if seconds >= 30 else f"{at:.3g} s"
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{end}">{label}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(about)}"'
        f' class="chart">{"".join(lines)}{marks}</svg>'
    )
