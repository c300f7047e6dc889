"""Open a file, pipe or stream; demux it; decode the video that is to be restored.

One thread owns a Source: PyAV's containers are not thread-safe, only frames and packets may cross
to others. What comes out is ordered as in the file: decoded frames, and the packets to be copied.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from carfilter.errors import MediaError
from carfilter.media.clock import Clock, FrameTimes
from carfilter.media.conform import convert
from carfilter.media.cut import Cut
from carfilter.media.frames import (
    check_pix_fmt,
    clip_samples,
    has_luma_plane,
    pixel_format,
    read_qp,
)
from carfilter.media.hardware import HardwareDecoder, decoding_device
from carfilter.media.measured_qp import QpGauge, gauge_of
from carfilter.media.opening import check_size, decoder_limit, display_name, is_url, open_container
from carfilter.media.options import SourceOptions
from carfilter.media.selection import main_video, select_streams
from carfilter.media.ticks import as_fraction
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
    qp: QpMap | None  # exported, or measured: one for the whole frame then
    frame_type: int  # 1, 2, 3 are I, P, B; 0 is unknown
    arrived: float = field(default_factory=time.monotonic)  # when it was decoded


Event: TypeAlias = "Decoded | av.Packet[Any]"


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(repr=False)
class Source:
    """An opened source; iterate events() once, then close()."""

    name: str
    container: av.container.InputContainer
    video: av.VideoStream
    copied: list[av.stream.Stream]
    options: SourceOptions
    report: DecodeReport = field(default_factory=DecodeReport)
    _planar: set[str] = field(default_factory=set)  # pixel formats seen that have a luma plane
    _hardware: HardwareDecoder | None = None
    _gauge: QpGauge | None = None
    lost: str = ""  # why a network source ended before its time

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick of the video's timestamps."""
        base = self.video.time_base
        return as_fraction(base) if base else Fraction(1, 90000)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second as the container says, a hint only; None where it does not say."""
        for rate in (self.video.average_rate, self.video.guessed_rate):
            if rate:
                return as_fraction(rate)
        return None

    @property
    def exports_qp(self) -> bool:
        """Whether its decoder can export QP maps."""
        return self.video.codec_context.name == "h264" and not self._on_device

    @property
    def _on_device(self) -> bool:
        return self._hardware is not None and self._hardware.is_used

    @property
    def measures_qp(self) -> bool:
        """Whether the QP of its frames is measured at key frames, since its decoder tells none."""
        return self._gauge is not None and not self.exports_qp

    @property
    def converts(self) -> bool:
        """Whether its frames are converted on request, having no luma plane of their own."""
        pix_fmt = self.video.codec_context.format
        return pix_fmt is not None and not has_luma_plane(pix_fmt)

    @property
    def seconds(self) -> float | None:
        """Estimate of the seconds to be read; None for pipes and live streams."""
        duration = self.container.duration
        if not duration or duration < 0:
            return None
        end = min(duration / 1e6, self.options.end_seconds or float("inf"))
        return max(end - (self.options.start_seconds or 0.0), 0.0)

    def events(self) -> Iterator[Event]:
        """Yield decoded frames and packets to copy, in the order of the file, timestamps shifted
        so that -ss becomes zero.

        Raises:
            MediaError: the source ends in errors, or its first error under stop_on_error.
        """
        cut = Cut(
            self.container,
            self.video,
            self.copied,
            self.options.start_seconds,
            self.options.end_seconds,
        )
        cut.seek()
        clock, times = Clock(self.container, self.video), self._frame_times()
        wanted = [self.video, *(s for s in self.copied if s.type != "attachment")]
        for packet in self.packets(wanted):
            self._correct(packet, clock)
            if packet.stream_index == self.video.index:
                yield from self._frames(packet, cut, times)
            elif packet.size and cut.keeps_packet(packet):
                yield packet
            if cut.is_past(packet):
                return
        # A source that ends in an error sends no empty packet to drain the decoder with.
        yield from self._frames(None, cut, times)

    def gauge_anew(self) -> None:
        """Measure the QP at the next key frame, however near the last one was."""
        if self._gauge is not None:
            self._gauge = gauge_of(self.video.codec_context)

    def close(self) -> None:
        """Close the container; no more packets of it may be muxed afterwards."""
        self.container.close()

    def packets(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet[Any]]:
        """Demux through errors: a generator of PyAV ends with its first one, so start another."""
        failures, finished = 0, False
        while not finished:
            try:
                for packet in self.container.demux(*streams):
                    failures = 0
                    finished = finished or packet.size == 0
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
        first = self.video.start_time if self.options.start_seconds is None else 0
        return FrameTimes(self.time_base, max(round(step), 1), first or 0)

    def _frames(
        self, packet: av.Packet[Any] | None, cut: Cut, times: FrameTimes
    ) -> Iterator[Decoded]:
        for decoded in self.decode(packet):
            frame = decoded.frame
            frame.pts = times.best_effort(frame)
            if cut.keeps_frame(frame, self.time_base):
                times.repair(frame)
                self.report.frames += 1
                self.report.repaired = times.repaired
                yield decoded

    def decode(self, packet: av.Packet[Any] | None) -> Iterator[Decoded]:
        """Yield what the decoder gives for a packet of the video; None drains it."""
        if packet is not None and self._gauge is not None:
            self._gauge.note(packet)
        decoder = self._hardware or self.video.codec_context
        try:
            frames = decoder.decode(packet if packet is not None and packet.size else None)
        except EOFError:
            return
        except av.error.FFmpegError as error:
            self._count_damage(f"damaged ({error.strerror})")
            return
        for frame in frames:
            # Of the first frame, software tells it where no other's is told.
            qp = read_qp(frame) if self.exports_qp else None
            frame_type = int(frame.pict_type)
            planar = self._with_luma_plane(frame)
            if clip_samples(planar) or frame.is_corrupt:
                self._count_damage("damaged frame")
            qp = qp if planar is frame else None
            if qp is None and self._gauge is not None:
                qp = self._gauge.read(planar)
            yield Decoded(planar, qp, frame_type)

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
    options, name = options or SourceOptions(), display_name(source)
    device = decoding_device(options.hwaccel, options.hwaccel_device)
    container = open_container(
        source, options.format, dict(options.options), options.max_pixels, live=options.live
    )
    try:
        chosen = select_streams(container, options.maps, options.dropped_types, name)
        video = main_video(container, chosen, name)
        copied = [s for s in chosen if s.index != video.index]
        _prepare_decoder(video, options, name)
        hardware = None
        if device is not None and options.hwaccel is not None:
            hardware = HardwareDecoder(video.codec_context, device, options.hwaccel)
    except BaseException:
        container.close()
        raise
    gauge = gauge_of(video.codec_context) if options.qp_maps and options.measures_qp else None
    return Source(name, container, video, copied, options, _hardware=hardware, _gauge=gauge)


def _why_lost(error: av.error.FFmpegError) -> str:
    """An interrupted read is FFmpeg's way of telling that the time-out has passed."""
    silent = isinstance(error, av.error.ExitError)
    return "nothing came for too long" if silent else error.strerror or str(error)


