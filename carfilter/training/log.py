"""The course of a training run as CSV files that a resumed run continues."""

import csv
from pathlib import Path
from typing import Any

from carfilter.errors import CarfilterError
from carfilter.unfinished import written_whole


class TrainingLog:
    """OUT.csv with the course of training and OUT.scores.csv beside it; continued on resume."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.scores = path, path.with_suffix(".scores.csv")
        _cut_after(self.path, step, "loss")
        _cut_after(self.scores, step, "step")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row of OUT.csv."""
        _append(self.path, row)

    def write_score(self, row: dict[str, Any]) -> None:
        """Append a row of OUT.scores.csv."""
        _append(self.scores, row)


def _append(path: Path, row: dict[str, Any]) -> None:
    known = _columns(path)
    columns = list(dict.fromkeys([*known, *row]))
    if known == columns:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)
        return
    _write(path, columns, [*(_rows(path) if known else ()), row])  # the first, or of other packs


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a whole file, which a kill leaves as it was."""
    with written_whole(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")  # cells beyond the columns
        writer.writeheader()
        writer.writerows(rows)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file).fieldnames or ())


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _cut_after(path: Path, step: int, column: str) -> None:
    """Drop what a killed run had logged after its last save; all of it if a new run starts.

    Args:
        column: that a file of ours has.

    Raises:
        CarfilterError: it is another file.
    """
    if not step:
        path.unlink(missing_ok=True)
        return
    try:
        columns = _columns(path)
        if columns and column not in columns:
            raise KeyError(column)
        kept = [row for row in (_rows(path) if columns else ()) if int(row["step"]) <= step]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise CarfilterError(
            f"{path}: is not the course of this training; move it away to go on"
        ) from error
    if columns:
        _write(path, columns, kept)
