"""Timestamps: ticks of a time base, exact seconds, and packets moved in time."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av


_HIGHEST_RATE = 1000  # frames/s; beyond it a container tells its ticks (raw DV: 60000)
ENDLESS_MS = 2**32 - 1  # how long a subtitle lasts that says no end, for FFmpeg

BARE = {  # FFmpeg's muxers and demuxers
    *("h264", "hevc", "vvc", "m4v", "mpeg1video", "mpeg2video", "mpegvideo", "mjpeg", "obu"),
    *("yuv4mpegpipe", "rawvideo"),
}


def as_fraction(ratio: Any) -> Fraction:
    """Return a time base or a rate as the Fraction that PyAV 18 gives; 19 has its own type."""
    if isinstance(ratio, Fraction):
        return ratio
    return Fraction(ratio.numerator, ratio.denominator)


def has_times(container: av.container.Container) -> bool:
    """Say whether a container holds times; in a bare stream pictures have those of its rate."""
    return container.format.name not in BARE


def rate_of(video: av.VideoStream) -> Fraction | None:
    """Return the frames per second that a container says, a hint only; None where it does not."""
    average, guessed = video.average_rate, video.guessed_rate
    if average and guessed and average > _HIGHEST_RATE:
        average = guessed
    # FFmpeg's readers of bare streams take 25 for the average; what is coded tells more.
    rate = average or guessed if has_times(video.container) else guessed or average
    return as_fraction(rate) if rate else None


def length_of(container: av.container.InputContainer) -> Fraction | None:
    """Return the seconds that a container tells; None for pipes, live streams, and where a subtitle
    without an end is counted in."""
    length = container.duration
    if not length or not 0 < length < ENDLESS_MS * 1000:
        return None
    return Fraction(length, 1_000_000)


def is_constant(video: av.VideoStream) -> bool:
    """Say whether all pictures come at one rate, by what FFmpeg has read of them so far."""
    average, least = video.average_rate, video.base_rate
    if not has_times(video.container):
        return True
    return bool(average and least) and as_fraction(average) == as_fraction(least)


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
