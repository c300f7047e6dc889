"""The stretch of a source that -ss, -t and -to leave: its frames and packets, and their shift."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.error

from carfilter.media.clock import MPEG, Clock
from carfilter.media.opening import OpenAgain
from carfilter.media.qp.avc import AvcQp
from carfilter.media.selection import is_picture
from carfilter.media.ticks import as_fraction, packet_seconds, shift_packet

_MOST_REORDERED = 16  # pictures, in H.264 and HEVC
_FAR = 10  # seconds from zero at which a source begins by a clock


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
        self.shift = Fraction(0)  # seconds that are taken off all times
        self._reach: int | None = None  # a byte of the file, behind which the start does not lie
        self.has_audio = any(stream.type == "audio" for stream in copied)
        self.video_ended = False

    @property
    def begins_by_a_clock(self) -> bool:
        """Whether the source begins so far from zero that its times are those of some clock."""
        return self.begins_before_zero or abs(self.first) > _FAR

    @property
    def begins_before_zero(self) -> bool:
        """Whether its clock began anew on the way, as MPEG's does behind 2^33: few containers hold
        such times."""
        return self.container.format.name in MPEG and self.first < 0

    def seek(self, again: OpenAgain) -> bool:
        """Go to a key frame before the start; False where none is found or the source cannot seek.

        The reader may stand anywhere afterwards if there is none.
        """
        assert self.begin is not None
        try:
            # FFmpeg seeks in these by time alone, which recordings that were joined repeat.
            if self.container.format.name in MPEG:
                self._reach = self._byte_of(self.begin, again)
                if self._reach is None:
                    return False
            place = self._place_of_key(self.begin)
            if place is not None:
                self._go_to(place)
        except (av.error.FFmpegError, IndexError):  # https://github.com/PyAV-Org/PyAV/issues/692
            return False
        self.video.codec_context.flush_buffers()
        return place is not None

    def _byte_of(self, begin: Fraction, again: OpenAgain) -> int | None:
        """Return where in the file reading comes to a time; None where its clock jumps before."""
        with again() as twin:
            video = next(s for s in twin.streams.video if s.index == self.video.index)
            clock = Clock(twin, video)
            for packet in twin.demux(video):
                clock.correct(packet)
                at = packet_seconds(packet)
                if clock.jumps or (at is not None and at >= begin):
                    return None if clock.jumps else packet.pos
        return None

    def _place_of_key(self, begin: Fraction) -> Fraction | None:
        """Return where to seek so that a key frame lies between there and `begin`; None where that
        is the beginning of the source.

        FFmpeg seeks in MPEG-TS by time alone, and decoding would begin at the next key frame.
        """
        back = Fraction(0)
        while (place := begin - back) > self.first:
            self._go_to(place)
            if self._meets_key(begin):
                return place
            back = 2 * back or Fraction(1)
        return None

    def _go_to(self, place: Fraction) -> None:
        self.container.seek(int(place * 1_000_000), backward=True)

    def _meets_key(self, begin: Fraction) -> bool:
        """Say whether reading on from here meets a key frame that is shown not later than `begin`:
        pictures that are shown before their key frame cannot be decoded without the one before.

        With periodic intra refresh it is two of them, for from the first on the picture is only
        built up, and whole at the next.
        """
        is_built_up = False
        for packet in self.container.demux(self.video):
            at = packet_seconds(packet)
            if at is None or at > begin or self._is_behind(packet):
                return False
            if packet.is_keyframe:
                late = self._most_reordered() if packet.pts is None else Fraction(0)
                shown = at if packet.pts is None else packet.pts * as_fraction(packet.time_base)
                if shown + late > begin:
                    return False
                if is_built_up or self._is_whole(packet):
                    return True
                is_built_up = True
        return False

    def _is_whole(self, packet: av.Packet[Any]) -> bool:
        """Say whether a key frame is one, and not a picture of H.264 from which on one is built up,
        which FFmpeg marks alike."""
        if self.video.codec_context.codec.canonical_name != "h264":
            return True
        told = AvcQp(self.video.codec_context.extradata or b"").read(bytes(packet))
        return told is None or told[0] == "I"

    def _is_behind(self, packet: av.Packet[Any]) -> bool:
        """Say whether a packet lies behind where reading comes to the start: what was spliced to a
        file may count from zero as well."""
        return self._reach is not None and packet.pos is not None and packet.pos > self._reach

    def _most_reordered(self) -> Fraction:
        """Return by how many seconds a picture may be shown later than it is decoded."""
        rate = self.video.average_rate
        return _MOST_REORDERED / (as_fraction(rate) if rate else Fraction(25))

    def keeps_frame(self, frame: av.VideoFrame, time_base: Fraction) -> bool:
        """Say whether a frame lies inside, and shift it."""
        assert frame.pts is not None
        at = frame.pts * time_base
        if self.end is not None and at >= self.end:
            self.video_ended = True
            return False
        if self.begin is not None and at < self.begin:
            return False
        frame.pts -= round(self.shift / time_base)
        return True

    def holds(self, at: Fraction) -> bool:
        """Say whether a time of the source, in seconds, lies inside."""
        return not (self.begin is not None and at < self.begin) and not (
            self.end is not None and at >= self.end
        )

    def keeps_packet(self, packet: av.Packet[Any]) -> bool:
        """Say whether a packet of another stream lies inside, and shift it alike."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or not packet.time_base:
            return True
        base = as_fraction(packet.time_base)
        if self.end is not None and stamp * base >= self.end:
            return False
        if is_picture(packet.stream):
            return True  # it belongs to no time
        if self.begin is not None and stamp * base < self.begin:
            return False
        shift_packet(packet, -round(self.shift / base))
        return True

    def chapters(self, shift: Fraction) -> list[Any]:
        """Return the chapters that have a part inside, cut to it, `shift` seconds earlier."""
        kept: list[Any] = []
        for chapter in self.container.chapters():
            if chapter["time_base"]:
                base = chapter["time_base"] = as_fraction(chapter["time_base"])
                begin, end = chapter["start"] * base, chapter["end"] * base
                if (self.begin is not None and end <= self.begin) or (
                    self.end is not None and begin >= self.end
                ):
                    continue
                begin = begin if self.begin is None else max(begin, self.begin)
                end = end if self.end is None else min(end, self.end)
                chapter["start"] = max(round((begin - shift) / base), 0)
                chapter["end"] = max(round((end - shift) / base), 0)
            kept.append(chapter)
        return kept

    def is_past(self, packet: av.Packet[Any]) -> bool:
        """Say when to stop reading: the video has ended and the file is well past the end."""
        if self.end is None or not self.video_ended:
            return False
        if not self.has_audio:
            return True
        at = packet_seconds(packet)
        # Interleaving of up to a second is common; later packets belong to what was cut off.
        return at is not None and at > self.end + 1
