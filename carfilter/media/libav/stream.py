"""What FFmpeg knows of a stream and PyAV has no way to: read and written in FFmpeg's own memory.

A last resort, for a few things: the aspect ratio that the muxers of Matroska, NUT and AVI ask the
stream for, and not the codec; the tag of a copied codec; which side data came with a stream, which
codec it has now, and where its chroma lies. PyAV's object holds a pointer to FFmpeg's, whose first
fields are compared with what PyAV tells of the same stream before anything is believed:
https://github.com/PyAV-Org/PyAV/blob/main/av/stream.pxd
"""

from __future__ import annotations

import ctypes
from fractions import Fraction

import av

_MOST_CHROMA_LOCATIONS = 6
_POINTER_AT = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # behind Cython's table


class _SideData(ctypes.Structure):
    """AVPacketSideData, https://ffmpeg.org/doxygen/trunk/structAVPacketSideData.html."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("type", ctypes.c_int))


class _Parameters(ctypes.Structure):
    """Beginning of AVCodecParameters, the same in FFmpeg 7 to 9."""

    _fields_ = (
        ("codec_type", ctypes.c_int),
        ("codec_id", ctypes.c_int),
        ("codec_tag", ctypes.c_uint32),
        ("extradata", ctypes.c_void_p),
        ("extradata_size", ctypes.c_int),
        ("side_data", ctypes.POINTER(_SideData)),
        ("side_data_count", ctypes.c_int),
        ("format", ctypes.c_int),
        ("bit_rate", ctypes.c_int64),
        ("bits", ctypes.c_int * 2),  # coded and raw, of a sample
        ("profile", ctypes.c_int),
        ("level", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("aspect", ctypes.c_int * 2),
        ("rate", ctypes.c_int * 2),
        ("field_order", ctypes.c_int),
        ("colour", ctypes.c_int * 4),  # range, primaries, transfer, matrix
        ("chroma_location", ctypes.c_int),
    )


class _Stream(ctypes.Structure):
    """Beginning of AVStream, the same in FFmpeg 6 to 9."""

    _fields_ = (
        ("av_class", ctypes.c_void_p),
        ("index", ctypes.c_int),
        ("id", ctypes.c_int),
        ("parameters", ctypes.POINTER(_Parameters)),
        ("private", ctypes.c_void_p),
        ("time_base", ctypes.c_int * 2),
        ("start_time", ctypes.c_int64),
        ("duration", ctypes.c_int64),
        ("frames", ctypes.c_int64),
        ("disposition", ctypes.c_int),
        ("discard", ctypes.c_int),
        ("aspect", ctypes.c_int * 2),
    )


def _inner(stream: av.stream.Stream) -> _Stream | None:
    pointer = ctypes.c_void_p.from_address(id(stream) + _POINTER_AT)
    if not pointer.value:
        return None
    inner = _Stream.from_address(pointer.value)
    base = stream.time_base
    told = (
        stream.index,
        stream.id,
        [base.numerator, base.denominator] if base else [0, inner.time_base[1]],
        int(stream.disposition),
        int(stream.discard),
        stream.frames,
    )
    found = (
        inner.index,
        inner.id,
        list(inner.time_base),
        inner.disposition,
        inner.discard,
        inner.frames,
    )
    return inner if told == found else None


def set_aspect_ratio(stream: av.VideoStream, ratio: Fraction) -> bool:
    """Tell the muxer the shape of a sample; False where that cannot be done here."""
    inner = _inner(stream)
    if inner is None:
        return False
    inner.aspect[0], inner.aspect[1] = ratio.numerator, ratio.denominator
    return True


def forget_codec_tag(stream: av.stream.Stream) -> None:
    """Let a muxer choose the tag of a copied stream's codec, since each container has its own."""
    inner = _inner(stream)
    if inner is not None and inner.parameters:
        inner.parameters.contents.codec_tag = 0


def side_data_kinds(stream: av.stream.Stream) -> set[int]:
    """Return the kinds of side data that a source's container gives a stream, as FFmpeg numbers
    them (AVPacketSideDataType)."""
    inner, context = _inner(stream), stream.codec_context
    if inner is None or context is None or not inner.parameters:
        return set()
    parameters = inner.parameters.contents
    if parameters.extradata_size != context.extradata_size or parameters.side_data_count > 64:
        return set()
    return {parameters.side_data[i].type for i in range(parameters.side_data_count)}


def chroma_location(stream: av.VideoStream) -> int:
    """Return where a source's chroma samples lie, as FFmpeg numbers it (AVChromaLocation); 0 where
    it does not say, or where that cannot be read."""
    inner, context = _inner(stream), stream.codec_context
    if inner is None or not inner.parameters:
        return 0
    parameters = inner.parameters.contents
    told = [context.width, context.height, int(context.color_range)]
    found = [parameters.width, parameters.height, parameters.colour[0]]
    is_one = 0 < parameters.chroma_location <= _MOST_CHROMA_LOCATIONS
    return parameters.chroma_location if found == told and is_one else 0


def codec_number(stream: av.stream.Stream) -> int:
    """Return FFmpeg's number of the codec that a stream has now; 0 where it cannot be read."""
    inner = _inner(stream)
    return 0 if inner is None or not inner.parameters else int(inner.parameters.contents.codec_id)
