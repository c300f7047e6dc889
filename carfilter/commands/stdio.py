"""stdin, stdout and stderr, when one of them is closed or its other end goes away."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MODES = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}  # what goes to a closed stdout is lost


def outlive_stderr() -> None:
    """Let the process go on when nobody reads its messages any more.

    The terminal or the logging program may end before the work does. Call it once, before anything
    is printed. Numbers of streams that were closed are kept from the files that are opened later.
    """
    for number, mode in _MODES.items():
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # takes the lowest number that is free
    if sys.stderr is not sys.__stderr__ or sys.__stderr__ is None:
        return  # there is none, or the program has put another in its place
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lasting(2, "w", closefd=False)),
        encoding=sys.__stderr__.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


class _Lasting(io.FileIO):
    """What cannot be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:  # as it is where the other end takes no more at the moment
                return written
        return memoryview(data).nbytes


def drop_stdout() -> None:
    """Let what is still to be flushed to a stdout that has gone vanish, without a complaint."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
