"""The type of each coded picture, I, P or B, from the first bits of its packet, without decoding.

A decoder tells it too, but takes a hundred times as long. Only the first slice is looked at, as
FFmpeg's decoders do. Of codecs that are not known here, and of what does not parse, it is "".
"""

from __future__ import annotations

from typing import Any

import av

from carfilter.media.qp.avc import AvcQp
from carfilter.media.qp.nal import Bits, hvcc_units, split_units

_H264_TYPES = "PBIPI"  # slice_type % 5 of Recommendation H.264, table 7-6; SP as P, SI as I
_HEVC_TYPES = "BPI"  # of Recommendation H.265, table 7-7
_MPEG2_TYPES = {1: "I", 2: "P", 3: "B"}  # picture_coding_type of ISO/IEC 13818-2, table 6-12
_MPEG4_TYPES = "IPBS"  # vop_coding_type of ISO/IEC 14496-2, table 6-20
_KEY_OR_NOT = ("vp8", "vp9", "av1")  # they know no B pictures, and their packets are marked
_SLICE_BYTES = 32  # more than what comes before the type; no zeros that need escapes are in it


def reader_of(stream: av.VideoStream, extradata: bytes | None = None) -> PictureTypes:
    """Return what reads the picture types of a stream's packets, in their order.

    Args:
        extradata: of the packets to come, where it is another than the stream began with.
    """
    context = stream.codec_context
    codec = context.codec
    if codec.intra_only or not codec.lossy:
        return PictureTypes("I")
    readers = {"h264": H264Types, "hevc": HevcTypes}
    reader = readers.get(codec.canonical_name)
    if reader is not None:
        return reader((context.extradata if extradata is None else extradata) or b"")
    if codec.canonical_name in ("mpeg1video", "mpeg2video"):
        return StartCodeTypes(b"\x00\x00\x01\x00", _mpeg2_type)
    if codec.canonical_name == "mpeg4":
        return StartCodeTypes(b"\x00\x00\x01\xb6", lambda data: _MPEG4_TYPES[data[0] >> 6])
    return KeyTypes() if codec.canonical_name in _KEY_OR_NOT else PictureTypes("")


class PictureTypes:
    """Of a codec whose pictures all are of one type, or of one that is not known here.

    Args:
        kind: I of codecs without prediction, "" of unknown ones.

    Attributes:
        is_second_field: whether the packet read last holds the second field of a picture, which
            counts with that of the first.
    """

    is_second_field = False

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def read(self, packet: av.Packet[Any]) -> str:
        """Return I, P, B, S or ""."""
        return self._kind if packet.size else ""


class KeyTypes(PictureTypes):
    """Of a codec whose pictures are key frames or P."""

    def __init__(self) -> None:
        super().__init__("P")

    def read(self, packet: av.Packet[Any]) -> str:
        """Return I or P."""
        return "I" if packet.is_keyframe else super().read(packet)


class StartCodeTypes(PictureTypes):
    """Of MPEG-1, 2 and 4, whose picture headers follow a start code of their own."""

    def __init__(self, start: bytes, type_of: Any) -> None:
        super().__init__("")
        self._start, self._type_of = start, type_of

    def read(self, packet: av.Packet[Any]) -> str:
        """Return the type of the first picture in the packet."""
        data = bytes(packet)
        at = data.find(self._start) + len(self._start)
        found = at >= len(self._start) and at + 2 <= len(data)
        return self._type_of(data[at : at + 2]) if found else ""


def _mpeg2_type(data: bytes) -> str:
    return _MPEG2_TYPES.get(data[1] >> 3 & 7, "")


class H264Types(PictureTypes):
    """Of H.264, with start codes or with lengths as MP4 has them."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__("")
        # ISO/IEC 14496-15, 5.3.3.1: avcC begins with 1 and holds the bytes of a length, less one.
        has_lengths = len(extradata) > 4 and extradata[0] == 1
        self._length_bytes = (extradata[4] & 3) + 1 if has_lengths else 0
        self._headers = AvcQp(extradata)

    def read(self, packet: av.Packet[Any]) -> str:
        """Return the type of the first slice."""
        self.is_second_field = False
        for unit in split_units(bytes(packet), self._length_bytes):
            self._headers.note(unit)
            if unit and unit[0] & 0x1F in (1, 5):
                self.is_second_field = self._headers.is_second_field(unit)
                return _type_in_h264(Bits(unit[1:_SLICE_BYTES]))
        return ""


def _type_in_h264(bits: Bits) -> str:
    try:
        bits.unsigned()  # first_mb_in_slice
        kind = bits.unsigned()
    except EOFError:
        return ""
    return _H264_TYPES[kind % 5] if kind < 10 else ""


class HevcTypes(PictureTypes):
    """Of HEVC; its slice headers cannot be read without the picture parameter sets."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__("")
        self._extra_bits: dict[int, int] = {}  # of a slice header, by parameter set
        sets, self._length_bytes = hvcc_units(extradata)
        for unit in sets:
            self._note(unit)

    def read(self, packet: av.Packet[Any]) -> str:
        """Return the type of the first slice segment."""
        for unit in split_units(bytes(packet), self._length_bytes):
            if len(unit) < 3:
                continue
            kind = unit[0] >> 1 & 0x3F
            if kind == 34:
                self._note(unit)
            elif kind < 32 and not unit[0] & 1 and not unit[1] >> 3:  # of the base layer
                return self._type_of(unit, kind)
        return ""

    def _note(self, unit: bytes) -> None:
        if len(unit) < 3 or unit[0] >> 1 & 0x3F != 34:
            return
        bits = Bits(unit[2:_SLICE_BYTES])
        try:
            number = bits.unsigned()
            bits.unsigned()  # the sequence parameter set
            bits.take(2)  # dependent_slice_segments_enabled_flag, output_flag_present_flag
            self._extra_bits[number] = bits.take(3)
        except EOFError:
            return

    def _type_of(self, unit: bytes, kind: int) -> str:
        bits = Bits(unit[2:_SLICE_BYTES])
        try:
            if not bits.flag():  # the first slice segment of the picture is lost
                return ""
            if 16 <= kind <= 23:
                bits.take(1)  # no_output_of_prior_pics_flag
            bits.take(self._extra_bits[bits.unsigned()])
            slice_type = bits.unsigned()
        except (EOFError, KeyError):
            return ""
        return _HEVC_TYPES[slice_type] if slice_type < 3 else ""
