"""Everything that a frame carries beside its samples, copied to another frame by FFmpeg itself.

PyAV has av_frame_copy_props() for its own use alone. It is called through PyAV's own module; where
the system does not look into what that was linked with (Windows), or PyAV's object does not hold
FFmpeg's frame where it is looked for, nothing is copied:
https://github.com/PyAV-Org/PyAV/blob/main/av/frame.pxd
"""

from __future__ import annotations

import ctypes
from functools import cache

import av
from av.sidedata.sidedata import Type

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

    The side data are shared, not copied. What the decoder told of its blocks is left out: it is
    true of that frame's samples alone, and large. None where this cannot be done here.
    """
    bare = av.VideoFrame(0, 0, frame.format.name)
    if not _copied(frame, bare):
        return None
    library, inner = _library(), _inner(bare)
    assert library is not None
    library.av_frame_remove_side_data(inner, Type.VIDEO_ENC_PARAMS.value)
    return bare


def full_copy(bare: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Return a frame with planes still to be filled that carries what a bare one does."""
    full = av.VideoFrame(width, height, bare.format.name)
    if not _copied(bare, full):
        raise RuntimeError("what made this frame bare fails now")
    return full


def _copied(source: av.VideoFrame, target: av.VideoFrame) -> bool:
    library, inner, outer = _library(), _inner(source), _inner(target)
    if library is None or inner is None or outer is None:
        return False
    if library.av_frame_copy_props(outer, inner) < 0:
        return False
    target.time_base = source.time_base
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
def _library() -> ctypes.CDLL | None:
    import av.frame

    try:
        library = ctypes.CDLL(av.frame.__file__)
        library.av_frame_copy_props.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        library.av_frame_remove_side_data.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.av_frame_remove_side_data.restype = None
    except (AttributeError, OSError):
        return None
    return library
