"""The QP of video whose decoder tells none, measured at its key frames.

A key frame is coded without any other picture, so its bytes tell how coarsely it was coded: its QP
is the one at which x264, given the decoded picture again, takes as many.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import av
import numpy as np

from carfilter.media.frames import bit_depth, copy_luma
from carfilter.pictures import Luma, QpMap, uniform_qp

_ENCODER = "libx264"
_TRIED = (18, 34, 51)  # QPs; the logarithm of the bytes is near enough to linear between them
_SPACING = 25  # frames between two measurements, where more of them are key frames
_MOST_WAITING = 1000  # packets whose frames have not come, as happens where they are damaged
_BETWEEN = 3  # pictures between key frames are coarser by that: the ipratio 1.4 of x264 and x265
_BEYOND_H264 = {"hevc": -4, "av1": -3, "mpeg2video": 1, "mpeg4": 1, "mjpeg": 4}
"""What other codecs differ by from H.264 of as many bytes, since they spend them better or worse:
the offsets with which `fast` gains most and harms no clip, see models/README.md."""


def qp_of_bytes(luma: Luma, depth: int, size: int) -> float:
    """Return the QP, 18..51, at which x264 codes luma [H, W] as a key frame of `size` bytes.

    Luma alone at x264's fast settings takes about what luma and chroma take at its usual ones
    (models/README.md has the errors), so that no pixel format has to be converted.
    """
    gray = (luma >> (depth - 8)).astype(np.uint8, copy=False)
    taken = [np.log(_coded_bytes(gray, qp)) for qp in _TRIED]
    # Rising, as interp() wants it, even where a flat picture takes the same at two QPs.
    rising = np.maximum.accumulate(-np.array(taken))
    return float(np.interp(-np.log(max(size, 1)), rising, _TRIED))


def detail_bits(luma: Luma, depth: int, qp: int) -> float:
    """Return how many times, as a power of two, a picture's bytes halve from `qp` + 6 to `qp` + 18.

    Of a key frame coded once at `qp` about two: it holds detail of all sizes. A picture that was
    coded much coarser before has little left that the finer steps could drop.
    """
    gray = (luma >> (depth - 8)).astype(np.uint8, copy=False)
    fine, coarse = (_coded_bytes(gray, min(qp + step, 51)) for step in (6, 18))
    return float(np.log2(fine / coarse))


def _coded_bytes(gray: Luma, qp: int) -> int:
    encoder: Any = av.CodecContext.create(_ENCODER, "w")
    encoder.height, encoder.width = gray.shape
    encoder.pix_fmt, encoder.time_base = "gray", Fraction(1, 25)
    encoder.options = {"preset": "superfast", "tune": "zerolatency", "qp": str(qp)}
    frame = av.VideoFrame.from_ndarray(gray, format="gray")
    frame.pts = 0
    return sum(packet.size for packet in [*encoder.encode(frame), *encoder.encode()])


def gauge_of(decoder: av.VideoCodecContext) -> QpGauge | None:
    """Return what measures the QP of this decoder's video; None where bytes tell nothing of it."""
    codec = decoder.codec
    if not codec.lossy:
        return None  # raw video through a pipe, too, whatever was done to it before
    if _ENCODER not in av.codecs_available:
        return None  # an FFmpeg built without GPL parts
    return QpGauge(codec.canonical_name, intra_only=codec.intra_only)


class QpGauge:
    """Measures the QP of a stream at its key frames; what follows one is held to be like it."""

    def __init__(self, codec: str, *, intra_only: bool) -> None:
        self._offset = _BEYOND_H264.get(codec, 0)
        self._between = 0 if intra_only else _BETWEEN
        self._sizes: dict[int, int] = {}  # bytes of the key frames still to come, by their pts
        self._untimed: deque[int] = deque(maxlen=_MOST_WAITING)  # of those without one, in order
        self._since = _SPACING  # frames since the last measurement
        self._qp: float | None = None

    def note(self, packet: av.Packet[Any]) -> None:
        """Take note of a packet on its way to the decoder."""
        if not packet.is_keyframe or not packet.size:
            return
        if packet.pts is None:
            self._untimed.append(packet.size)
        else:
            if len(self._sizes) >= _MOST_WAITING:
                self._sizes.clear()
            self._sizes[packet.pts] = packet.size

    def read(self, frame: av.VideoFrame) -> QpMap | None:
        """Return a map of one QP, 0..51, for the next frame; None before the first key frame.

        Args:
            frame: with a luma plane of its own, and the pts that the decoder gave it.
        """
        if frame.pts is not None:
            size = self._sizes.pop(frame.pts, 0)
        else:
            size = self._untimed.popleft() if frame.key_frame and self._untimed else 0
        self._since += 1
        if size and self._since > _SPACING and not frame.is_corrupt:
            luma, depth = copy_luma(frame), bit_depth(frame.format)
            self._qp = qp_of_bytes(luma, depth, size) + self._offset
            self._since = 0
        if self._qp is None:
            return None
        qp = round(self._qp + (0 if size else self._between))
        return uniform_qp((frame.height, frame.width), min(max(qp, 0), 51))
