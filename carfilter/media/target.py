"""Encode, mux and store: the encoder's settings, copied streams, and a target that is all or none.

A file grows under a temporary name beside the target and takes the target's name only when it is
complete and counted. One thread owns a Target.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error

from carfilter.errors import DownstreamClosedError, MediaError
from carfilter.media.conform import convert, is_full_range, lies_on_side, picture_form, upright
from carfilter.media.destination import Destination, choose_destination
from carfilter.media.encoder import COUNT_PICTURES, add_video, open_encoder
from carfilter.media.libav.stream import side_data_kinds
from carfilter.media.losses import Losses
from carfilter.media.opening import is_url
from carfilter.media.options import TargetOptions
from carfilter.media.routes import M2TS, Route, plan_routes
from carfilter.media.selection import is_picture
from carfilter.media.source import Source
from carfilter.media.streams import Carrier, add_attachment, add_cover, copy_tags, make_carrier
from carfilter.media.tags import copy_container_tags, keep_any_key
from carfilter.media.ticks import as_fraction, frame_seconds, has_times, packet_seconds, rescale
from carfilter.unfinished import is_stdout

logger = logging.getLogger("carfilter")

_HELD_BYTES = 64 << 20  # of copied packets that wait for the video
_KEY = 1  # AV_PICTURE_TYPE_I
_COUNT_FROM_ZERO = {"avi", "mxf", "mxf_opatom", "mxf_d10", "gxf"}  # frames, and not times


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(repr=False)
class Target:
    """An output that is being written; end it with finish(), keep_partial() or abandon()."""

    destination: Destination
    container: av.container.OutputContainer
    stream: av.VideoStream
    source: Source
    options: TargetOptions
    routes: list[Route]
    carriers: dict[int, Carrier]
    losses: Losses
    format_name: str  # FFmpeg's, of the file or of each segment
    frames: int = 0  # packets the video encoder gave, one a frame
    changed: int = 0  # frames that came in another size, format or range than the first
    bytes: int = 0
    _given: int = 0  # frames
    _last: tuple[int | None, int] = None, 0  # pts and duration of the last one
    _first: str = ""  # form in which the first one came
    _full_range: bool = False  # of what is written
    _turn: list[int] | None = None  # display matrix by which frames are turned before encoding
    _held: deque[tuple[float, av.Packet[Any]]] = field(default_factory=deque)
    _held_bytes: int = 0
    _clock: float = float("-inf")  # seconds of the last muxed video dts
    _frame_seconds: float | None = None  # of the last frame given to the encoder
    _tick: int | None = None  # of that frame, where the encoder has a constant rate
    _last_dts: dict[int, int] = field(default_factory=dict)  # by stream, in its muxer's ticks

    @property
    def encoder(self) -> str:
        """Name of the video encoder."""
        return self.stream.codec_context.name

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Encode a frame; the first one fixes size, colour tags and rotation."""
        context = self.stream.codec_context
        with self._mapped_errors():
            form = picture_form(frame)
            if not context.is_open:
                if frame.format.name != context.pix_fmt:
                    frame = convert(frame, context.pix_fmt or "")
                self._first, self._full_range = form, is_full_range(frame)
                self._turn = self.losses.turn_of(frame, asked=self.options.upright)
                open_encoder(self.stream, frame, self._turn)
                shape = context.sample_aspect_ratio
                self.losses.note_shape(
                    as_fraction(shape) if shape else None, context.width, context.height
                )
                self.container.start_encoding()
            elif form != self._first or frame.format.name != context.pix_fmt:
                frame = self._like_the_first(frame, form)
            self._given += 1
            self.losses.note(frame)
            if self._turn is not None:
                frame = upright(frame, self._turn)
            # Zero, else the source's frame types are forced on the encoder.
            frame.pict_type = _KEY if self._begins_segment(frame) else 0
            if self.encoder in COUNT_PICTURES:
                self._set_tick(frame)
            packets = self.stream.encode(frame)  # after which the frame counts in its ticks
            self._last = frame.pts, frame.duration
            self._mux_video(packets)

    def _like_the_first(self, frame: av.VideoFrame, form: str) -> av.VideoFrame:
        """Bring a frame to the first one's size, format and range: an encoder has one of each."""
        context = self.stream.codec_context
        if form != self._first:
            if not self.changed:
                logger.warning(
                    "%s: the picture changes from %s to %s at frame %d; from there it is brought"
                    " to the first form, since a file has one",
                    self.source.name,
                    self._first,
                    form,
                    self._given,
                )
            self.changed += 1
        size = (context.width, context.height)
        if self._turn is not None and lies_on_side(self._turn):
            size = size[1], size[0]
        return convert(frame, context.pix_fmt or "", size, full_range=self._full_range)

    def write_packet(self, packet: av.Packet[Any]) -> None:
        """Pass on a packet of another stream; it waits until the video has reached its time."""
        carrier = self.carriers.get(packet.stream_index)
        if carrier is not None:
            with self._mapped_errors():
                self._hold(carrier.convert(packet))

    def finish(self, frames: int) -> None:
        """Drain, write the trailer, check the count and take the target's name.

        Raises:
            MediaError: fewer or more frames were written than `frames`, which were decoded.
        """
        self._drain()
        if self.frames != frames:
            self.abandon()
            raise MediaError(
                f"{self.destination.path}: {frames} frames were decoded but {self.frames} written;"
                " nothing was kept, please report it"
            )
        with self._mapped_errors():
            self.destination.finish()

    def keep_partial(self) -> Path | None:
        """End an interrupted run: a playable NAME.partial.EXT, the target's name left alone."""
        if not self.stream.codec_context.is_open:
            self.abandon()
            return None
        self._interrupt()
        self._drain()
        with self._mapped_errors():
            return self.destination.keep_partial()

    def abandon(self) -> None:
        """End a failed run: nothing remains but what went into a pipe, and segments."""
        self._interrupt()
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self.container.close()
        self.destination.discard()

    def _interrupt(self) -> None:
        if self.destination.segments is not None:
            self.destination.segments.interrupted = True

    def _set_tick(self, frame: av.VideoFrame) -> None:
        """Let a frame come a tick later than the last one where both would fall on one: encoders
        that know a constant rate alone refuse that."""
        base = self.stream.codec_context.time_base
        if frame.pts is None or not frame.time_base or not base:
            return
        tick = rescale(frame.pts, frame.time_base, base)
        if self._tick is not None and tick <= self._tick:
            tick = self._tick + 1
            frame.pts, frame.time_base = tick, as_fraction(base)
        self._tick = tick

    def _begins_segment(self, frame: av.VideoFrame) -> bool:
        segments = self.destination.segments
        if segments is None or (at := frame_seconds(frame)) is None:
            return False
        last, self._frame_seconds = self._frame_seconds, float(at)
        return segments.begins_at(self._frame_seconds, last)

    def _drain(self) -> None:
        with self._mapped_errors():
            if self.stream.codec_context.is_open:
                self._mux_video(self.stream.encode(None))
            self._clock = float("inf")
            for carrier in self.carriers.values():
                self._hold(carrier.drain())
            self._release()
            self.container.close()
            self.destination.check()

    def _mux_video(self, packets: Iterable[av.Packet[Any]]) -> None:
        for packet in packets:
            self.frames += 1
            self.bytes += packet.size
            if not packet.duration and packet.pts == self._last[0]:
                packet.duration = self._last[1]  # not every encoder passes it on
            if packet.dts is not None and packet.time_base:
                self._clock = packet.dts * float(packet.time_base)
            self._mux(packet)
        self._release()

    def _hold(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Keep packets back until the video catches up: muxed early they pile up in the muxer,
        which gives up interleaving after ten seconds."""
        for packet in packets:
            self.losses.pauses.note(packet)
            at = packet_seconds(packet)
            self._held.append((self._clock if at is None else float(at), packet))
            self._held_bytes += packet.size
        self._release()

    def _release(self) -> None:
        while self._held and self.stream.codec_context.is_open:
            seconds, packet = self._held[0]
            if seconds > self._clock and self._held_bytes <= _HELD_BYTES:
                return
            self._held.popleft()
            self._held_bytes -= packet.size
            self.bytes += packet.size
            self._mux(packet)

    def _mux(self, packet: av.Packet[Any]) -> None:
        """Mux a packet with a dts above its stream's last one, counted in the muxer's own ticks:
        cameras repeat a dts, and two may be rounded to one; a muxer would refuse the second."""
        index, base = packet.stream.index, packet.stream.time_base
        own_base = packet.time_base
        if packet.dts is not None and own_base and base:
            dts, last = rescale(packet.dts, own_base, base), self._last_dts.get(index)
            # Two subtitles, or two events of a camera, may well stand at one time.
            lowest = dts if last is None else last + (packet.stream.type in ("video", "audio"))
            if dts < lowest:
                pts = dts if packet.pts is None else rescale(packet.pts, own_base, base)
                duration = rescale(packet.duration or 0, own_base, base)
                packet.time_base, packet.duration = base, duration
                packet.pts, packet.dts = max(pts, lowest), lowest
            self._last_dts[index] = max(dts, lowest)
        self.container.mux_one(packet)
        self.destination.check()

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            if is_url(self.destination.path):  # a link that broke, and no reader who has enough
                raise MediaError(self.destination.why_not_written(error, "")) from error
            raise DownstreamClosedError("the reader of the output has gone") from error
        except (av.error.FFmpegError, OSError) as error:
            name = self.container.format.name
            raise MediaError(self.destination.why_not_written(error, name)) from error


def open_target(
    path: str | Path, source: Source, options: TargetOptions, size: tuple[int, int] | None = None
) -> Target:
    """Check everything that can be checked before the work, then open the target.

    Args:
        path: a file, a URL, or "-" for stdout.
        size: width and height of the written picture where it is not the source's.

    Raises:
        MediaError: the target exists, is the source, cannot be written, or its container or
            encoder cannot hold what it is to hold.
    """
    destination = choose_destination(path, source.place, options)
    try:
        return _open_target(destination, source, options, size)
    except BaseException:
        destination.discard()
        raise


def _open_target(
    destination: Destination,
    source: Source,
    options: TargetOptions,
    size: tuple[int, int] | None,
) -> Target:
    container = destination.open(options)
    holder = container if destination.segments is None else destination.open(options, trial=True)
    source.counts_from_zero = holder.format.name in _COUNT_FROM_ZERO
    try:
        stream = add_video(
            container, holder, source, options, size, is_pipe=is_stdout(destination.path)
        )
        routes = plan_routes(
            sorted(source.copied, key=_is_attachment),
            _format_of(holder, destination.path),
            audio_codec=options.audio_codec,
            subtitle_codec=options.subtitle_codec,
            drop_unsupported=options.drop_unsupported,
            again=source.opened_again if Path(source.name).is_file() else None,
        )
        kept = [r for r in routes if r.action != "drop"]
        covers = _add_covers(container, kept, source)
        carriers = {
            r.stream.index: make_carrier(container, r.stream, r.codec)
            for r in kept
            if not _is_attachment(r.stream) and r.stream.index not in covers
        }
        for route in kept:
            if _is_attachment(route.stream):
                copy_tags(route.stream, add_attachment(container, route.stream))
        copy_container_tags(container, source, options, holder.format.name)
        keep_any_key(container, source)
    except (av.error.FFmpegError, ValueError) as error:
        container.close()
        raise MediaError(destination.why_not_written(error, holder.format.name)) from error
    except BaseException:
        container.close()
        raise
    name, codec, timed = holder.format.name, stream.codec_context.name, has_times(holder)
    losses = Losses(name, codec, source.rate, source.video.codec_context, has_times=timed)
    shape = source.video.sample_aspect_ratio
    losses.note_container(side_data_kinds(source.video), as_fraction(shape) if shape else None)
    return Target(destination, container, stream, source, options, routes, carriers, losses, name)


def _format_of(holder: av.container.OutputContainer, path: str | Path) -> str:
    is_m2ts = holder.format.name == "mpegts" and str(path).lower().endswith(".m2ts")
    return M2TS if is_m2ts else holder.format.name


def _is_attachment(stream: av.stream.Stream) -> bool:
    return stream.type == "attachment"


def _add_covers(
    container: av.container.OutputContainer, routes: list[Route], source: Source
) -> set[int]:
    """Put cover art where the container wants it; return the streams that need no carrier then."""
    if "matroska" not in container.format.name:
        return set()
    pictures = [route.stream for route in routes if is_picture(route.stream)]
    return {s.index for s in pictures if add_cover(container, s, source.name) is not None}
