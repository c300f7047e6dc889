"""What carfilter-degrade and carfilter-train show on stderr: bars for people, lines for logs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from carfilter.validation import Score, by_crf


@contextmanager
def clip_progress(total: int) -> Iterator[Callable[[str, str | None], None]]:
    """Show how many clips are done; what is yielded takes a clip's name and its error, if any."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("encoding", total=total)

        def done(clip: str, error: str | None) -> None:
            if error is not None:
                console.print(f"failed: {error}", style="red", highlight=False, markup=False)
            progress.update(task, advance=1, description=clip)

        yield done


@contextmanager
def training_progress(name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show the course of training; what is yielded takes the rows of the log."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=1.0, left="?")

        def show(row: dict[str, Any]) -> None:
            if "loss" not in row:
                gains = " ".join(
                    f"{key}:{value:+.3f}" for key, value in row.items() if key != "step"
                )
                console.print(f"step {row['step']} gain in dB {gains}", soft_wrap=True)
                return
            left = row["seconds"] * (1 / max(row["progress"], 1e-6) - 1)
            text = (
                f"{name} step {row['step']} loss {row['loss']:.4f} lr {row['lr']:.1e}"
                f" {row['samples_per_second']:.0f} samples/s"
            )
            clock = str(timedelta(seconds=round(left)))
            progress.update(task, completed=row["progress"], description=text, left=clock)
            if not console.is_terminal and row["step"] % 500 == 0:
                console.print(f"{text} gradient {row['gradient']:.2f} {clock} left", soft_wrap=True)

        yield show


def print_scores(scores: list[Score], *, blind: bool) -> None:
    """Print gains over the decode per CRF to stdout, and the smallest gain of any clip."""
    table = Table(title="QP unknown" if blind else "QP known")
    for heading in ("CRF", "PSNR gain dB", "least of a clip", "SSIM gain"):
        table.add_column(heading, justify="right")
    for crf, gain, least, like in by_crf(scores):
        table.add_row(str(crf), f"{gain:+.3f}", f"{least:+.3f}", f"{like:+.4f}")
    Console().print(table)
