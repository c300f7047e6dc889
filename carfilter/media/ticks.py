"""Timestamps: ticks of a time base, exact seconds, and packets moved in time."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av


def as_fraction(ratio: Any) -> Fraction:
    """Return a time base or a rate as the Fraction that PyAV 18 gives; 19 has its own type."""
    if isinstance(ratio, Fraction):
        return ratio
    return Fraction(ratio.numerator, ratio.denominator)


def packet_seconds(packet: av.Packet[Any]) -> Fraction | None:
    """Return the dts of a packet, or its pts where it has none, in seconds; None without both."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    if stamp is None or not packet.time_base:
        return None
    return stamp * as_fraction(packet.time_base)


def frame_seconds(frame: av.VideoFrame) -> Fraction | None:
    """Return the time of a frame in seconds, if it has one."""
    if frame.pts is None or not frame.time_base:
        return None
    return frame.pts * as_fraction(frame.time_base)


def shift_packet(packet: av.Packet[Any], ticks: int) -> None:
    """Move a packet by ticks of its own time base."""
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks


def rescale(ticks: int, base: Any, wanted: Any) -> int:
    """Return the nearest tick of another time base, halves away from zero, as muxers round.

    In whole numbers: it runs for each packet, and Fractions would take ten times as long.
    """
    scaled = ticks * base.numerator * wanted.denominator
    divisor = base.denominator * wanted.numerator
    nearest: int = (2 * abs(scaled) + divisor) // (2 * divisor)
    return nearest if scaled >= 0 else -nearest
