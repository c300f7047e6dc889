"""Segments of a recording: each file grows under a hidden name; with its own it is complete.

FFmpeg's segment muxer decides where to cut and how to call the files; each is asked for here.
"""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from carfilter.errors import MediaError
from carfilter.unfinished import begin, check_folder_of, check_outputs, partial_of, place

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FORMATS = ("segment", "stream_segment", "ssegment")
_CUTTING = ("segment_time", "strftime", "reset_timestamps", "flush_packets", "fflags")
_NO_NEGATIVE_TIMES = (".ts", ".m2ts", ".mts")
_DEFAULT_SECONDS = 2.0  # FFmpeg's
_INEXACT = 1e-6  # seconds, by which differences of times come out too small
_WRITE = 2  # AVIO_FLAG_WRITE
_NUMBER = re.compile(r"%\d*d")


class Segments:
    """Name and store the files of one run.

    Args:
        pattern: a path whose last part holds a %d, or a time as strftime writes it.
        options: of the muxer; `segment_time` and `strftime` are read here.
        source: what is read meanwhile.
        overwrite: replace files of the same name, the source apart; else times that repeat get
            a number.

    Raises:
        MediaError: the names would repeat, their folder cannot be written to, or they exist, or
            one is the source's.
    """

    def __init__(
        self, pattern: Path, options: dict[str, str], source: Path, *, overwrite: bool
    ) -> None:
        self.pattern, self.overwrite, self._source = pattern, overwrite, source
        self.seconds = _as_seconds(options.get("segment_time"))
        self.failure: OSError | None = None  # of the first file that could not be written
        self.interrupted = False  # what is open then ends as NAME.partial.EXT
        self.partial: Path | None = None
        self._cut_off = pattern  # what `partial` would be called if it were complete
        self._first_seconds = 0.0  # of the first frame
        self._growing: dict[Path, Path] = {}  # hidden files by the names they will have
        self._by_time = options.get("strftime", "0") not in ("0", "false")
        self._check()

    def open(self, url: str, flags: int, options: dict[str, str]) -> BinaryIO:  # noqa: ARG002
        """Open a file for the muxer, which closes it when it is complete (PyAV's io_open).

        It never fails, and neither do these files, since PyAV would print a traceback: see
        `failure`.
        """
        path = Path(url)
        if not flags & _WRITE:  # MP4's faststart moves what it has written
            return self._growing[path].open("rb")
        try:
            if self.partial is not None:  # another one follows, so it was complete
                self._place(self.partial, self._cut_off)
                self.partial = None
            part = begin(path)
        except OSError as error:
            self.failure = self.failure or error
            part = Path(os.devnull)
        self._growing[path] = part
        return _Segment(part, path, self)

    def muxer_options(self, given: dict[str, str]) -> dict[str, str]:
        """Share options out between the muxer that cuts and that of the files."""
        cutting = {key: value for key, value in given.items() if key in _CUTTING}
        inner = {key: value for key, value in given.items() if key not in _CUTTING}
        if self.pattern.suffix.lower() not in _NO_NEGATIVE_TIMES:
            # By default the first file alone is shifted, by the priming of its audio.
            cutting["avoid_negative_ts"] = inner["avoid_negative_ts"] = "disabled"
        if inner:
            cutting["segment_format_options"] = ":".join(f"{k}={v}" for k, v in inner.items())
        return cutting

    def begins_at(self, seconds: float, last_seconds: float | None) -> bool:
        """Say whether a segment boundary lies between two frames; they count from the first one."""
        if last_seconds is None:
            self._first_seconds = seconds
            return False
        return self._count(seconds) > self._count(last_seconds)

    def _count(self, seconds: float) -> int:
        return int((seconds - self._first_seconds + _INEXACT) / self.seconds)

    def store(self, part: Path, path: Path) -> None:
        """Give a closed file its name: that of a complete segment, or of one that was cut off.

        A name that is taken gets a number: the hour that summer time repeats must not cost a
        recording. Of a file that could not be written nothing stays.
        """
        self._growing.pop(path, None)
        if self.failure is not None:
            if part != Path(os.devnull):
                part.unlink(missing_ok=True)
            return
        wanted = partial_of(path) if self.interrupted else path
        placed = self._place(part, wanted)
        if self.interrupted:
            self.partial, self._cut_off = placed, path

    def _place(self, part: Path, path: Path) -> Path:
        overwrite = self.overwrite
        try:
            check_outputs([path], [self._source])
        except MediaError:  # a name by time may be the source's: it cannot be known beforehand
            overwrite = False
        return place(part, path, overwrite=overwrite)

    def _check(self) -> None:
        path = self.pattern
        if "%" in str(path.parent):
            raise MediaError(f"{path}: only the last part may hold a %; make the folder beforehand")
        check_folder_of(path)
        now = time.time()
        if self._by_time:
            names = {
                time.strftime(path.name, time.localtime(now + i * self.seconds)) for i in (0, 1)
            }
            if len(names) < 2:
                raise MediaError(
                    f"{path}: the name stays the same for -segment_time {self.seconds:g};"
                    " put a finer time into it, such as %Y%m%d-%H%M%S"
                )
        elif not _NUMBER.search(path.name):
            raise MediaError(
                f"{path}: segments need names of their own; put %03d into it,"
                " or a time such as %Y%m%d-%H%M%S with -strftime 1"
            )
        else:
            self._check_existing()

    def _check_existing(self) -> None:
        number = _NUMBER.search(self.pattern.name)
        assert number is not None
        before, after = self.pattern.name[: number.start()], self.pattern.name[number.end() :]
        like = re.compile(re.escape(before) + r"\d+" + re.escape(after))
        for path in self.pattern.parent.iterdir():
            if not like.fullmatch(path.name):
                continue
            check_outputs([path], [self._source])
            if not self.overwrite:
                raise MediaError(
                    f"{path}: exists already; give -y to replace it, another name,"
                    " or names by time (%Y%m%d-%H%M%S with -strftime 1)"
                )


class _Segment(io.BufferedWriter):
    """A file of its own name from the moment it is closed."""

    def __init__(self, part: Path, path: Path, segments: Segments) -> None:
        self._path, self._segments, self._part = path, segments, part
        super().__init__(_Storage(part, segments), 1 << 16)

    def close(self) -> None:
        if self.closed:
            return
        self.flush()
        try:
            os.fsync(self.fileno())
            super().close()
        except OSError as error:
            self._segments.failure = self._segments.failure or error
        try:
            self._segments.store(self._part, self._path)
        except OSError as error:
            self._segments.failure = self._segments.failure or error


class _Storage(io.FileIO):
    """A file that keeps its first error for later, and takes what follows it for nothing."""

    def __init__(self, path: Path, segments: Segments) -> None:
        self._segments = segments
        super().__init__(path, "wb")

    def write(self, data: ReadableBuffer, /) -> int:
        if self._segments.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self._segments.failure = error
        return memoryview(data).nbytes


def _as_seconds(text: str | None) -> float:
    try:
        seconds = _DEFAULT_SECONDS if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise MediaError(f"-segment_time {text}: give a time above zero")
    return seconds
