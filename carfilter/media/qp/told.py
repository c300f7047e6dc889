"""The QP that a stream tells by itself, on H.264's scale whatever its codec.

FFmpeg's software decoders of H.264, VP9, MPEG-1, 2 and 4 and their kin export it; H.265, AV1 and
MJPEG have it in their headers, H.264 too, which GPUs decode without exporting it. A quantiser of
another codec becomes the QP of a step as wide, moved by what the filter gains most with
(models/README.md).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from math import log2
from typing import Any, Protocol, TypeAlias

import av
import numpy as np
import numpy.typing as npt

from carfilter.media.frames import bit_depth, side_data
from carfilter.media.qp.av1 import Av1Qp
from carfilter.media.qp.avc import AvcQp
from carfilter.media.qp.hevc import HevcQp
from carfilter.media.qp.jpeg import jpeg_step
from carfilter.media.qp.nal import new_extradata
from carfilter.pictures import MACROBLOCK, QpMap, uniform_qp

# AVVideoBlockParams: five 32-bit integers, https://ffmpeg.org/doxygen/trunk/video__enc__params_8h.html
_BLOCK = np.dtype([("x", "i4"), ("y", "i4"), ("w", "i4"), ("h", "i4"), ("delta_qp", "i4")])
_VP9, _H264 = 0, 1  # AVVideoEncParamsType; 2 is that of MPEG

# FFmpeg's decoders that export their quantisers alike, by its names.
_MPEG = ("mpeg1video", "mpeg2video", "mpeg4", "h263", "h263p", "flv", "wmv1", "wmv2")
_EXPORTING = frozenset(("h264", "vp9", *_MPEG, "msmpeg4v1", "msmpeg4v2", "msmpeg4"))

# What the filter gains most with and harms no clip, see models/README.md. Blocks of H.265 are finer
# than their slice where others will refer to them, so most of all in key frames; more so where
# pictures are coded in another order than they are shown in, by an encoder that looks ahead.
_HEVC_FINER, _HEVC_COARSE = {"I": 6, "P": 3, "B": 3}, 44
_HEVC_FINER_REORDERED = {"I": 10, "P": 5, "B": 3}
_BEYOND_VP9 = 0
_AVC_BETWEEN = 2  # key frames: where little moves, blocks are coarser than their slice
# Of AV1, half of what is beyond counts: such pictures are mostly predicted from finer ones.
_AV1_FINE, _AV1_SHARE = 26, 0.5
_BEYOND_MPEG = 5
_JPEG_QP, _JPEG_STEP, _JPEG_OCTAVE = 34, 21, 5  # QP at a step, and what twice that step adds
_TYPES = {1: "I", 2: "P", 3: "B"}  # by FFmpeg's numbers
_MOST_WAITING = 1000  # packets whose frames have not come, as happens where they are damaged

# The index of VP9 and AV1 and, in eighths of a grey level, the step that it stands for (ac_q() of
# 8 bits in section 8.6.1 of VP9's specification, Ac_Qlookup in 7.12.2 of AV1's; of more bits it is
# as coarse). In between QP is linear in the index, within half of one.
_INDICES = (0, 8, 20, 45, 95, 150, 255)
_STEPS = (7, 15, 27, 52, 102, 255, 1828)


Header: TypeAlias = Callable[[bytes], "tuple[str, float] | None"]
"""Returns the type (I, P, B) and the QP of the picture in a packet, or None for what it cannot
read; such a picture has the QP of the one before."""


class ToldQp(Protocol):
    """What reads the QP of a stream."""

    def note(self, packet: av.Packet[Any]) -> None:
        """Take note of a packet on its way to the decoder."""

    def read(self, frame: av.VideoFrame) -> QpMap | None:
        """Return the map of the next frame as decoded, 0..51; None where none is told."""


def told_qp_of(decoder: av.VideoCodecContext) -> ToldQp | None:
    """Return what reads the QP that this decoder's stream tells; None where it tells none."""
    return BlockQp() if exports_qp(decoder) else header_qp_of(decoder)


def header_qp_of(decoder: av.VideoCodecContext) -> HeaderQp | None:
    """Return what reads the QP in the stream's headers, whatever decodes it; None of others."""
    codec = decoder.codec.canonical_name
    readers: dict[str, Callable[[bytes], Header]] = {
        "h264": lambda extradata: partial(_of_avc, AvcQp(extradata)),
        "hevc": lambda extradata: partial(_of_hevc, decoder, HevcQp(extradata)),
        "av1": lambda extradata: partial(_of_av1, Av1Qp(extradata)),
        "mjpeg": lambda _: _of_jpeg,
    }
    return HeaderQp(readers[codec], decoder.extradata or b"") if codec in readers else None


def exports_qp(decoder: av.VideoCodecContext) -> bool:
    """Say whether a decoder exports QPs, once its option export_side_data is venc_params."""
    return decoder.name in _EXPORTING


