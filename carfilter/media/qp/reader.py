"""The QP of a source's frames: as its stream tells it, else measured."""

from __future__ import annotations

from typing import Any

import av

from carfilter.media.options import SourceOptions
from carfilter.media.qp.measured import gauge_of
from carfilter.media.qp.told import exports_qp, told_qp_of
from carfilter.pictures import QpMap


class QpReader:
    """Knows nothing of the QPs before the first key frame."""

    def __init__(self, decoder: av.VideoCodecContext, options: SourceOptions) -> None:
        self._by_decoder = exports_qp(decoder)
        others = options.qp_maps and options.measures_qp
        wanted = others or (options.qp_maps and decoder.name == "h264")
        self._told = told_qp_of(decoder) if wanted else None
        # A decoder on a device exports nothing; headers are read whoever decodes.
        may_miss = self._told is None or self._by_decoder
        self._gauge = gauge_of(decoder) if others and may_miss else None

    def tells(self, *, on_device: bool) -> bool:
        """Say whether the stream tells the QP; decoders on a device keep it to themselves."""
        return self._told is not None and not (on_device and self._by_decoder)

    @property
    def measures(self) -> bool:
        """Whether it is measured where the stream does not tell it."""
        return self._gauge is not None

    def note(self, packet: av.Packet[Any] | None) -> None:
        """Take note of a packet on its way to the decoder, if it is one."""
        for reader in (self._told, self._gauge):
            if packet is not None and reader is not None:
                reader.note(packet)

    def told(self, frame: av.VideoFrame, *, on_device: bool) -> QpMap | None:
        """Return what is told of the next frame, as decoded: before its luma is exchanged."""
        if self._told is None or not self.tells(on_device=on_device):
            return None
        return self._told.read(frame)

    def measured(self, frame: av.VideoFrame) -> QpMap | None:
        """Return what is measured of the same frame, with a luma plane of its own."""
        return None if self._gauge is None else self._gauge.read(frame)
