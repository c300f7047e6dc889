"""The clock of a source: timestamps that jump, repeat, go backwards or are missing.

A camera sets its clock, MPEG-TS counts to 2^33 and starts again, recordings are spliced: the
timestamps go on from where they were, by one offset for all streams, so that sound stays with the
picture. As FFmpeg's own discontinuity handling does it, except that each stream crosses a jump when
its own packets do: https://ffmpeg.org/ffmpeg.html (-dts_delta_threshold, -dts_error_threshold).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from carfilter.media.selection import is_picture
from carfilter.media.ticks import as_fraction, length_of, packet_seconds, rate_of, shift_packet

MPEG = ("mpegts", "mpeg")  # whose clocks begin anew behind 2^33 ticks
_TS_DISCONT = 0x200  # AVFMT_TS_DISCONT: the format may jump by itself, as MPEG-TS does
_BACKWARD = Fraction(1, 10)  # seconds; less is jitter, which is repaired frame by frame
_FORWARD_DISCONT = Fraction(10)  # of formats that jump by themselves
_FORWARD = Fraction(30 * 3600)  # of others, where a gap is a pause in the recording
_OVERLAP = Fraction(1)  # by which sound may start before the picture behind a splice
_SHORT, _SHORT_FRAMES = Fraction(1, 2), 4  # a file that ends so much early may be whole
_WITH_LENGTH = ("mov", "matroska")  # whose headers say it before the rest is written
# Of them those that say where they end, and not how long they are, if FFmpeg's muxer made them:
# https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/matroskaenc.c (mkv->duration)
_FROM_ZERO = ("matroska",)
_KEPT = 8  # epochs that a late packet, or one behind a single wild timestamp, may belong to


@dataclass
class _Place:
    """Where a stream stands: in ticks as they were read, since fractions take their time."""

    offset: Fraction  # of its epoch, in seconds
    base: Fraction  # seconds of a tick
    ticks: int  # dts of the last packet
    duration: int  # of it
    calm: int  # ticks after it within which the next one cannot have jumped

    @property
    def last(self) -> Fraction:
        """Corrected seconds of the last packet."""
        return self.ticks * self.base + self.offset

    @property
    def next(self) -> Fraction:
        """Corrected seconds of its end."""
        return (self.ticks + self.duration) * self.base + self.offset


class Clock:
    """Correct the packets of one reading of a source, in the order of the file."""

    def __init__(self, container: av.container.InputContainer, video: av.VideoStream) -> None:
        jumps_by_itself = bool(container.format.flags & _TS_DISCONT)
        self.forward = _FORWARD_DISCONT if jumps_by_itself else _FORWARD
        self.wrap = Fraction(2**33, 90000) if container.format.name in MPEG else None
        self.video_index = video.index
        self.jumps = 0
        self.first_jump: tuple[float, float] | None = None  # where and by how much, in seconds
        self._offsets = [Fraction(0)]  # of the epochs, oldest first
        self._places: dict[int, _Place] = {}

    def correct(self, packet: av.Packet[Any]) -> None:
        """Shift a packet's timestamps by the offset of the epoch it belongs to."""
        place = self._places.get(packet.stream_index)
        if place is not None and self._goes_on(place, packet):
            if place.offset:
                shift_packet(packet, round(place.offset / place.base))
            return
        seconds, stream = packet_seconds(packet), packet.stream
        if seconds is None:
            return
        base = as_fraction(packet.time_base)
        if stream.type not in ("video", "audio") or is_picture(stream):
            offset = self._nearest(seconds)
        elif packet.dts is None:
            offset = place.offset if place else self._nearest(seconds)
        else:
            offset = self._follow(stream.index, seconds)
            self._places[stream.index] = _Place(
                offset, base, packet.dts, packet.duration or 0, int(self.forward / base)
            )
        if offset:
            shift_packet(packet, round(offset / base))

    def cut_off(self, container: av.container.InputContainer) -> str:
        """Return by how much a file has ended before its header says, "" where it has not, or where
        nobody can tell; call it at the end of the file."""
        video = next(s for s in container.streams.video if s.index == self.video_index)
        form = container.format.name.partition(",")[0]
        if self.jumps or form not in _WITH_LENGTH:
            return ""
        counts = form not in _FROM_ZERO
        if video.duration and video.time_base and self.video_index in self._places:
            ticks = ((counts and video.start_time) or 0) + video.duration
            end = ticks * as_fraction(video.time_base)
            reached = self._places[self.video_index].next
        else:
            lasting = [s for s in container.streams if s.type in ("video", "audio")]
            unread = [s for s in lasting if s.index not in self._places and not is_picture(s)]
            length = length_of(container)
            if unread or not self._places or length is None:
                return ""
            end = Fraction((counts and container.start_time) or 0, 1_000_000) + length
            reached = max(place.next for place in self._places.values())
        allowed = _SHORT + _SHORT_FRAMES / (rate_of(video) or Fraction(25))
        if end - reached <= allowed:
            return ""
        return f"cut off: it ends {float(end - reached):.1f} s before its header says"

    @staticmethod
    def _goes_on(place: _Place, packet: av.Packet[Any]) -> bool:
        """Say whether a packet follows the last one closely, and note it then.

        As nearly every packet does: the rest of this class would take longer than its demuxing.
        """
        dts = packet.dts
        if dts is None or not 0 <= dts - place.ticks <= place.calm:
            return False
        place.ticks, place.duration = dts, packet.duration or 0
        return True

    def _follow(self, index: int, seconds: Fraction) -> Fraction:
        place = self._places.get(index)
        if place is None:
            return self._nearest(seconds)
        if self._fits(place, seconds + place.offset, _BACKWARD):
            return place.offset
        return self._other_epoch(place, seconds)

    def _fits(self, place: _Place, at: Fraction, backward: Fraction) -> bool:
        # A pause of one stream while another goes on is a pause and no jump.
        reached = max(other.next for other in self._places.values())
        return at + backward >= place.last and at - reached <= self.forward

    def _other_epoch(self, place: _Place, seconds: Fraction) -> Fraction:
        """Return the offset of a known epoch that fits, or begin a new one at the stream's end."""
        newer = False
        fitting = []
        for offset in self._offsets:
            if self._fits(place, seconds + offset, _OVERLAP if newer else _BACKWARD):
                fitting.append(offset)
            newer = newer or offset == place.offset
        if fitting:
            return min(fitting, key=lambda offset: abs(seconds + offset - place.next))
        self.jumps += 1
        if self.first_jump is None:
            by = seconds + place.offset - place.next
            if self.wrap and by > self.wrap / 2:
                by -= self.wrap  # which FFmpeg adds to what goes back behind the start
            self.first_jump = float(place.next), float(by)
        self._offsets = [*self._offsets[1 - _KEPT :], place.next - seconds]
        return self._offsets[-1]

    def _nearest(self, seconds: Fraction) -> Fraction:
        """Return the offset by which a stream without a place yet is nearest to the picture."""
        place = self._places.get(self.video_index) or next(iter(self._places.values()), None)
        if place is None:
            return self._offsets[-1]
        now = place.last
        return min(reversed(self._offsets), key=lambda offset: abs(seconds + offset - now))