def read_qp(frame: av.VideoFrame) -> QpMap | None:
    """Return the QP of each macroblock, int16 [ceil(H/16), ceil(W/16)], 0..51 at any depth.

    None where the decoder exports none, or its blocks do not cover this picture. Call it before
    replace_luma().
    """
    params = side_data(frame, "VIDEO_ENC_PARAMS")
    if params is None:
        return None
    if params.codec_type == _VP9:  # without its segments, which are few
        qp = int(_clipped(_of_index(params.qp) + _BEYOND_VP9))
        return uniform_qp((frame.height, frame.width), qp)
    deltas = _deltas(params, -(-frame.height // MACROBLOCK), -(-frame.width // MACROBLOCK))
    if deltas is None:
        return None
    if params.codec_type == _H264:
        return _clipped(deltas + (params.qp - 6 * (bit_depth(frame.format) - 8)))
    # MPEG-2's scale, or twice the quantiser of others: the step; 0 where nothing was decoded.
    return _clipped(_of_log(np.log2(np.maximum(deltas, 1))) + _BEYOND_MPEG)


def _deltas(params: Any, rows: int, columns: int) -> npt.NDArray[np.int32] | None:
    """Return what each macroblock adds to the QP of its picture, as far as one is shown."""
    if not params.nb_blocks:
        return None
    assert params.block_size == _BLOCK.itemsize
    blocks = np.frombuffer(
        memoryview(params), _BLOCK, count=params.nb_blocks, offset=params.blocks_offset
    )
    # In raster order over the coded size, which may exceed that of the picture.
    coded_rows, coded_columns = (int(blocks[axis][-1]) // MACROBLOCK + 1 for axis in "yx")
    if coded_rows * coded_columns != len(blocks) or rows > coded_rows or columns > coded_columns:
        return None
    deltas: npt.NDArray[np.int32] = blocks["delta_qp"].reshape(coded_rows, coded_columns)
    return deltas[:rows, :columns]


def _of_log(steps: Any) -> Any:
    """Return H.264's QP for the binary logarithm of a step in grey levels: QP 4 has a step of 1."""
    return 4 + 6 * steps


def _of_index(index: int) -> float:
    """Return H.264's QP for an index of VP9's or AV1's."""
    return float(_of_log(np.interp(index, _INDICES, np.log2(_STEPS)) - 3))


def _clipped(qp: Any) -> QpMap:
    clipped: QpMap = np.rint(qp).clip(0, 51).astype(np.int16)
    return clipped


class BlockQp:
    """Reads what the decoder exports.

    It exports nothing with a picture that it holds back until the stream ends, as MPEG-2's does;
    such a one has the map of the picture before.
    """

    def __init__(self) -> None:
        self._last: QpMap | None = None

    def note(self, packet: av.Packet[Any]) -> None:
        """Nothing is read from packets."""

    def read(self, frame: av.VideoFrame) -> QpMap | None:
        """Return the map of a frame as decoded, before make_writable()."""
        qp = read_qp(frame)
        if qp is None and self._last is not None:
            shape = (-(-frame.height // MACROBLOCK), -(-frame.width // MACROBLOCK))
            return self._last if self._last.shape == shape else None
        self._last = qp
        return qp


class HeaderQp:
    """Reads one QP for each picture from its packet.

    In a raw stream, whose packets have no pts, pictures are told apart by their types: there the B
    pictures of a pyramid may have each other's QP.

    Args:
        reader: makes what reads the packets that follow some extradata.
    """

    def __init__(self, reader: Callable[[bytes], Header], extradata: bytes) -> None:
        self._reader, self._header = reader, reader(extradata)
        self._by_pts: dict[int, float] = {}  # of the pictures still to come
        self._untimed: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST_WAITING))
        self._last: float | None = None

    def note(self, packet: av.Packet[Any]) -> None:
        """Read the header of a packet on its way to the decoder."""
        if (extradata := new_extradata(packet)) is not None:
            self._header = self._reader(extradata)
        told = self._header(bytes(packet)) if packet.size else None
        if told is None:
            return
        kind, qp = told
        if packet.pts is None:  # pictures of one type mostly come out as they went in
            self._untimed[kind].append(qp)
            return
        if len(self._by_pts) >= _MOST_WAITING:
            self._by_pts.clear()
        self._by_pts[packet.pts] = qp

    def read(self, frame: av.VideoFrame) -> QpMap | None:
        """Return a map of one QP for the next frame, with the pts that the decoder gave it."""
        if frame.pts is not None:
            self._last = self._by_pts.pop(frame.pts, self._last)
        elif waiting := self._untimed[_TYPES.get(int(frame.pict_type), "")]:
            self._last = waiting.popleft()
        if self._last is None:
            return None
        return uniform_qp((frame.height, frame.width), int(_clipped(self._last)))


def _of_avc(reader: AvcQp, data: bytes) -> tuple[str, float] | None:
    told = reader.read(data)
    if told is None:
        return None
    kind, qp = told
    return kind, qp + (0 if kind == "I" else _AVC_BETWEEN)


def _of_hevc(
    decoder: av.VideoCodecContext, reader: HevcQp, data: bytes
) -> tuple[str, float] | None:
    told = reader.read(data)
    if told is None:
        return None
    kind, qp = told
    finer = _HEVC_FINER_REORDERED if decoder.has_b_frames else _HEVC_FINER
    return kind, qp - finer[kind] + max(qp - _HEVC_COARSE, 0)


def _of_av1(reader: Av1Qp, data: bytes) -> tuple[str, float] | None:
    told = reader.read(data)
    if told is None:
        return None
    kind, index = told
    qp = _of_index(index)
    return kind, min(qp, _AV1_FINE) + _AV1_SHARE * max(qp - _AV1_FINE, 0)


def _of_jpeg(data: bytes) -> tuple[str, float] | None:
    step = jpeg_step(data)
    if step is None:
        return None
    return "I", _JPEG_QP + _JPEG_OCTAVE * log2(step / _JPEG_STEP)