def _prepare_decoder(video: av.VideoStream, options: SourceOptions, name: str) -> None:
    context = video.codec_context
    check_size(context.width, context.height, options.max_pixels, name)
    if context.pix_fmt is None and name == "stdin" and "mp4" in video.container.format.name:
        raise MediaError(
            "stdin: an MP4 whose index lies at its end cannot be read from a pipe; it needs"
            " -movflags +faststart (or send -f nut or -f matroska, or give the file by name)"
        )
    if context.pix_fmt is None or not context.width * context.height:
        raise MediaError(
            f"{name}: no frame of its video can be decoded; it is damaged, holds no picture yet,"
            f" or pictures larger than --max-pixels {options.max_pixels}"
        )
    assert context.format is not None
    if options.pix_fmt is None or has_luma_plane(context.format):
        check_pix_fmt(context.format, name)
    else:
        check_pix_fmt(pixel_format(options.pix_fmt), f"-pix_fmt {options.pix_fmt}")
    context.options = {**context.options, **decoder_limit(options.max_pixels)}
    context.thread_type = "AUTO"
    if options.live:
        context.thread_type = "SLICE"  # frame threads hold back a frame each
    if options.qp_maps and context.name == "h264":
        context.options = {**context.options, "export_side_data": "venc_params"}
        # With frame threads FFmpeg exports a picture's QP while another thread may still decode
        # it: 234 of 432,000 blocks were 0 in a trial with B-frames, others in each run.
        context.thread_type = "SLICE"
    # Fixed, since with 0 some decoders take a thread per core of the host and not of the container.
    context.thread_count = options.threads or len(os.sched_getaffinity(0))


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
