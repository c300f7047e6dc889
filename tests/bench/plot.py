"""Draw the scaling that was measured: resolution, length, cores and batch.

    python -m tests.bench.plot OUT.png FILE.json...

FILE.json are what `python -m tests.bench scaling length --json FILE.json` wrote.
"""

import json
import sys
from pathlib import Path
from typing import Any

from .rows import Row

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe & Ito
_LINEAR: dict[str, Any] = {"color": "#999999", "linewidth": 1, "linestyle": ":", "zorder": 0}


def draw(rows: list[Row], target: Path) -> None:
    """Write the picture; `rows` of other parts than the scaling are passed over."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained", dpi=110)
    panels = figure.subplots(2, 2)
    _resolution(panels[0][0], _against(rows, "resolution"))
    if length := _against(rows, "length"):
        _length(panels[0][1], length)
    else:  # measured apart, since it takes minutes
        panels[0][1].set_visible(False)
    _cores(panels[1][0], _against(rows, "cores"))
    _batch(panels[1][1], _against(rows, "batch"))
    for panel in panels.flat:
        panel.grid(color="#e6e6e6")
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_axisbelow(True)
    figure.savefig(target)


def _against(rows: list[Row], what: str) -> dict[str, list[Row]]:
    """Return the rows of a panel by model."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["part"] == "scaling" and row["against"] == what:
            found.setdefault(row["model"], []).append(row)
    return found


def _resolution(panel: Any, models: dict[str, list[Row]]) -> None:
    for colour, (model, rows) in zip(_COLOURS, models.items(), strict=False):
        pixels, ms = [r["pixels"] for r in rows], [r["ms_per_frame"] for r in rows]
        panel.loglog(pixels, ms, "o-", color=colour, label=model)
        panel.loglog(pixels, [ms[1] * p / pixels[1] for p in pixels], **_LINEAR)
        panel.set_xticks(pixels, [r["size"] for r in rows], rotation=20, fontsize=8)
        panel.minorticks_off()
    panel.set(title="Network against resolution (dotted: linear)", ylabel="ms per frame")
    panel.legend(frameon=False)


def _length(panel: Any, models: dict[str, list[Row]]) -> None:
    memory = panel.twinx()
    panel.set_xscale("log")  # before the ticks, which it would replace
    most = most_mb = 0.0
    for colour, (model, rows) in zip(_COLOURS, models.items(), strict=False):
        frames = [r["frames"] for r in rows]
        panel.plot(frames, [r["ms_per_frame"] for r in rows], "o-", color=colour, label=model)
        memory.plot(frames, [r["peak_mb"] for r in rows], "s--", color=colour, markersize=4)
        most = max(most, *(r["ms_per_frame"] for r in rows))
        most_mb = max(most_mb, *(r["peak_mb"] for r in rows))
        panel.set_xticks(frames, [f"{n:,}" for n in frames])
    size = next((rows[0]["size"] for rows in models.values()), "")
    panel.set(title=f"Whole tool against length, {size}", xlabel="frames",
              ylabel="ms per frame (solid)", ylim=(0, 1.3 * most or 1))  # fmt: skip
    panel.minorticks_off()
    memory.set(ylabel="peak of memory, MB (dashed)", ylim=(0, 1.2 * most_mb or 1))
    memory.spines[["top"]].set_visible(False)


def _cores(panel: Any, models: dict[str, list[Row]]) -> None:
    for colour, (model, rows) in zip(_COLOURS, models.items(), strict=False):
        cores = [r["threads"] for r in rows]
        speed = [rows[0]["ms_per_frame"] / r["ms_per_frame"] for r in rows]
        panel.plot(cores, speed, "o-", color=colour, label=model)
        panel.plot(cores, cores, **_LINEAR)
        panel.set_xticks(cores)
    size = next((rows[0]["size"] for rows in models.values()), "")
    panel.set(title=f"Network against cores, {size} (dotted: linear)", xlabel="cores",
              ylabel="times the speed of one", ylim=(0, None))  # fmt: skip


def _batch(panel: Any, models: dict[str, list[Row]]) -> None:
    for colour, (model, rows) in zip(_COLOURS, models.items(), strict=False):
        for size, line in zip(dict.fromkeys(r["size"] for r in rows), ("o-", "s--"), strict=False):
            own = [r for r in rows if r["size"] == size]
            batches = [r["batch"] for r in own]
            panel.plot(batches, [r["ns_per_pixel"] for r in own], line, color=colour,
                       label=f"{model}, {size}")  # fmt: skip
            panel.set_xticks(batches)
    panel.set(title="Network against batch", xlabel="frames in a batch",
              ylabel="ns per pixel", ylim=(0, None))  # fmt: skip
    panel.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw what the files hold."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    rows = [row for name in sys.argv[2:] for row in json.loads(Path(name).read_text())]
    draw(rows, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
