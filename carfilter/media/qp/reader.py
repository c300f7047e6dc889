"""The QP of a source's frames: as its stream tells it, else measured."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from carfilter.media.options import SourceOptions
from carfilter.media.qp.measured import gauge_of
from carfilter.media.qp.told import BlockQp, ToldQp, exports_qp, header_qp_of
from carfilter.pictures import QpMap


class QpReader:
    """Knows nothing of the QPs before the first key frame."""

    def __init__(self, decoder: av.VideoCodecContext, options: SourceOptions) -> None:
        others = options.qp_maps and options.measures_qp
        wanted = others or (options.qp_maps and decoder.name == "h264")
        self._exported = BlockQp() if wanted and exports_qp(decoder) else None
        # A decoder on a device exports nothing; headers are read whoever decodes.
        needed = wanted and (self._exported is None or options.hwaccel is not None)
        self._headers = header_qp_of(decoder) if needed else None
        self._is_h264 = decoder.codec.canonical_name == "h264"
        may_miss = self._headers is None or self._exported is not None or self._is_h264
        self._gauge = gauge_of(decoder) if others and may_miss else None

    def tells(self, *, on_device: bool) -> bool:
        """Say whether the stream tells the QP; decoders on a device keep it to themselves."""
        return self._reader(on_device=on_device) is not None

    @property
    def measures(self) -> bool:
        """Whether it is measured where the stream does not tell it."""
        return self._gauge is not None

    def note(self, packet: av.Packet[Any] | None) -> None:
        """Take note of a packet on its way to the decoder, if it is one."""
        for reader in (self._headers, self._gauge):
            if packet is not None and reader is not None:
                reader.note(packet)

    def told(self, frame: av.VideoFrame, *, on_device: bool) -> QpMap | None:
        """Return what is told of the next frame, as decoded: before its luma is exchanged."""
        reader = self._reader(on_device=on_device)
        return None if reader is None else reader.read(frame)

    def _reader(self, *, on_device: bool) -> ToldQp | None:
        by_decoder = self._exported is not None and not on_device
        return self._exported if by_decoder else self._headers

    def settled(self, told: QpMap | None, frame: av.VideoFrame, *, on_device: bool) -> QpMap | None:
        """Return the QP of the same frame, with a luma plane of its own: as told, else measured.

        Of H.264's slices the coarser of both counts: where little moves, x264's blocks are
        far coarser than their slice (models/README.md).
        """
        is_doubtful = self._is_h264 and self._reader(on_device=on_device) is self._headers
        if self._gauge is None or (told is not None and not is_doubtful):
            return told
        measured = self._gauge.read(frame)
        if told is None or measured is None:
            return told if measured is None else measured
        return np.maximum(told, measured)
