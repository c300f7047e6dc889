"""Everything that a frame carries beside its samples, copied to another frame by FFmpeg itself.

PyAV has av_frame_copy_props() for its own use alone. It is called through PyAV's own module; where
the system does not look into what that was linked with (Windows), or PyAV's object does not hold
FFmpeg's frame where it is looked for, nothing is copied:
https://github.com/PyAV-Org/PyAV/blob/main/av/frame.pxd
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import av

_POINTER_AT = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # behind Cython's table


class _Frame(ctypes.Structure):
    """Beginning of AVFrame, the same in FFmpeg 4 to 9."""

    _fields_ = (
        ("data", ctypes.c_void_p * 8),
        ("line_sizes", ctypes.c_int * 8),
        ("extended_data", ctypes.c_void_p),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
    )


def bare_copy(frame: av.VideoFrame) -> av.VideoFrame | None:
    """Return a frame without planes that carries what another one does: pts, tags, side data.

    The side data are shared, not copied. None where that cannot be done here.
    """
    copy, source = _function(), _inner(frame)
    if copy is None or source is None:
        return None
    bare = av.VideoFrame(0, 0, frame.format.name)
    return bare if _copied(copy, source, frame, bare) else None


def full_copy(bare: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Return a frame with planes still to be filled that carries what a bare one does."""
    copy, source = _function(), _inner(bare)
    full = av.VideoFrame(width, height, bare.format.name)
    if copy is None or source is None or not _copied(copy, source, bare, full):
        raise RuntimeError("what made this frame bare fails now")
    return full


def _copied(
    copy: Callable[[int, int], int], source: int, frame: av.VideoFrame, target: av.VideoFrame
) -> bool:
    inner = _inner(target)
    if inner is None or copy(inner, source) < 0:
        return False
    target.time_base = frame.time_base
    return True


def _inner(frame: av.VideoFrame) -> int | None:
    """Return the address of FFmpeg's frame, if what it holds is what PyAV tells of it."""
    pointer = ctypes.c_void_p.from_address(id(frame) + _POINTER_AT).value
    if not pointer:
        return None
    inner = _Frame.from_address(pointer)
    found, told = [inner.width, inner.height], [frame.width, frame.height]
    for plane in frame.planes[:1]:
        found += [inner.data[0], inner.line_sizes[0]]
        told += [plane.buffer_ptr, plane.line_size]
    return pointer if told == found else None


@cache
def _function() -> Callable[[int, int], int] | None:
    import av.frame

    try:
        copy = ctypes.CDLL(av.frame.__file__).av_frame_copy_props
    except (AttributeError, OSError):
        return None
    copy.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    copy.restype = ctypes.c_int
    return copy
