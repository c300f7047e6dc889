"""Open a file, pipe or stream; demux it; decode the video that is to be restored.

One thread owns a Source: PyAV's containers are not thread-safe, only frames and packets may cross
to others. What comes out is ordered as in the file: decoded frames, and the packets to be copied.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from carfilter.errors import MediaError
from carfilter.media.clock import Clock, FrameTimes
from carfilter.media.codec_watch import CodecWatch, CopiedWatch
from carfilter.media.conform import convert
from carfilter.media.cut import Cut
from carfilter.media.decoder import Decoder, prepare_decoder
from carfilter.media.frames import check_pix_fmt, clip_samples, has_luma_plane
from carfilter.media.hardware import HardwareDecoder, decoding_device
from carfilter.media.opening import can_seek, display_name, is_url, open_container, place_of
from carfilter.media.options import SourceOptions
from carfilter.media.qp.reader import QpReader
from carfilter.media.selection import main_video, select_streams
from carfilter.media.ticks import as_fraction, has_times, length_of, rate_of
from carfilter.pictures import QpMap

logger = logging.getLogger("carfilter")

_MAX_FAILURES = 200  # consecutive packets that cannot be read or decoded


@dataclass
class DecodeReport:
    """What the decoder met; filled while the events are read."""

    frames: int = 0
    damaged: int = 0  # frames with concealed errors, and packets that gave none
    repaired: int = 0  # frames whose timestamp was missing or did not increase
    jumps: int = 0  # of the source's clock
    reconnects: int = 0  # times a live source was opened again

    def add(self, other: DecodeReport) -> None:
        """Add what another reading met."""
        for key, count in vars(other).items():
            setattr(self, key, getattr(self, key) + count)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame with what must be read before its luma is exchanged."""

    frame: av.VideoFrame
    qp: QpMap | None  # told by its stream or measured: then, and by some, one for the whole frame
    frame_type: int  # 1, 2, 3 are I, P, B; 0 is unknown
    is_damaged: bool = False
    arrived: float = field(default_factory=time.monotonic)  # when it was decoded


