"""The course of a training run as CSV files that a resumed run continues."""

import csv
from pathlib import Path
from typing import Any

from carfilter.errors import CarfilterError


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
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _cut_after(path: Path, step: int, column: str) -> None:
    """Drop what a killed run had logged after its last save; all of it if a new run starts.

    Args:
        column: that a file of ours has.
    """
    if not path.exists():
        return
    rows = _rows_until(path, step, column) if step else []
    path.unlink()
    for row in rows:
        _append(path, row)


def _rows_until(path: Path, step: int, column: str) -> list[dict[str, Any]]:
    try:
        with path.open(newline="") as file:
            course = csv.DictReader(file)
            if course.fieldnames and column not in course.fieldnames:
                raise KeyError(column)
            return [row for row in course if int(row["step"]) <= step]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise CarfilterError(
            f"{path}: is not the course of this training; move it away to go on"
        ) from error
