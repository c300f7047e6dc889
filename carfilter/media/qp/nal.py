"""The units of H.264 and HEVC, with start codes or lengths, and the bits of their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import av

Told = TypeVar("Told")

_START = b"\x00\x00\x01"
_MOST_ZEROS = 32  # before the first one of a code: no number has more bits


def split_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield each NAL unit of a packet, its header first.

    Args:
        length_bytes: of the number before each unit; 0 where they follow start codes instead.
    """
    if not length_bytes:
        at = data.find(_START)
        while at >= 0:
            end = data.find(_START, at + 3)
            yield data[at + 3 : end if end >= 0 else None]
            at = end
        return
    at = 0
    while at + length_bytes < len(data):
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        yield data[at : at + length]
        at += length


def hvcc_units(extradata: bytes) -> tuple[list[bytes], int]:
    """Return the parameter sets that a HEVC decoder is given, and the bytes of a unit's length."""
    # ISO/IEC 14496-15, 8.3.3.1: hvcC begins with 1, and holds parameter sets from byte 22 on.
    if len(extradata) < 23 or extradata[0] != 1:
        return list(split_units(extradata, 0)), 0
    found = []
    at = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        units, at = _counted_units(extradata, at + 3, count)
        found += units
    return found, (extradata[21] & 3) + 1


def avcc_units(extradata: bytes) -> tuple[list[bytes], int]:
    """Return the parameter sets that an H.264 decoder is given, and the bytes of a length."""
    # ISO/IEC 14496-15, 5.3.3.1: avcC begins with 1; from byte 5 on, SPS and then PPS.
    if len(extradata) < 7 or extradata[0] != 1:
        return list(split_units(extradata, 0)), 0
    sequences, at = _counted_units(extradata, 6, extradata[5] & 31)
    pictures, _ = _counted_units(extradata, at + 1, int.from_bytes(extradata[at : at + 1], "big"))
    return sequences + pictures, (extradata[4] & 3) + 1


def _counted_units(extradata: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Return so many units from a place on, each after two bytes of length, and where they end."""
    found = []
    for _ in range(count):
        if at + 2 >= len(extradata):
            break
        length = int.from_bytes(extradata[at : at + 2], "big")
        found.append(extradata[at + 2 : at + 2 + length])
        at += 2 + length
    return found, at


def new_extradata(packet: av.Packet[Any]) -> bytes | None:
    """Return the extradata of a packet and those after it, where they are not those before."""
    if not packet.has_sidedata("new_extradata"):
        return None
    return bytes(packet.get_sidedata("new_extradata"))


def unescaped(data: bytes) -> bytes:
    """Return a unit without the bytes that keep start codes apart: H.264 and H.265, 7.4.1."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


class Bits:
    """Bits of a header from the front.

    Its methods raise EOFError beyond the end.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0  # bits that were taken

    def take(self, count: int) -> int:
        begin, end = self._at, self._at + count
        last = (end + 7) // 8
        if last > len(self._data):
            raise EOFError
        self._at = end
        # Of the bytes around them alone: of a damaged set there may be a million.
        value = int.from_bytes(self._data[begin // 8 : last], "big")
        return value >> (8 * last - end) & (1 << count) - 1

    def flag(self) -> bool:
        return bool(self.take(1))

    def unsigned(self) -> int:
        """Read ue(v), an Exp-Golomb code: H.264, 9.1; H.265, 9.2."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > _MOST_ZEROS:
                raise EOFError
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Read se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def keep_set(sets: dict[int, Told], read: Callable[[Bits], tuple[int, Told]], body: bytes) -> None:
    """Keep what a parameter set tells, by its number; a damaged one changes nothing.

    Args:
        read: raises EOFError, IndexError or ValueError where it makes no sense.
        body: the unit without its header, escaped.
    """
    try:
        number, told = read(Bits(unescaped(body)))
    except (EOFError, IndexError, ValueError):
        return
    sets[number] = told
