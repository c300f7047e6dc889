"""An inspection on the terminal: facts, sparklines, what matters; a table for several files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from carfilter.commands.display import passing_bar, wide_in_a_pipe

if TYPE_CHECKING:
    from carfilter.inspection.inspection import Inspection

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 60
_PIPE_WIDTH, _WIDE = 160, 110  # of tables, in characters
_DETAILS = ("length", "video", "camera")  # left out where there is less room; a file alone has them
_STYLES = {"good": ("green", "+"), "note": ("cyan", "i"), "warning": ("yellow", "!")}


class InspectDisplay:
    """Print results to stdout, unless programs read there, and what goes on to stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._out = Console(highlight=False, emoji=False)
        self._err = Console(stderr=True, highlight=False, emoji=False)

    def note(self, text: str) -> None:
        """Say something that is no result."""
        self._err.print(f"carfilter: {text}", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def passing(self, files: int) -> Iterator[Callable[[Path], None]]:
        """Show a bar on a terminal; call what it yields after each file."""
        if not self._err.is_terminal or self._quiet:
            yield lambda _: None
            return
        with passing_bar(self._err) as bar:
            task = bar.add_task("looking", total=files, state="")
            yield lambda path: bar.update(task, advance=1, state=escape(path.name[-40:]))

    def show(self, seen: Inspection) -> None:
        """Print one inspection."""
        if self._quiet:
            return
        from carfilter.inspection.summary import filter_lines, lines_of

        out = self._out
        out.print(Text(str(seen.path), style="bold"), soft_wrap=True)
        facts = _grid()
        width = max(min(_WIDEST, out.width - 24), 10)
        draws = not out.options.ascii_only  # else the encoding has no bars
        for name, text in lines_of(seen):
            facts.add_row(name, Text(text))
            if draws and name == "bit rate" and len(seen.coding.rates) > 1:
                facts.add_row("", Text(sparkline(seen.coding.rates, width), style="cyan"))
            if draws and name == "QP" and seen.qp is not None and len(seen.qp.over_time) > 1:
                values = [value for _, value in seen.qp.over_time]
                facts.add_row("", Text(sparkline(values, width), style="magenta"))
            if name.startswith("stream "):
                stream = seen.streams[int(name.split()[1])]
                facts.add_row("", Text(stream.sha256, style="dim"))
        out.print(facts)
        out.print()
        for finding in seen.findings:
            style, mark = _STYLES[finding.kind]
            line = Table.grid(padding=(0, 1))
            line.add_row(Text(f" {mark}", style=f"bold {style}"), Text(finding.text))
            out.print(line)
        if seen.filter is not None:
            out.print()
            plan = _grid()
            for name, text in filter_lines(seen.filter):
                plan.add_row(name, Text(text))
            out.print(plan)

    def show_table(
        self,
        seen: Sequence[tuple[Path, Inspection]],
        failed: Sequence[tuple[Path, str]],
    ) -> None:
        """Print a line a file."""
        from carfilter.inspection.summary import COLUMNS, row_of

        try:
            if not self._quiet:
                print_plan(self._out, COLUMNS, [row_of(one, str(path)) for path, one in seen])
        finally:  # whoever reads stdout may have left
            for path, reason in failed:
                self._err.print(f"carfilter: {path}: {reason}", markup=False, soft_wrap=True)


def print_plan(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of files: all of it to a pipe, and what matters to a narrow terminal."""
    console = wide_in_a_pipe(console, _PIPE_WIDTH)
    shown = [i for i, name in enumerate(columns) if console.width >= _WIDE or name not in _DETAILS]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    right = {"size", "length", "QP", "changed by", "takes"}
    for name in (columns[i] for i in shown):
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name in right,
        )
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    console.print(table)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=14)
    grid.add_column(overflow="fold")
    return grid


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a bar a step, from 0 to the largest value; each step is a mean."""
    count = min(width, len(values))
    steps = []
    for place in range(count):
        part = values[place * len(values) // count : (place + 1) * len(values) // count]
        steps.append(sum(part) / len(part))
    top = max(steps) or 1.0
    return "".join(_BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] for value in steps)