class FrameTimes:
    """Give every frame a pts above the last one: NUT aborts the process without.

    Args:
        step: ticks of a frame where the frame itself has no duration.
        first: time of the first frame if it has none.
    """

    def __init__(self, time_base: Fraction, step: int, first: int = 0) -> None:
        self.time_base, self.step, self.first = time_base, step, first
        self._last: int | None = None
        self._last_read: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}

    def repair(self, frame: av.VideoFrame) -> bool:
        """Set pts and time base; say whether the pts was missing or too low."""
        given, last = frame.pts, self._last
        if given is None:
            step = frame.duration or self.step
            pts = self.first if last is None else last + step
        else:
            pts = given if last is None else max(given, last + 1)
        frame.pts, frame.time_base = pts, self.time_base
        self._last = pts
        return pts != given

    def best_effort(self, frame: av.VideoFrame) -> int | None:
        """Return the frame's pts, or its packet's dts where these have been the better ones.

        Old AVI files hold dts alone. https://ffmpeg.org/doxygen/trunk/decode_8c_source.html
        (guess_correct_pts)
        """
        for name, value in (("pts", frame.pts), ("dts", frame.dts)):
            if value is not None:
                self._faults[name] += value <= self._last_read.get(name, value - 1)
                self._last_read[name] = value
        if frame.pts is None and frame.dts is None and set(self._last_read) == {"dts"}:
            # The last frames of a source that has dts alone: no packet brings them a dts.
            return None if self._last is None else self._last + (frame.duration or self.step)
        trusted = self._faults["pts"] <= self._faults["dts"] or frame.dts is None
        return frame.pts if trusted and frame.pts is not None else frame.dts
