"""What one stream of a file is, and what its packets hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av

from carfilter.media.ticks import as_fraction


@dataclass(frozen=True)
class Stream:
    """One stream; of a video, sizes and rates as the container says them, as in ffprobe."""

    index: int
    kind: str  # video, audio, subtitle, data, attachment
    codec: str  # FFmpeg's name; "unknown" where it has none
    profile: str
    language: str
    packets: int  # with data in them
    bytes: int
    sha256: str  # of its packets, as `ffmpeg -map 0 -c copy -copyinkf -f streamhash` has it
    start_seconds: float | None
    declared_seconds: float | None
    time_base: Fraction
    width: int = 0
    height: int = 0
    pix_fmt: str = ""
    average_rate: Fraction | None = None
    base_rate: Fraction | None = None  # ffprobe's r_frame_rate
    sample_rate: int = 0
    channels: int = 0
    is_main: bool = False  # the video that carfilter restores; all else is copied


@dataclass
class Contents:
    """What the packets of a stream hold, while they pass by."""

    packets: int = 0
    bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def count(self, packet: av.Packet[Any]) -> None:
        """Take a packet with data into account."""
        self.packets += 1
        self.bytes += packet.size
        self.digest.update(packet)

    def of(self, stream: Stream) -> Stream:
        """Return a stream with what its packets hold."""
        sha256 = self.digest.hexdigest()
        return replace(stream, packets=self.packets, bytes=self.bytes, sha256=sha256)


def described(stream: av.stream.Stream, *, is_main: bool) -> Stream:
    """Return what a stream says of itself, without its packets."""
    base = as_fraction(stream.time_base) if stream.time_base else Fraction(0)
    context = stream.codec_context
    shown = Stream(
        index=stream.index,
        kind=stream.type,
        codec=context.codec.canonical_name if context else "unknown",
        profile=(context.profile or "") if context else "",
        language=stream.metadata.get("language", ""),
        packets=0,
        bytes=0,
        sha256="",
        start_seconds=None if stream.start_time is None else float(stream.start_time * base),
        declared_seconds=None if not stream.duration else float(stream.duration * base),
        time_base=base,
        is_main=is_main,
    )
    if isinstance(stream, av.VideoStream) and context:
        return replace(
            shown,
            width=stream.width,
            height=stream.height,
            pix_fmt=stream.codec_context.pix_fmt or "",
            average_rate=_rate(stream.average_rate),
            base_rate=_rate(stream.base_rate),
        )
    if isinstance(stream, av.AudioStream) and context:
        return replace(shown, sample_rate=stream.sample_rate, channels=stream.channels)
    return shown


def _rate(rate: Any) -> Fraction | None:
    return as_fraction(rate) if rate else None
