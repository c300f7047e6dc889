"""How coarsely a JPEG picture was quantised, by the tables in its headers: ITU-T T.81, annex B."""

from __future__ import annotations

_TABLES, _SCAN = 0xDB, 0xDA  # second bytes of the markers DQT and SOS
_LUMA = 0  # the table that luma has in all of JFIF and in cameras
_COARSE_DETAIL = 15  # coefficients of lowest frequency, most of what a picture holds


def jpeg_step(data: bytes) -> float | None:
    """Return the mean step of luma's lowest frequencies, in grey levels; None without tables."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _TABLES:
            step = _luma_step(data[at + 4 : end])
            if step:
                return step
        at = end
    return None


def _luma_step(tables: bytes) -> float | None:
    """Return that step of the tables of one segment, which stand in zigzag order."""
    while tables:
        width = 1 + (tables[0] >> 4 & 1)  # bytes of a number
        numbers = tables[1 : 1 + 64 * width]
        if tables[0] & 15 == _LUMA and len(numbers) == 64 * width:
            low = numbers[: width * _COARSE_DETAIL]
            values = [int.from_bytes(low[i : i + width], "big") for i in range(0, len(low), width)]
            return sum(values) / len(values)
        tables = tables[1 + 64 * width :]
    return None
