"""Progress for programs: FFmpeg's key=value blocks, and the keys that are ours."""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from carfilter.commands.stdio import drop_stdout
from carfilter.errors import CarfilterError
from carfilter.run.sidecar import sidecar_of
from carfilter.unfinished import check_outputs, is_stdout

if TYPE_CHECKING:
    from carfilter.run.account import Run


logger = logging.getLogger("carfilter")


class ProgressWriter:
    """Write a block each `period_seconds` and one at the end, as `ffmpeg -progress` does.

    Args:
        where: a file, "-" or "pipe:1" for stdout, "pipe:N" for an inherited descriptor.
        source, target: what is read and written beside it, as the command has them.

    Raises:
        CarfilterError: it cannot be opened, stdout is taken, or it is the source or the target.
    """

    def __init__(
        self, where: str, period_seconds: float, source: str, target: str, *, sidecar: bool = False
    ) -> None:
        _check(where, source, target, sidecar=sidecar)
        self._where = where
        self._file: TextIO | None = _open(where)
        self._period = period_seconds
        self._next = 0.0

    def __call__(self, run: "Run") -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._period
            self._write(run, "continue")

    def close(self, run: "Run") -> None:
        """Write the last block and let go of the file."""
        self._write(run, "end")
        self._let_go()

    def _write(self, run: "Run", state: str) -> None:
        seconds = max(run.video_seconds, 0.0)
        microseconds = round(seconds * 1e6)
        speed = seconds / run.elapsed_seconds if run.elapsed_seconds else 0.0
        infer = run.busy_seconds.get("network")
        bitrate = run.bytes_written * 8 / seconds / 1000 if seconds else 0.0
        minutes, rest = divmod(seconds, 60)
        pairs = {
            "frame": run.frames,
            "fps": f"{run.fps:.2f}",
            "bitrate": f"{bitrate:.1f}kbits/s",
            "total_size": run.bytes_written,
            "out_time_us": microseconds,
            "out_time_ms": microseconds,  # FFmpeg's key of this name holds microseconds, too
            "out_time": f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{rest:09.6f}",
            "dup_frames": 0,
            "drop_frames": 0,
            "speed": f"{speed:.3g}x",
            "infer_fps": f"{run.frames / infer:.2f}" if infer else "N/A",
            "passed_frames": run.passed,
            "reconnects": run.reconnects,
            "eta_s": "N/A" if (left := eta_seconds(run)) is None else f"{left:.0f}",
            "progress": state,
        }
        if self._file is None:
            return
        try:
            self._file.write("".join(f"{key}={value}\n" for key, value in pairs.items()))
            self._file.flush()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            logger.warning(
                "-progress %s: cannot be written any more (%s); the work goes on",
                self._where,
                reason,
            )
            self._let_go()

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is sys.stdout:
            with contextlib.suppress(OSError, ValueError):
                file.flush()
                return
            drop_stdout()
        elif file is not None and file is not sys.stderr:
            with contextlib.suppress(OSError, ValueError):
                file.close()


def eta_seconds(run: "Run") -> float | None:
    """Estimate the seconds left from the video time done; None where the length is unknown."""
    if not run.seconds_expected or run.video_seconds <= 0:
        return None
    left = max(run.seconds_expected - run.video_seconds, 0.0)
    return left * run.elapsed_seconds / run.video_seconds


def _check(where: str, source: str, target: str, *, sidecar: bool) -> None:
    """Refuse what the video needs, before opening it would empty it."""
    if where in ("-", "pipe:1", "pipe:"):
        if is_stdout(target):
            raise CarfilterError(
                f"-progress {where}: stdout carries the video; use pipe:2 or a file"
            )
    elif not where.startswith("pipe:"):
        read = "/dev/stdin" if source in ("-", "pipe:0", "pipe:") else source
        outputs = [_path(where)] if is_stdout(target) else [_path(where), _path(target)]
        outputs += [sidecar_of(_path(target))] if sidecar else []
        check_outputs(outputs, [_path(read)])


def _path(name: str) -> Path:
    return Path(name.removeprefix("file:"))


def _open(where: str) -> TextIO:
    try:
        if where in ("-", "pipe:1", "pipe:"):
            return _as_opened(sys.stdout)
        if where == "pipe:2":
            return _as_opened(sys.stderr)
        if where.startswith("pipe:"):
            return os.fdopen(int(where[5:]), "w")
        return _path(where).open("w")
    except (OSError, ValueError) as error:
        raise CarfilterError(f"-progress {where}: cannot be written ({error})") from error


def _as_opened(stream: TextIO | None) -> TextIO:
    if stream is None:
        raise ValueError("it is closed")
    return stream