Event: TypeAlias = "Decoded | av.Packet[Any]"


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(repr=False)
class Source:
    """An opened source; iterate events() once, then close()."""

    name: str
    place: Path  # where it lies
    container: av.container.InputContainer
    video: av.VideoStream
    copied: list[av.stream.Stream]
    options: SourceOptions
    report: DecodeReport = field(default_factory=DecodeReport)
    _planar: set[str] = field(default_factory=set)  # pixel formats seen that have a luma plane
    _hardware: HardwareDecoder | None = None
    lost: str = ""  # why a network source ended before its time
    counts_from_zero: bool = False  # so does the target's format
    is_left: bool = False  # nobody waits for more of it, not even for a first frame behind -ss

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick of the video's timestamps."""
        base = self.video.time_base
        return as_fraction(base) if base else Fraction(1, 90000)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second as the container says, a hint only; None where it does not say."""
        return rate_of(self.video)

    @property
    def is_h264(self) -> bool:
        """Whether its decoder tells H.264's own QPs, and the vectors and types of blocks."""
        return self.video.codec_context.name == "h264" and not self._on_device

    @property
    def tells_qp(self) -> bool:
        """Whether its stream tells the QP of its frames, on H.264's scale."""
        return self._qp.tells(on_device=self._on_device)

    @property
    def converts_qp(self) -> bool:
        """Whether what its stream tells is of another scale than H.264's."""
        return self.tells_qp and self.video.codec_context.codec.canonical_name != "h264"

    @property
    def _on_device(self) -> bool:
        return self._hardware is not None and self._hardware.is_used

    @property
    def measures_qp(self) -> bool:
        """Whether the QP of its frames is measured at key frames, since its stream tells none."""
        return self._qp.measures and not self.tells_qp

    @property
    def converts(self) -> bool:
        """Whether its frames are converted on request, having no luma plane of their own."""
        pix_fmt = self.video.codec_context.format
        return pix_fmt is not None and not has_luma_plane(pix_fmt)

    @property
    def seconds(self) -> float | None:
        """Estimate of the seconds to be read; None for pipes and live streams."""
        length = length_of(self.container)
        if length is None:
            return None
        end = min(float(length), self.options.end_seconds or float("inf"))
        return max(end - (self.options.start_seconds or 0.0), 0.0)

    @property
    def shift_seconds(self) -> Fraction:
        """What is taken off all its times, so that -ss, or a start far from zero, becomes zero.

        A source may begin anywhere: at the time of the day, or at that since 1970. What is small
        stays: the lead-in of MPEG-TS, the priming of sound.
        """
        cut = self.cut()
        if self.options.live or (self.options.copyts and not cut.begins_before_zero):
            return Fraction(0)
        if cut.begin is not None:
            return cut.begin
        return cut.first if self.counts_from_zero or cut.begins_by_a_clock else Fraction(0)

    def goes_to_start(self) -> bool:
        """Go to the key frame before -ss; False if the reader has moved and not arrived there."""
        if not self.options.start_seconds or self.seconds is None or not can_seek(self.name):
            return True
        return self.cut().seek(self.opened_again)

    def events(self) -> Iterator[Event]:
        """Yield decoded frames and packets to copy, in the order of the file, timestamps shifted
        so that -ss becomes zero.

        Raises:
            MediaError: the source ends in errors, or its first error under stop_on_error.
        """
        cut = self.cut()
        cut.shift = self.shift_seconds
        clock, times = Clock(self.container, self.video), self._frame_times()
        wanted = [self.video, *(s for s in self.copied if s.type != "attachment")]
        watch = CodecWatch(self.video, self.name, self.opened_again, live=self.options.live)
        beside = CopiedWatch(self.copied, self.name)
        for packet in self.packets(wanted):
            if packet.stream_index == self.video.index:
                for one in watch.packets(packet):
                    self._correct(one, clock)
                    yield from self._frames(one, cut, times)
            else:
                self._correct(packet, clock)
                if packet.size and beside.keeps(packet) and cut.keeps_packet(packet):
                    yield packet
            if cut.is_past(packet) or self.is_left:
                break
        else:
            yield from self._frames(None, cut, times)
            if fault := clock.cut_off(self.container):
                logger.warning("%s: %s", self.name, fault)
                self._count_damage(fault)
        for pts in self._decoder.vanished():
            if cut.holds(pts * self.time_base):
                self._count_damage("damaged (a picture is missing)")

    def cut(self) -> Cut:
        """Return the stretch that -ss, -t and -to leave, for one reading."""
        start, end = self.options.start_seconds, self.options.end_seconds
        return Cut(self.container, self.video, self.copied, start, end)

    def opened_again(self, options: Mapping[str, str] | None = None) -> av.container.InputContainer:
        """Open the same file once more, for a look ahead or back; the caller closes it.

        Raises:
            MediaError: it has gone.
        """
        given = {**dict(self.options.options), **(options or {})}
        return open_container(self.name, self.options.format, given, self.options.max_pixels)

    def __post_init__(self) -> None:
        self.qp_anew()

    def qp_anew(self) -> None:
        """Know nothing of the QPs before the next key frame, however near the last one was."""
        self._qp = QpReader(self.video.codec_context, self.options)

    def close(self) -> None:
        """Close the container; no more packets of it may be muxed afterwards."""
        self.container.close()
        # It refers back; as garbage in a forked process it would be freed there without its
        # threads, which hangs or crashes.
        self.__dict__.pop("_decoder", None)

    def packets(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet[Any]]:
        """Demux through errors: a generator of PyAV ends with its first one, so start another."""
        failures, finished = 0, False
        while not finished:
            try:
                for packet in self.container.demux(*streams):
                    failures = 0
                    yield packet
                finished = True
            except IndexError:
                # At the end of a file in which streams came up on the way, which PyAV counts wrong:
                # https://github.com/PyAV-Org/PyAV/issues/692
                logger.warning("%s: streams that begin late in it are left out", self.name)
                finished = True
            except av.error.FFmpegError as error:
                if is_url(self.name):
                    self.lost = _why_lost(error)
                    if self.options.stop_on_error and not self.options.live:
                        self._count_damage(f"damaged ({error.strerror})")
                    return
                failures += 1
                self._count_damage(f"damaged ({error.strerror})")
                if failures >= _MAX_FAILURES:
                    break

    def _correct(self, packet: av.Packet[Any], clock: Clock) -> None:
        clock.correct(packet)
        if clock.first_jump and not self.report.jumps:
            at, by = clock.first_jump
            logger.warning(
                "%s: its clock jumps by %+.3f s at %.3f s; the times go on without a gap, sound and"
                " picture together",
                self.name,
                by,
                at,
            )
        self.report.jumps = clock.jumps

    def _frame_times(self) -> FrameTimes:
        step = 1 / ((self.rate or Fraction(25)) * self.time_base)
        return FrameTimes(self.time_base, max(round(step), 1), self.video.start_time or 0)

    def _frames(
        self, packet: av.Packet[Any] | None, cut: Cut, times: FrameTimes
    ) -> Iterator[Decoded]:
        for decoded in self._decode(packet):
            frame = decoded.frame
            frame.pts = times.best_effort(frame)
            is_repaired = times.repair(frame)
            if cut.keeps_frame(frame, self.time_base):
                if decoded.is_damaged:
                    self._count_damage("damaged frame")
                self.report.frames += 1
                self.report.repaired += is_repaired and has_times(self.container)
                yield decoded

    def decode(self, packet: av.Packet[Any] | None) -> Iterator[Decoded]:
        """Yield what the decoder gives for a packet of the video; None drains it."""
        for decoded in self._decode(packet):
            if decoded.is_damaged:
                self._count_damage("damaged frame")
            yield decoded

    def _decode(self, packet: av.Packet[Any] | None) -> Iterator[Decoded]:
        self._qp.note(packet)
        decoder = self._decoder
        for frame in decoder.drain() if packet is None else decoder.decode(packet):
            # Of the first frame, software tells it where no other's is told.
            qp = self._qp.told(frame, on_device=self._on_device)
            frame_type = int(frame.pict_type)
            planar = self._with_luma_plane(frame)
            is_damaged = clip_samples(planar) or frame.is_corrupt
            qp = qp if planar is frame or self._on_device else None
            qp = self._qp.settled(qp, planar, on_device=self._on_device)
            yield Decoded(planar, qp, frame_type, is_damaged)

    @functools.cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.video.codec_context, self._hardware, self._count_damage)

    def _with_luma_plane(self, frame: av.VideoFrame) -> av.VideoFrame:
        name, usual = frame.format.name, self.video.codec_context.pix_fmt
        if self._on_device and usual is not None and name != usual:
            return convert(frame, usual)  # as the software decoder gives it
        if name not in self._planar:
            if not has_luma_plane(frame.format) and self.options.pix_fmt:
                return convert(frame, self.options.pix_fmt)
            check_pix_fmt(frame.format, self.name)
            self._planar.add(name)
        return frame

    def _count_damage(self, reason: str) -> None:
        self.report.damaged += 1
        if self.options.stop_on_error:
            raise MediaError(f"{self.name}: {reason}; leave out -xerror to go on past it")


