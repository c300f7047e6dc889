"""What carfilter-eval shows: progress with the time left on stderr, tables on stdout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from carfilter.commands.display import wide_in_a_pipe
from carfilter.evaluation.tables import Table
from carfilter.evaluation.verdicts import Verdict

_MARKS = {True: "[green]met[/]", False: "[bold red]NOT MET[/]", None: "[dim]not tested[/]"}

_COLUMNS = 4  # side by side: the four CRFs of one cap
_PIPE_WIDTH = 140


@contextmanager
def eval_progress() -> Iterator[Callable[[str, int], None]]:
    """Show how much is done; what is yielded takes each finished step and the steps in all."""
    console = Console(stderr=True, emoji=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Steps that the cache answers would make the estimate too rosy: look back a few minutes only.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, speed_estimate_period=120
    ) as progress:
        task = progress.add_task("starting", total=None)

        def step(text: str, total: int) -> None:
            progress.update(task, advance=1, total=total, description=escape(text))

        yield step


def show_tables(tables: Sequence[Table]) -> None:
    """Print tables to stdout, a few columns at a time; gains are dim, the best is bold."""
    console = _console()
    for table in tables:
        for start in range(0, len(table.columns), _COLUMNS):
            console.print(rich_table(table, slice(start, start + _COLUMNS)))
        for note in table.notes:
            console.print(escape(note), style="dim")
        console.print()


def _console() -> Console:
    """Return a console on stdout, wide where it is no terminal but a file or a pipe."""
    return wide_in_a_pipe(Console(highlight=False, emoji=False), _PIPE_WIDTH)


def rich_table(table: Table, part: slice) -> RichTable:
    """Return some columns of a table for the terminal."""
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold")
    shown.add_column(table.corner)
    for column in table.columns[part]:
        shown.add_column(column, justify="right")
    for name, cells in table.rows:
        texts = []
        for index, cell in list(enumerate(cells))[part]:
            text = escape(table.text(cell))
            text = f"[bold green]{text}[/]" if table.is_best(cell, index) else text
            gain = table.gain_text(cell) if cell.text is None else ""
            texts.append(f"{text} [dim]{gain}[/]" if gain else text)
        shown.add_row(escape(name), *texts)
    return shown


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print each bar with whether it is met."""
    console = _console()
    for verdict in verdicts:
        console.print(f"{_MARKS[verdict.met]}: {escape(verdict.sentence)}")


def show_failures(failures: dict[str, str]) -> None:
    """Print to stderr which clips were left out and why."""
    console = Console(stderr=True, highlight=False, emoji=False)
    for name, reason in failures.items():
        console.print(f"[red]failed[/]: {escape(name)}: {escape(reason)}")
