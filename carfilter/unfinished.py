"""Names of files that are not finished, and the folder that has to take them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carfilter.errors import MediaError


def part_of(path: Path) -> Path:
    """Return the hidden name under which a file grows, with its ending, which says the format."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


def partial_of(path: Path) -> Path:
    """Return the name of what an interrupted run leaves."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a hidden name to write to, whose ending nobody looks for; `path` has it at the end."""
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)


def check_folder_of(path: Path) -> None:
    """Refuse a file that could not be made.

    Raises:
        MediaError: its folder does not exist or cannot be written to.
    """
    if not path.parent.is_dir():
        raise MediaError(f"{path}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise MediaError(f"{path}: its folder cannot be written to; choose another")
