"""A live source: a camera that may go away and come back, on one time line that starts at zero.

Each connection is a session with timestamps of its own. They are moved so that a session begins as
much later than the last one ended as it did on the wall clock: an outage stays visible as a gap of
its true length, and audio and video stay together.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import av

from carfilter.errors import DecodingDeviceError, MediaError
from carfilter.media.libav.stream import codec_number
from carfilter.media.opening import is_url
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, Event, Source, open_source
from carfilter.media.streams import stream_codec
from carfilter.media.ticks import as_fraction, frame_seconds, packet_seconds, shift_packet

logger = logging.getLogger("carfilter")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two tries to connect
_BLOCKED_SECONDS = 0.015  # a read that takes longer waited for the network
_BURST_SECONDS, _BURST_BYTES = 0.5, 16 << 20  # of what FFmpeg collected while it probed the streams
_RECENT_PACKETS = 4096  # of the video; a playlist that is opened again begins with some of them
_JITTER_SECONDS = 0.5  # by which an event may come later than those before
_AFTER_END_SECONDS = 1.0  # audio may come that much later than the video beside it

_Mark: TypeAlias = tuple[int | None, int]  # dts and size, by which a packet is known again
_Kind: TypeAlias = tuple[str, str]  # of a stream: its type and codec


def open_live(source: str | Path, options: SourceOptions, stop: threading.Event) -> LiveSource:
    """Open a camera, stream or pipe that is followed until `stop`, and across its outages.

    A network source without a length of its own is opened again whenever it ends or falls silent;
    one that has a length, a pipe or a file ends where it ends.

    Args:
        options: `end_seconds` counts from the first frame; there is nothing to seek in.

    Raises:
        MediaError: the first connection fails; later ones are tried again, less and less often.
    """
    if Path(source).is_file():
        raise MediaError(f"{source}: is a file and no live source; leave out --live")
    if str(source) == "-" and stat.S_ISREG(os.fstat(0).st_mode):
        raise MediaError("stdin: is a file and no live source; leave out --live")
    if options.start_seconds is not None:
        raise MediaError(f"{source}: -ss has no place in a live source; leave it out")
    return LiveSource(_open_session(source, options), stop)


class LiveSource(Source):
    """A Source over several sessions; what is asked of it stays true after the first has ended."""

    def __init__(self, first: _Session, stop: threading.Event) -> None:
        super().__init__(
            first.name, first.place, first.container, first.video, first.copied, first.options
        )
        self._hardware = first._hardware
        self._session, self._stop = first, stop
        # Read now: the container they belong to is closed when the camera goes away.
        self._time_base, self._rate = first.time_base, first.rate
        self._seconds = first.seconds
        self._end = first.limit_seconds
        self._wait = _FIRST_WAIT  # seconds before the next try to connect
        self._line = _TimeLine(self._time_base, self._end)

    @property
    def time_base(self) -> Fraction:
        return self._time_base

    @property
    def rate(self) -> Fraction | None:
        return self._rate

    @property
    def seconds(self) -> float | None:
        return self._seconds if self._end is None else self._end

    def events(self) -> Iterator[Event]:
        """Yield decoded frames and packets to copy until the stop, -t, or the end of a file.

        Raises:
            MediaError: the first damaged frame or outage under stop_on_error.
            DecodingDeviceError: the device has failed under a source that cannot be opened again.
        """
        line = self._line
        session: _Session | None = self._session
        while session is not None:
            try:
                for event in session.events():
                    if session.is_new(event) and line.place(event, session):
                        self._wait = _FIRST_WAIT
                        yield event
                    if line.is_past_end or self._stop.is_set():
                        return
            except DecodingDeviceError as error:
                if not is_url(self.name):
                    raise
                session.lost = str(error)
                self.options = replace(self.options, hwaccel=None)  # a recorder goes on without it
            finally:
                self.report.add(session.report)
            session = self._next_session(session)

    def close(self) -> None:
        """Close the session that is open."""
        self._session.close()

    def _next_session(self, ended: _Session) -> _Session | None:
        """Connect again with growing pauses; None if the source or -t has ended or it is stopped.

        The pauses grow on, too, where a session brings nothing that is new.
        """
        if not is_url(self.name) or (self._seconds is not None and not ended.lost):
            return None
        logger.warning("%s: gone (%s); connecting again", self.name, ended.lost or "end of stream")
        ended.close()  # first, since a UDP port can be opened once only
        since = time.monotonic()
        while not self._stop.wait(min(self._wait, self._line.seconds_left)):
            if self._line.seconds_left <= 0:
                return None
            self._wait = min(self._wait * 2, _LONGEST_WAIT)
            try:
                session = _open_session(self.name, self.options, ended)
            except MediaError as error:
                logger.debug("%s; next try in %g s", error, self._wait)
                continue
            self._session = session
            if session.seconds is not None and not ended.lost:
                logger.info("%s: is complete now and has been read to its end", self.name)
                return None
            self.report.reconnects += 1
            logger.warning("%s: back after %.1f s", self.name, time.monotonic() - since)
            if not session.has_all:
                logger.warning("%s: came back with other streams; only the same go on", self.name)
            return session
        return None


class _Session(Source):
    """One connection: knows when, on the wall clock, its first packet was new.

    Args:
        before: the session that it goes on from, if it is not the first.
    """

    began: float | None = None  # seconds of time.monotonic()
    first_seconds = Fraction(0)  # the earliest timestamp
    codecs: Mapping[int, _Kind]  # of the first session's streams but the video
    goes_on = False  # with the timestamps of the one before, some of whose packets it repeats

    def __init__(
        self, source: Source, limit_seconds: float | None, before: _Session | None = None
    ) -> None:
        super().__init__(
            source.name,
            source.place,
            source.container,
            source.video,
            source.copied,
            source.options,
        )
        self._hardware = source._hardware
        self.limit_seconds = limit_seconds  # of the whole live source
        codecs = {stream.index: (stream.type, stream_codec(stream)) for stream in source.copied}
        # What comes later is carried on under the numbers of the first session.
        self.codecs = codecs if before is None else before.codecs
        numbers = _same_streams(codecs, self.codecs)
        count = len(source.container.streams)
        self._numbers = {now: first for now, first in numbers.items() if first < count}
        self.has_all = len(codecs) == len(self._numbers) == len(self.codecs)
        self._before, self._is_first = before, before is None
        self._recent: deque[_Mark] = deque(maxlen=_RECENT_PACKETS)
        self._reached: dict[int, Fraction] = {}  # seconds of the last event by stream

    def packets(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet[Any]]:
        """Read what was collected while probing at once: only then is it known how old it is.

        Of the first session nobody asks, so of that nothing is held back.
        """
        packets = self._packets(streams)
        burst = list(islice(packets, 1)) if self._is_first else self._collected(packets)
        stamps = [stamp for stamp in map(packet_seconds, burst) if stamp is not None]
        if stamps:
            starts = [_start_seconds(stream) for stream in streams] if self._is_first else []
            self.first_seconds = min([*stamps, *(start for start in starts if start is not None)])
            self.began = time.monotonic() - float(max(stamps) - self.first_seconds)
        yield from chain(burst, packets)

    def _collected(self, packets: Iterator[av.Packet[Any]]) -> list[av.Packet[Any]]:
        """Return what can be read without waiting, within bounds, and the packet that ends it.

        One of the video is among them, which tells whether the session goes on where the one before
        was; then how old the packets are is not asked.
        """
        burst, size = list[Any](), 0
        began = asked = time.monotonic()
        for packet in packets:
            burst.append(packet)
            size, answered = size + packet.size, time.monotonic()
            waited, lasted = answered - asked > _BLOCKED_SECONDS, answered - began > _BURST_SECONDS
            is_compared = self._before is None
            if self.goes_on or size > _BURST_BYTES or (is_compared and (waited or lasted)):
                break
            asked = answered
        return burst

    def _packets(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet[Any]]:
        """Note the packets of the video, and end where it changes its codec: a new session decodes
        the other one, where there can be one."""
        codec, has_begun = codec_number(self.video), False
        may_return = is_url(self.name) and self.seconds is None
        for packet in super().packets(streams):
            if packet.stream_index == self.video.index and packet.size:
                is_same = codec_number(self.video) == codec
                if has_begun and not is_same and may_return:
                    self.lost = "its video changes to another codec"
                    return
                has_begun = has_begun or is_same
                if self._before is not None:
                    self._compare(packet, self._before)
                self._recent.append((packet.dts, packet.size))
            yield packet

    def _compare(self, packet: av.Packet[Any], before: _Session) -> None:
        """See by its first packet whether this is a playlist in which the last session stands."""
        self._before = None
        if "hls" not in self.container.format.name or before.report.jumps:
            return
        if (packet.dts, packet.size) in before._recent or self.seconds is not None:
            self.goes_on, self._reached = True, before._reached

    def is_new(self, event: Event) -> bool:
        """Say whether an event is one that goes on here and was not given before; a packet gets
        the number that its stream had at first."""
        if isinstance(event, Decoded):
            index, seconds = self.video.index, frame_seconds(event.frame)
        else:
            index, seconds = event.stream_index, packet_seconds(event)
        if seconds is not None:
            if self.goes_on and seconds <= self._reached.get(index, seconds - 1):
                return False
            self._reached[index] = max(seconds, self._reached.get(index, seconds))
        if isinstance(event, Decoded):
            return True
        number = self._numbers.get(index)
        if number is not None and number != index:
            # By a stream that is open: the first session's was closed with its container.
            event.stream = self.container.streams[number]
        return number is not None


class _TimeLine:
    """Move the timestamps of all sessions onto one line that begins at zero and never goes back."""

    def __init__(self, time_base: Fraction, end: float | None) -> None:
        self.is_past_end = False
        self._base, self._end = time_base, end
        self._session: _Session | None = None
        self._offset = Fraction(0)  # seconds that are added within the present session
        self._latest = Fraction(0)  # seconds on the line
        self._lag: float | None = None  # seconds on the line + lag = time.monotonic()
        self._is_lag_old = False  # of the session before
        self._last_pts: int | None = None

    def place(self, event: Event, session: _Session) -> bool:
        """Move an event; False if it lies behind the end."""
        if session is not self._session:
            self._start(session)
        if isinstance(event, Decoded):
            seconds: Fraction | None = self._move_frame(event.frame)
        else:
            seconds = self._move_packet(event)
        if seconds is None:
            return True
        self._latest = max(self._latest, seconds)
        # The decoder gives its last frames when the silence is noticed: that is not their time.
        lag = time.monotonic() - float(seconds)
        if self._lag is None or self._is_lag_old or lag < self._lag + _JITTER_SECONDS:
            self._lag, self._is_lag_old = lag, False
        self.is_past_end = self._end is not None and seconds >= self._end + _AFTER_END_SECONDS
        return self._end is None or seconds < self._end

    @property
    def seconds_left(self) -> float:
        """Seconds on the clock until the end of the line, if it has one and has begun."""
        if self._end is None or self._lag is None:
            return math.inf
        return self._end + self._lag - time.monotonic()

    def _start(self, session: _Session) -> None:
        begins = Fraction(0)
        if self._lag is not None:
            began = time.monotonic() if session.began is None else session.began
            begins = max(Fraction(began - self._lag), self._latest + self._base)
            self._is_lag_old = True
        self._session = session
        if not session.goes_on:
            self._offset = begins - session.first_seconds

    def _move_frame(self, frame: av.VideoFrame) -> Fraction:
        assert frame.pts is not None  # a Source has seen to it
        pts = round((frame.pts * as_fraction(frame.time_base) + self._offset) / self._base)
        if self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        self._last_pts, frame.pts, frame.time_base = pts, pts, self._base
        return pts * self._base

    def _move_packet(self, packet: av.Packet[Any]) -> Fraction | None:
        if packet.time_base:
            shift_packet(packet, round(self._offset / as_fraction(packet.time_base)))
        return packet_seconds(packet)


def _open_session(
    source: str | Path, options: SourceOptions, before: _Session | None = None
) -> _Session:
    # -t counts over all sessions, so none of them may apply it.
    opened = open_source(source, replace(options, end_seconds=None, live=True))
    return _Session(opened, options.end_seconds, before)


def _start_seconds(stream: av.stream.Stream) -> Fraction | None:
    """Return when a stream begins, as far as FFmpeg has seen it while it probed."""
    if stream.start_time is None or not stream.time_base:
        return None
    return stream.start_time * as_fraction(stream.time_base)


def _same_streams(now: Mapping[int, _Kind], first: Mapping[int, _Kind]) -> dict[int, int]:
    """Return the number that each stream had at first: by the same number if its codec is the same,
    else by its codec, where only one stream has it."""
    numbers = {number: number for number, kind in now.items() if first.get(number) == kind}
    rest = {number: kind for number, kind in first.items() if number not in numbers}
    for number, kind in now.items():
        alike = [n for n, other in rest.items() if other == kind]
        others = [n for n, other in now.items() if other == kind and n not in numbers]
        if number not in numbers and len(alike) == 1 and others == [number]:
            numbers[number] = alike[0]
    return numbers
