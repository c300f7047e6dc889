"""Open what the user named, and nothing else: a file, a pipe or an address of the network.

A media file can name others: playlists, descriptions of sessions, numbered pictures, references in
MOV. FFmpeg would follow them. Here a file or a pipe is handed over as an open descriptor and no
other way of opening is allowed, and what comes from the network can never name a local file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from carfilter.errors import MediaError, NotAVideoError
from carfilter.media.options import MAX_PIXELS

OpenAgain: TypeAlias = Callable[[], av.container.InputContainer]
"""Opens a source once more; who calls it closes the container."""

_LIVE = re.compile(r"^(rtsp|rtsps|rtmp|rtmps|rtp|udp|tcp|srt|http|https|mmsh|mmst)://", re.I)
_NETWORK_PROTOCOLS = (
    "http,https,httpproxy,tls,tcp,udp,udplite,rtp,srtp,srt,mmsh,mmst,crypto,data,"
    "rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,ffrtmpcrypt,ffrtmphttp"
)
_OPEN_TIMEOUT, _READ_TIMEOUT = 15.0, 30.0  # seconds; for network sources only
_LIVE_TIMEOUTS = (8.0, 8.0)  # a camera that is silent for so long has gone
# Seconds for the header of a file or pipe: data without end may never hold one.
_HEADER_TIMEOUT = 120.0
# PyAV 18 fails on tags that are not UTF-8 unless told otherwise; 19 has no such option any more.
_LENIENT_TAGS: Any = {} if av.__version__.split(".")[0] >= "19" else {"metadata_errors": "replace"}
_MOST_PIXELS = 2**31 - 1  # that FFmpeg takes for a limit
# MPEG-TS may announce its sound on the way: https://ffmpeg.org/ffmpeg-formats.html#mpegts-1
_LOOK_FURTHER = {"scan_all_pmts": "1"}
_GEN_PTS = 0x1  # AVFMT_FLAG_GENPTS
_PLAYLISTS = (
    (re.compile(rb"\s*#EXTM3U"), "an HLS playlist"),
    (re.compile(rb"\s*ffconcat version"), "a concat list"),
    (re.compile(rb"v=0\r?\n.*^m=", re.S | re.M), "an SDP description"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<MPD\b", re.S), "a DASH manifest"),
)


def is_url(source: str | Path) -> bool:
    """Say whether a source is on the network."""
    return bool(_LIVE.match(str(source)))


def display_name(source: str | Path) -> str:
    """Return the source as messages call it."""
    return "stdin" if str(source) == "-" else str(source)


def place_of(source: str | Path) -> Path:
    """Return where a source lies; stdin may be a file, too."""
    return Path("/dev/stdin") if str(source) == "-" else Path(source)


def sha256_of(path: Path) -> str:
    """Return the checksum of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def can_seek(source: str) -> bool:
    """Say whether a source, as messages call it, can be read again from another place."""
    return is_url(source) or Path(source).is_file()


