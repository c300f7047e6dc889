"""The course of a training run as CSV files that a resumed run continues."""

import csv
from pathlib import Path
from typing import Any


class TrainingLog:
    """OUT.csv with the course of training and OUT.scores.csv beside it; continued on resume."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.scores = path, path.with_suffix(".scores.csv")
        for file in (self.path, self.scores):
            _cut_after(file, step)

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


def _cut_after(path: Path, step: int) -> None:
    """Drop what a killed run had logged after its last save; all of it if a new run starts."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    path.unlink()
    for row in rows if step else []:
        _append(path, row)