def open_source(source: str | Path, options: SourceOptions | None = None) -> Source:
    """Open a path, a URL or "-" (stdin) and choose the video to restore and the streams to copy.

    Raises:
        MediaError: it cannot be opened, holds no video, or its pixel format has no luma plane.
    """
    options = options or SourceOptions()
    opened = _open(source, options)
    try:
        if not opened.goes_to_start():
            opened.close()
            opened = _open(source, options)
    except BaseException:
        opened.close()
        raise
    return opened


def _open(source: str | Path, options: SourceOptions) -> Source:
    name = display_name(source)
    device = decoding_device(options.hwaccel, options.hwaccel_device)
    container = open_container(
        source, options.format, dict(options.options), options.max_pixels, live=options.live
    )
    try:
        chosen = select_streams(container, options.maps, options.dropped_types, name)
        video = main_video(container, chosen, name)
        copied = [s for s in chosen if s.index != video.index]
        prepare_decoder(video, options, name)
        hardware = None
        if device is not None and options.hwaccel is not None:
            hardware = HardwareDecoder(video.codec_context, device, options.hwaccel)
    except BaseException:
        container.close()
        raise
    return Source(name, place_of(source), container, video, copied, options, _hardware=hardware)


def _why_lost(error: av.error.FFmpegError) -> str:
    """An interrupted read is FFmpeg's way of telling that the time-out has passed."""
    silent = isinstance(error, av.error.ExitError)
    return "nothing came for too long" if silent else error.strerror or str(error)


@dataclass(frozen=True)
class Contents:
    """What a finished file holds."""

    streams: tuple[str, ...]  # their types
    frames: int  # of the video
    span_seconds: float  # from its first frame to its last
    damaged: int  # frames that could not be decoded, where they were


def read_contents(
    path: Path, *, decode: bool = False, progress: Callable[[], object] | None = None
) -> Contents:
    """Read a file to its end and count the frames of its video, by its packets or by decoding.

    Raises:
        MediaError: it cannot be opened, or a packet cannot be read.
    """
    # With its sound, without which a long pause of the picture looks like a jump of the clock.
    source = open_source(path, SourceOptions(subtitles=False, data=False))
    first, last, frames = None, None, 0
    try:
        types = tuple(stream.type for stream in source.container.streams)
        items = source.events() if decode else source.container.demux(source.video)
        for item in items:
            if isinstance(item, Decoded):
                pts = item.frame.pts
            elif item.stream_index == source.video.index and item.size:
                pts = item.pts
            else:
                continue
            frames += 1
            if pts is not None:
                first = pts if first is None else min(first, pts)
                last = pts if last is None else max(last, pts)
            if progress is not None:
                progress()
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be read back ({error.strerror}); try again") from error
    finally:
        source.close()
    span = float(((last or 0) - (first or 0)) * source.time_base)
    return Contents(types, frames, span, source.report.damaged)


def log_ffmpeg(*, everything: bool) -> None:
    """Let FFmpeg print its warnings, or everything, to stderr by itself.

    Not through Python's logging, which deadlocks: https://github.com/PyAV-Org/PyAV/issues/751
    """
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.INFO if everything else av.logging.WARNING)


def library_versions() -> dict[str, str]:
    """Return the versions of PyAV and of the FFmpeg libraries inside it."""
    libraries = {name: ".".join(map(str, v)) for name, v in av.library_versions.items()}
    return {"pyav": av.__version__, **libraries}
