"""Where a target's bytes go: a file that is all or none, segments, stdout, a device or a URL."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error

from carfilter.errors import MediaError
from carfilter.media.opening import is_url
from carfilter.media.options import TargetOptions
from carfilter.media.segments import FORMATS as SEGMENT_FORMATS
from carfilter.media.segments import Segments
from carfilter.unfinished import (
    begin,
    check_folder_of,
    check_outputs,
    followed,
    is_stdout,
    is_written_through,
    partial_of,
    place,
)

# Not empty_moov: it would shift the first frame by the priming of AAC.
_FRAGMENTED = "frag_keyframe+delay_moov+default_base_moof"
_MANY_FILES = ("hls", "dash", "smoothstreaming", "hds", "webm_chunk", "webm_dash_manifest", "tee")
_LISTS = (".m3u8", ".mpd")
_OF_THE_DISK = {errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ESTALE}
_OF_THE_NETWORK = {
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EIO),
}
_NO_PROTOCOL = (av.error.ProtocolNotFoundError, av.error.HTTPError)


@dataclass
class Destination:
    """The place of one target; end it with finish(), keep_partial() or discard()."""

    path: str | Path  # as the user named it
    overwrite: bool
    part: Path | None = None  # where the file grows; None for all that is written directly
    segments: Segments | None = None
    muxer: tuple[tuple[str, str], ...] = ()  # as the user gave it, once it is open

    def open(self, options: TargetOptions, *, trial: bool = False) -> av.container.OutputContainer:
        """Open it for the muxer.

        Args:
            trial: open a single file of the segments' own format instead, which nothing is
                written to.

        Raises:
            MediaError: there is no such container.
        """
        self.muxer = options.muxer
        muxer, form, open_file = dict(options.muxer), options.format or "", None
        name = str(self.path) if self.part is None else f"file:{self.part}"
        # Else Matroska and Ogg number their files at random, and no two are alike.
        muxer.setdefault("fflags", "+bitexact")
        if options.live:
            muxer.setdefault("flush_packets", "1")
        if trial:
            muxer, form, name = {}, "", Path(self.path).name
        elif is_stdout(self.path):
            name, form = f"pipe:{_own_stdout()}", options.format or "nut"
        if (form or Path(name).suffix[1:]) in ("mp4", "mov") and (self._is_pipe or is_url(name)):
            muxer.setdefault("movflags", _FRAGMENTED)  # a plain one needs to seek back
        if form in ("matroska", "webm") or name.endswith((".mkv", ".mka", ".webm")):
            # Its first cluster can hold the negative timestamps of AAC priming; by default the
            # muxer shifts every stream by them instead.
            muxer.setdefault("avoid_negative_ts", "disabled")
        if form == "yuv4mpegpipe" or name.endswith(".y4m"):
            muxer.setdefault("strict", "-1")  # more than 8 bits; encoder.py says so
        if self.segments is not None and not trial:
            muxer, open_file = self.segments.muxer_options(muxer), self.segments.open
        try:
            made = _open(name, form, muxer, open_file)
        except (av.error.FFmpegError, ValueError) as error:
            hint = (
                f"there is no output format {form!r}"
                if form
                else "its name does not say which container"
            )
            raise MediaError(
                f"{self.path}: {hint}; use .mkv, .mp4, .mov, .nut, .ts, .avi or -f"
            ) from error
        if made.format.name == "image2" and "%" in Path(self.path).name:
            made.close()
            raise MediaError(
                f"{self.path}: numbered pictures are many files; write one file, such as an .mkv"
                " with -c:v ffv1, and take them from it with ffmpeg"
            )
        return made

    @property
    def _is_pipe(self) -> bool:
        return is_stdout(self.path) or (self.part is None and Path(self.path).is_fifo())

    def check(self) -> None:
        """Raise what went wrong while a segment was written, which its muxer was not told.

        Raises:
            OSError: the disk is full, or the like.
        """
        if self.segments is not None and self.segments.failure is not None:
            raise self.segments.failure

    def finish(self) -> None:
        """Give a complete file its name.

        Raises:
            MediaError: the name is taken by now; the file has another one then.
            OSError: it cannot be renamed.
        """
        if self.part is None:
            return
        _sync(self.part)
        wanted = followed(Path(self.path))
        placed = place(self.part, wanted, overwrite=self.overwrite)
        if placed != wanted:
            raise MediaError(
                f"{self.path}: came to exist during the work, and there was no -y to replace it;"
                f" what was written is complete and lies in {placed}"
            )

    def keep_partial(self) -> Path | None:
        """Keep what an interrupted run has written, as NAME.partial.EXT; None where nothing is."""
        if self.part is None:
            return None if self.segments is None else self.segments.partial
        partial = partial_of(followed(Path(self.path)))
        return place(self.part, partial, overwrite=self.overwrite)

    def discard(self) -> None:
        """Remove what a failed run has written."""
        if self.part is not None:
            self.part.unlink(missing_ok=True)

    def why_not_written(self, error: Exception, format_name: str) -> str:
        """Return the sentence for an error of the muxer or the disk."""
        name = "stdout" if is_stdout(self.path) else str(self.path)
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            return f"{name}: the disk is full; make room or write to another disk"
        if number == errno.EFBIG:
            return f"{name}: the file would be larger than allowed here; write to another disk"
        if number == errno.EBADF:
            return f"{name}: is closed; open it, or give a file"
        reason = getattr(error, "strerror", None) or str(error)
        if is_url(self.path) and (number in _OF_THE_NETWORK or isinstance(error, _NO_PROTOCOL)):
            return f"{name}: cannot be sent to ({reason}); check the address and that it is up"
        if number in _OF_THE_DISK:
            return f"{name}: cannot be written ({reason}); check the disk and the permissions"
        given = " and ".join(f"-{option} {value}" for option, value in self.muxer)
        return (
            f"{name}: the {format_name} format refuses what it is given ({reason});"
            f" {f'correct {given}, ' if given else ''}use an .mkv"
            " target, or leave out what it cannot hold (-an, -sn, -dn, flags that it has not)"
        )


def choose_destination(path: str | Path, source: Path, options: TargetOptions) -> Destination:
    """Check where a target is to go, and make the file that grows there.

    Raises:
        MediaError: it exists, is the source, or cannot be written.
    """
    overwrite = options.overwrite
    if not str(path):
        raise MediaError("no output is named; give a file, a URL, or - for stdout")
    if options.format in _MANY_FILES or (
        options.format is None and Path(path).suffix.lower() in _LISTS
    ):
        raise MediaError(
            f"{path}: HLS and DASH are a list and many files; write one file, and cut it up with"
            " ffmpeg -c copy, or give -f segment"
        )
    if options.format in SEGMENT_FORMATS:
        segments = Segments(Path(path), dict(options.muxer), source, overwrite=overwrite)
        return Destination(path, overwrite, segments=segments)
    if is_stdout(path) or is_url(path):
        return Destination(path, overwrite)
    path = Path(path)
    if _is_folder(path):
        raise MediaError(f"{path}: is a folder; name a file in it")
    if is_written_through(path):
        return Destination(path, overwrite)
    if path.exists():
        check_outputs([path], [source])
        if not overwrite:
            raise MediaError(f"{path}: exists already; give -y to replace it, or another name")
    real = followed(path)
    check_folder_of(real)
    try:
        return Destination(path, overwrite, begin(real))
    except (OSError, ValueError) as error:  # the latter of a name with a zero in it
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: cannot be made ({reason}); choose another") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that no file system would have
        raise MediaError(f"{path}: cannot be made ({error.strerror}); choose another") from error


def _open(
    name: str, form: str, muxer: dict[str, str], open_file: Any
) -> av.container.OutputContainer:
    return av.open(name, "w", format=form or None, container_options=muxer, io_open=open_file)


def _own_stdout() -> int:
    """Take stdout for the media alone: whatever else prints goes to stderr from now on."""
    if sys.stdout is None:  # Python found it closed; its number may be another file's by now
        raise MediaError("stdout: is closed; open it, or give a file")
    sys.stdout.flush()
    media = os.dup(1)
    os.dup2(2, 1)
    return media


def _sync(path: Path) -> None:
    """Put the file on the disk before it gets its name: a power cut must not leave half a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
