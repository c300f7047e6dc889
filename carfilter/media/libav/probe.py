"""Which container a file is, by FFmpeg's own look at its first bytes: nothing is opened."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

_PADDING_BYTES = 32  # of zeros after the bytes (AVPROBE_PADDING_SIZE)
_FIRST_BYTES, _MOST_BYTES = 1 << 11, 1 << 20  # FFmpeg takes more until it is sure, up to this
_SURE = 25  # a score above it is enough for FFmpeg (AVPROBE_SCORE_RETRY), of 100


class _ProbeData(ctypes.Structure):
    """AVProbeData of FFmpeg's libavformat/avformat.h."""

    _fields_ = (
        ("filename", ctypes.c_char_p),
        ("buf", ctypes.c_char_p),
        ("buf_size", ctypes.c_int),
        ("mime_type", ctypes.c_char_p),
    )


class _InputFormat(ctypes.Structure):
    """The beginning of AVInputFormat."""

    _fields_ = (("name", ctypes.c_char_p), ("long_name", ctypes.c_char_p))


def likely_format(path: Path) -> str:
    """Return FFmpeg's name of the container that a file begins like, "" where it knows none.

    PyAV has no such function. It is found through PyAV's own module; where the system does not look
    into what that was linked with (Windows), no container is known.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _format_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)  # a folder that is watched is looked at again and again
def _format_of(path: Path, size: int, _: int) -> str:
    probe = _function()
    if probe is None or not size:
        return ""
    length, name = _FIRST_BYTES, ""
    with path.open("rb") as file:
        while True:
            file.seek(0)
            head = file.read(length)
            name = _asked(probe, head)
            if name or len(head) < length or length >= _MOST_BYTES:
                return name
            length *= 2


def _asked(probe: Callable[..., ctypes._Pointer[_InputFormat]], head: bytes) -> str:
    score = ctypes.c_int(0)
    data = _ProbeData(b"", head + bytes(_PADDING_BYTES), len(head), None)
    found = probe(ctypes.byref(data), 1, ctypes.byref(score))
    return found.contents.name.decode() if found and score.value > _SURE else ""


@cache
def _function() -> Callable[..., ctypes._Pointer[_InputFormat]] | None:
    import av.format

    try:
        probe = ctypes.CDLL(av.format.__file__).av_probe_input_format3
    except (AttributeError, OSError):
        return None
    probe.argtypes = (ctypes.POINTER(_ProbeData), ctypes.c_int, ctypes.POINTER(ctypes.c_int))
    probe.restype = ctypes.POINTER(_InputFormat)
    return probe
