"""The stretch of a source that -ss, -t and -to leave: its frames and packets, and their shift."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.error

from carfilter.media.selection import is_picture
from carfilter.media.ticks import as_fraction, packet_seconds

# Seconds: seeking goes by dts, and those of the first frames lie before the time a file begins at.
_BEFORE_START = 10


class Cut:
    """Which frames and packets lie inside; one is made for each reading of a source.

    Args:
        start_seconds, end_seconds: from the start of the source; None is no limit.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        video: av.VideoStream,
        copied: Sequence[av.stream.Stream],
        start_seconds: float | None,
        end_seconds: float | None,
    ) -> None:
        self.first = first = Fraction(container.start_time or 0, 1_000_000)
        self.container, self.video = container, video
        self.begin, self.end = (
            None if seconds is None else first + Fraction(seconds).limit_denominator(10**6)
            for seconds in (start_seconds, end_seconds)
        )
        self.has_audio = any(stream.type == "audio" for stream in copied)
        self.video_ended = False

    def seek(self) -> None:
        """Go to the key frame before the start where the source can seek."""
        if self.begin is None:
            return
        try:
            self._go_to(self._place_of_key(self.begin))
        except av.error.FFmpegError:
            return  # a pipe: decode from its beginning and drop
        self.video.codec_context.flush_buffers()

    def _place_of_key(self, begin: Fraction) -> Fraction:
        """Return where to seek so that a key frame lies between there and `begin`.

        FFmpeg seeks in MPEG-TS by time alone, and decoding would begin at the next key frame.
        """
        back = Fraction(0)
        while (place := begin - back) > self.first:
            self._go_to(place)
            if self._meets_key(begin):
                return place
            back = 2 * back or Fraction(1)
        return self.first - _BEFORE_START

    def _go_to(self, place: Fraction) -> None:
        self.container.seek(int(place * 1_000_000), backward=True)

    def _meets_key(self, begin: Fraction) -> bool:
        """Say whether reading on from here meets a key frame not later than `begin`."""
        for packet in self.container.demux(self.video):
            at = packet_seconds(packet)
            if at is None or at > begin:
                return False
            if packet.is_keyframe:
                return True
        return False

    def keeps_frame(self, frame: av.VideoFrame, time_base: Fraction) -> bool:
        """Say whether a frame lies inside, and shift it so that the start becomes zero."""
        if frame.pts is None or (self.begin is None and self.end is None):
            return not self.video_ended
        at = frame.pts * time_base
        if self.end is not None and at >= self.end:
            self.video_ended = True
            return False
        if self.begin is not None:
            if at < self.begin:
                return False
            frame.pts -= round(self.begin / time_base)
        return True

    def keeps_packet(self, packet: av.Packet[Any]) -> bool:
        """Say whether a packet of another stream lies inside, and shift it alike."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or not packet.time_base or (self.begin is None and self.end is None):
            return True
        base = as_fraction(packet.time_base)
        if self.end is not None and stamp * base >= self.end:
            return False
        if self.begin is not None:
            if stamp * base < self.begin and not is_picture(packet.stream):
                return False
            shift = round(self.begin / base)
            packet.pts = None if packet.pts is None else max(packet.pts - shift, 0)
            packet.dts = None if packet.dts is None else packet.dts - shift
        return True

    def is_past(self, packet: av.Packet[Any]) -> bool:
        """Say when to stop reading: the video has ended and the file is well past the end."""
        if self.end is None or not self.video_ended:
            return False
        if not self.has_audio:
            return True
        at = packet_seconds(packet)
        # Interleaving of up to a second is common; later packets belong to what was cut off.
        return at is not None and at > self.end + 1
