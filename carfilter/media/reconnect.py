"""A live source: a camera that may go away and come back, on one time line that starts at zero.

Each connection is a session with timestamps of its own. They are moved so that a session begins as
much later than the last one ended as it did on the wall clock: an outage stays visible as a gap of
its true length, and audio and video stay together.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av

from carfilter.errors import DecodingDeviceError, MediaError
from carfilter.media.opening import is_url
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, Event, Source, open_source
from carfilter.media.streams import stream_codec
from carfilter.media.ticks import as_fraction, packet_seconds, shift_packet

logger = logging.getLogger("carfilter")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two tries to connect
_BLOCKED_SECONDS = 0.015  # a read that takes longer waited for the network
_BURST_PACKETS = 4096  # of what FFmpeg collected while it probed the streams
_JITTER_SECONDS = 0.5  # by which an event may come later than those before
_AFTER_END_SECONDS = 1.0  # audio may come that much later than the video beside it


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
        self._time_base, self._rate, self._codecs = first.time_base, first.rate, first.codecs
        self._seconds = first.seconds
        self._end = first.limit_seconds

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
        line = _TimeLine(self._time_base, self._end)
        session: _Session | None = self._session
        while session is not None:
            try:
                for event in session.events():
                    if self._knows(event, session) and line.place(event, session):
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

    def _knows(self, event: Event, session: _Session) -> bool:
        """Say whether an event's stream is one that the first session had as well."""
        if isinstance(event, Decoded):
            return True
        codec = self._codecs.get(event.stream_index)
        return codec is not None and session.codecs.get(event.stream_index) == codec

    def _next_session(self, ended: _Session) -> _Session | None:
        """Connect again with growing pauses; None if the source has ended or the run is stopped."""
        if not is_url(self.name) or (self._seconds is not None and not ended.lost):
            return None
        logger.warning("%s: gone (%s); connecting again", self.name, ended.lost or "end of stream")
        ended.close()  # first, since a UDP port can be opened once only
        wait, since = _FIRST_WAIT, time.monotonic()
        while not self._stop.wait(wait):
            try:
                self._session = _open_session(self.name, self.options)
            except MediaError as error:
                wait = min(wait * 2, _LONGEST_WAIT)
                logger.debug("%s; next try in %g s", error, wait)
                continue
            self.report.reconnects += 1
            logger.warning("%s: back after %.1f s", self.name, time.monotonic() - since)
            if self._session.codecs != self._codecs:
                logger.warning("%s: came back with other streams; only the same go on", self.name)
            return self._session
        return None


class _Session(Source):
    """One connection: knows when, on the wall clock, its first packet was new."""

    began: float | None = None  # seconds of time.monotonic()
    first_seconds = Fraction(0)  # the earliest timestamp

    def __init__(self, source: Source, limit_seconds: float | None) -> None:
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
        self.codecs = {s.index: stream_codec(s) for s in (source.video, *source.copied)}

    def packets(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet[Any]]:
        """Read what was collected while probing at once: only then is it known how old it is."""
        packets, burst = super().packets(streams), list[Any]()
        asked = time.monotonic()
        for packet in packets:
            burst.append(packet)
            answered = time.monotonic()
            if answered - asked > _BLOCKED_SECONDS or len(burst) >= _BURST_PACKETS:
                break
            asked = answered
        stamps = [stamp for stamp in map(packet_seconds, burst) if stamp is not None]
        if stamps:
            self.first_seconds = min(stamps)
            self.began = time.monotonic() - float(max(stamps) - self.first_seconds)
        yield from chain(burst, packets)


class _TimeLine:
    """Move the timestamps of all sessions onto one line that begins at zero and never goes back."""

    def __init__(self, time_base: Fraction, end: float | None) -> None:
        self.is_past_end = False
        self._base, self._end = time_base, end
        self._session: _Session | None = None
        self._offset = Fraction(0)  # seconds that are added within the present session
        self._latest = Fraction(0)  # seconds on the line
        self._lag: float | None = None  # seconds on the line + lag = time.monotonic()
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
        self._lag = lag if self._lag is None or lag < self._lag + _JITTER_SECONDS else self._lag
        self.is_past_end = self._end is not None and seconds >= self._end + _AFTER_END_SECONDS
        return self._end is None or seconds < self._end

    def _start(self, session: _Session) -> None:
        begins = Fraction(0)
        if self._lag is not None:
            began = time.monotonic() if session.began is None else session.began
            begins = max(Fraction(began - self._lag), self._latest + self._base)
            self._lag = None
        self._session, self._offset = session, begins - session.first_seconds

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


def _open_session(source: str | Path, options: SourceOptions) -> _Session:
    # -t counts over all sessions, so none of them may apply it.
    opened = open_source(source, replace(options, end_seconds=None, live=True))
    return _Session(opened, options.end_seconds)