def open_container(
    source: str | Path,
    format_name: str | None = None,
    options: Mapping[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
    *,
    live: bool = False,
) -> av.container.InputContainer:
    """Open a path, a URL or "-" (stdin) for reading.

    Args:
        format_name: FFmpeg's name of the container; None finds it out.
        options: of the demuxer or protocol.
        max_pixels: the decoders that look for the streams refuse larger pictures.
        live: notice sooner that nothing comes from the network.

    Raises:
        MediaError: it is not there or cannot be read, is no video, or names other files instead.
    """
    name = display_name(source)
    chosen = {**(options or {}), **decoder_limit(max_pixels)}
    try:
        if is_url(source):
            network = {**chosen, "protocol_whitelist": _NETWORK_PROTOCOLS}
            patience = _LIVE_TIMEOUTS if live else (_OPEN_TIMEOUT, _READ_TIMEOUT)
            return _open(str(source), format_name, network, patience)
        container = _open_local(source, format_name, chosen)
        if _lacks_sound(container) and Path(source).is_file():
            container.close()
            container = _open_local(source, format_name, {**chosen, **_LOOK_FURTHER})
        return container
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(_why_not_opened(name, error, format_name)) from error


def _open_local(
    source: str | Path, format_name: str | None, options: dict[str, str]
) -> av.container.InputContainer:
    with _descriptor(source) as number:
        # FFmpeg duplicates the descriptor, so that ours can be closed.
        local = {**options, "protocol_whitelist": "fd", "fd": str(number)}
        return _open("fd:", format_name, local, (_HEADER_TIMEOUT, None))


def _lacks_sound(container: av.container.InputContainer) -> bool:
    """Say whether nothing is known of some sound of an MPEG-TS but its codec."""
    return container.format.name == "mpegts" and any(
        stream.codec_context is not None and not stream.codec_context.sample_rate
        for stream in container.streams.audio
    )


def decoder_limit(max_pixels: int) -> dict[str, str]:
    """Return the option by which a decoder refuses larger pictures, later ones too.

    Twice as many, since it counts the coded size, which padding makes larger than the shown one.
    """
    return {"max_pixels": str(min(2 * max_pixels, _MOST_PIXELS))}


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """Refuse a picture that would take too much memory, before a frame of it is allocated."""
    if width * height > max_pixels:
        raise MediaError(
            f"{name}: its pictures are {width}x{height}, more than the {max_pixels} pixels allowed;"
            f" if that is true and wanted, give carfilter --max-pixels {width * height}"
        )


def _open(
    url: str,
    format_name: str | None,
    options: dict[str, str],
    timeout: tuple[float | None, float | None],
) -> av.container.InputContainer:
    container: av.container.InputContainer = av.open(
        url,
        "r",
        format=format_name,
        options=options,
        timeout=timeout,
        **_LENIENT_TAGS,
    )
    # PyAV lets FFmpeg make up what the container does not say, which makes H.264 in AVI late:
    # https://github.com/PyAV-Org/PyAV/blob/main/av/container/core.py (AVFMT_FLAG_GENPTS)
    container.flags &= ~_GEN_PTS
    return container


@contextlib.contextmanager
def _descriptor(source: str | Path) -> Iterator[int]:
    """Yield an open descriptor of a path or of stdin from which the first bytes have come."""
    if str(source) == "-":
        if sys.stdin is None:
            raise MediaError("stdin: is closed; pipe a video into it, or name a file")
        _wait_for_data(0)
        yield 0
        return
    if not str(source):
        raise MediaError("no input is named; give a file, a URL, or - for stdin")
    path = Path(source)
    _check_file(path)
    number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            _refuse_playlist(path, os.pread(number, 4096, 0))
        else:
            _wait_for_data(number)
        yield number
    finally:
        os.close(number)


def _wait_for_data(number: int) -> None:
    """Wait as long as the program before us needs: only then the time for a header runs."""
    with contextlib.suppress(OSError, ValueError):  # Windows can wait for sockets only
        select.select([number], [], [])


def _check_file(path: Path) -> None:
    try:
        exists = path.exists()
    except OSError as error:  # a name that no file system would have, or a link to itself
        raise MediaError(f"{path}: cannot be opened ({error.strerror}); check the path") from error
    if not exists:
        raise MediaError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; give one file (carfilter takes one at a time)")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{path}: cannot be read; check its permissions")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"{path}: is empty; nothing was recorded into it")


def _refuse_playlist(path: Path, head: bytes) -> None:
    for pattern, kind in _PLAYLISTS:
        if pattern.match(head):
            raise NotAVideoError(
                f"{path}: is {kind}, which names other files or addresses, and carfilter opens"
                " only what you name; give their own address, or join them with ffmpeg -i first"
            )


def _why_not_opened(name: str, error: Exception, wanted: str | None) -> str:
    if wanted and "no container format" in str(error).lower():
        return f"{name}: there is no input format {wanted!r}; see ffmpeg -formats"
    if wanted == "rawvideo":
        return f"{name}: rawvideo tells no size; send -f yuv4mpegpipe or -f nut instead"
    if isinstance(error, av.error.ExitError) and not is_url(name):
        return (
            f"{name}: no header of a video in its first {_HEADER_TIMEOUT:.0f} s;"
            " check what writes it, or give carfilter --input-format with its format"
        )
    if isinstance(error, av.error.ExitError):  # FFmpeg's word for the end of our patience
        return f"{name}: cannot be opened (nothing came for too long); check that the source is up"
    if name == "stdin":
        return (
            "stdin: not a video that can be read from a pipe; an MP4 needs -movflags +faststart"
            " (or send -f nut or -f matroska), raw streams need --input-format"
        )
    cut_off = isinstance(error, av.error.EOFError) and not is_url(name)
    if cut_off or isinstance(error, av.error.InvalidDataError):
        return (
            f"{name}: not a video file, or its header is damaged or cut off;"
            " give carfilter --input-format with its format, or recover it with the recorder's own"
            " tool"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name}: cannot be opened ({reason}); check the name and that the source is up"
