"""What carfilter-degrade and carfilter-train show on stderr: bars for people, lines for logs."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
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


@contextmanager
def clip_progress(total: int) -> Iterator[Callable[[str, str | None], None]]:
    """Show how many clips are done; what is yielded takes a clip's name and its error, if any."""
    console = Console(stderr=True, emoji=False)
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
    console = Console(stderr=True, highlight=False, emoji=False)
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


def print_scores(rows: Sequence[tuple[str, float, float, float]], title: str) -> None:
    """Print mean gains over the decode to stdout.

    Args:
        rows: of by_crf(): CRF, mean PSNR gain, smallest PSNR gain of a clip, mean SSIM gain.
    """
    table = Table(title=title)
    for heading in ("CRF", "PSNR gain dB", "least of a clip", "SSIM gain"):
        table.add_column(heading, justify="right")
    for crf, gain, least, like in rows:
        table.add_row(crf, f"{gain:+.3f}", f"{least:+.3f}", f"{like:+.4f}")
    Console(emoji=False).print(table)


def save_curve(out: Path) -> bool:
    """Draw OUT.csv and OUT.scores.csv as OUT.png; return False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    course, scores = (_read_rows(out.with_suffix(end)) for end in (".csv", ".scores.csv"))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in course], [row["loss"] for row in course], linewidth=0.7)
    left.set(xlabel="step", ylabel="loss", yscale="log", title=out.name)
    names = [name for name in (scores[0] if scores else {}) if name.count("_") == 1]
    for name in names:
        style = ":" if name.startswith("blind") else "-"
        steps, gains = [row["step"] for row in scores], [row[name] for row in scores]
        right.plot(steps, gains, style, marker=".", label=name.replace("_", " CRF "))
    right.axhline(0, color="gray", linewidth=0.5)
    right.set(xlabel="step", ylabel="PSNR gain, dB", title="validation")
    if names:
        right.legend(fontsize=6, ncols=2)
    figure.savefig(out.with_suffix(".png"), dpi=110)
    return True


def _read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [  # what was scored on other packs has no value here
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
