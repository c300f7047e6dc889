"""stdin, stdout and stderr, when one of them is closed, full or its other end goes away."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from carfilter.errors import CarfilterError, needing_torch

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MODES = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}  # what goes to a closed stdout is lost
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # said of no file by name


class Command(click.Command):
    """A command that outlives its stderr, and says so where stdout fails or torch is missing."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it as click does, and end the process."""
        outlive_stderr()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # no name and no bar ends a command
        try:
            with needing_torch(str(self.name)):
                return super().main(*args, **extra)
        except CarfilterError as error:
            sentence = str(error)
        except OSError as error:
            if error.filename is not None or error.errno not in _FULL:
                raise
            drop_stdout()
            sentence = f"stdout: cannot be written ({error.strerror}); make room there"
        click.echo(f"{self.name}: error: {sentence}", err=True)
        sys.exit(1)


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
