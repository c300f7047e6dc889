"""Encode, mux and store: the encoder's settings, copied streams, and a target that is all or none.

A file grows under a temporary name beside the target and takes the target's name only when it is
complete and counted. One thread owns a Target.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from carfilter.errors import DownstreamClosedError, MediaError
from carfilter.frames import display_matrix
from carfilter.source import Source, is_url
from carfilter.streams import (
    Carrier,
    Route,
    add_attachment,
    check_encoder,
    copy_tags,
    make_carrier,
    plan_routes,
)

_RATE_CONTROL = {"crf", "qp", "b", "maxrate", "minrate", "bufsize", "cq", "rc", "global_quality"}
_PARAMS = ("x264-params", "x264opts", "x265-params")
_DEFAULT_CRF = {"libx264": "18", "libx265": "18"}
_HELD_BYTES = 64 << 20  # of copied packets that wait for the video
_FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"
_MUXER_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands"}


@dataclass(frozen=True)
class TargetOptions:
    """How to write a target; names and values are FFmpeg's."""

    format: str | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    subtitle_codec: str | None = None
    pix_fmt: str | None = None
    encoder: tuple[tuple[str, str], ...] = ()  # options of the video encoder, b for -b:v
    muxer: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    threads: int = 0
    overwrite: bool = False
    drop_unsupported: bool = False
    verbose_encoder: bool = False


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(repr=False)
class Target:
    """An output that is being written; end it with finish(), keep_partial() or abandon()."""

    path: str | Path
    container: av.container.OutputContainer
    stream: av.VideoStream
    source: Source
    options: TargetOptions
    routes: list[Route]
    carriers: dict[int, Carrier]
    part: Path | None  # where the file grows; None for pipes, URLs and devices
    frames: int = 0  # packets the video encoder gave, one a frame
    bytes: int = 0
    _held: deque[tuple[float, av.Packet[Any]]] = field(default_factory=deque)
    _held_bytes: int = 0
    _clock: float = float("-inf")  # seconds of the last muxed video dts

    @property
    def encoder(self) -> str:
        """Name of the video encoder."""
        return self.stream.codec_context.name

    def write_frame(self, frame: av.VideoFrame) -> None:
        """Encode a frame; the first one fixes size, colour tags and rotation."""
        context = self.stream.codec_context
        with self._mapped_errors():
            if not context.is_open:
                self._open_encoder(frame)
            if frame.format.name != context.pix_fmt:
                # The same range on both sides, so that no sample is rescaled on the way.
                frame = frame.reformat(
                    format=context.pix_fmt, dst_color_range=int(frame.color_range)
                )
            if (frame.width, frame.height) != (context.width, context.height):
                raise MediaError(
                    f"{self.source.name}: the picture changes from {context.width}x"
                    f"{context.height} to {frame.width}x{frame.height} after frame {self.frames};"
                    " cut it there with -to and -ss and restore the parts"
                )
            frame.pict_type = 0  # else the source's frame types are forced on the encoder
            self._mux_video(self.stream.encode(frame))

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
                f"{self.path}: {frames} frames were decoded but {self.frames} written;"
                " nothing was kept, please report it"
            )
        if self.part is not None:
            _sync(self.part)
            self.part.replace(self.path)

    def keep_partial(self) -> Path | None:
        """End an interrupted run: a playable NAME.partial.EXT, the target's name left alone."""
        if not self.stream.codec_context.is_open:
            self.abandon()
            return None
        self._drain()
        if self.part is None:
            return None
        path = Path(self.path)
        return self.part.replace(path.with_name(f"{path.stem}.partial{path.suffix}"))

    def abandon(self) -> None:
        """End a failed run: nothing remains but what went into a pipe."""
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            self.container.close()
        if self.part is not None:
            self.part.unlink(missing_ok=True)

    def _drain(self) -> None:
        with self._mapped_errors():
            if self.stream.codec_context.is_open:
                self._mux_video(self.stream.encode(None))
            self._clock = float("inf")
            for carrier in self.carriers.values():
                self._hold(carrier.drain())
            self._release()
            self.container.close()

    def _open_encoder(self, frame: av.VideoFrame) -> None:
        """Open with the first frame's own tags: colours come from the picture, not the header."""
        context = self.stream.codec_context
        context.width, context.height = frame.width, frame.height
        for tag in ("color_range", "colorspace", "color_trc", "color_primaries"):
            setattr(context, tag, int(getattr(frame, tag)))
        if hasattr(frame, "chroma_location"):  # PyAV 19 tells it
            setattr(context, "chroma_sample_location", int(frame.chroma_location))  # noqa: B010
        matrix = display_matrix(frame)
        if matrix is not None:
            self.stream.set_display_matrix(matrix)
        given = dict(context.options)
        try:
            context.open()
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(
                f"{self.encoder} refuses these settings for {frame.width}x{frame.height}"
                f" {context.pix_fmt}: {given or 'none'}; correct them or choose another -c:v"
            ) from error
        self.container.start_encoding()

    def _mux_video(self, packets: Iterable[av.Packet[Any]]) -> None:
        for packet in packets:
            self.frames += 1
            self.bytes += packet.size
            if packet.dts is not None and packet.time_base:
                self._clock = packet.dts * float(packet.time_base)
            self.container.mux_one(packet)
        self._release()

    def _hold(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Keep packets back until the video catches up: muxed early they pile up in the muxer,
        which gives up interleaving after ten seconds."""
        for packet in packets:
            stamp = packet.dts if packet.dts is not None else packet.pts
            seconds = stamp * float(packet.time_base) if stamp is not None else self._clock
            self._held.append((seconds, packet))
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
            self.container.mux_one(packet)

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise DownstreamClosedError("the reader of the output has gone") from error
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(_why_not_written(self.path, error)) from error


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
    part = _part_file(path, source, overwrite=options.overwrite)
    container = _open_container(path, part, options)
    try:
        stream = _add_video(container, source, options, size, is_pipe=str(path) == "-")
        others = [s for s in source.copied if s.type != "attachment"]
        attached = [s for s in source.copied if s.type == "attachment"]
        routes = plan_routes(
            [*others, *attached],
            container.format.name,
            audio_codec=options.audio_codec,
            subtitle_codec=options.subtitle_codec,
            drop_unsupported=options.drop_unsupported,
        )
        kept = [r for r in routes if r.action != "drop"]
        carriers = {r.stream.index: make_carrier(container, r) for r in kept if r.stream in others}
        for route in kept:
            if route.stream in attached:
                copy_tags(route.stream, add_attachment(container, route.stream))
        _copy_container_tags(container, source, options)
    except (av.error.FFmpegError, ValueError) as error:
        container.close()
        raise MediaError(_why_not_written(path, error)) from error
    except BaseException:
        container.close()
        raise
    return Target(path, container, stream, source, options, routes, carriers, part)


def _part_file(path: str | Path, source: Source, *, overwrite: bool) -> Path | None:
    if str(path) == "-" or is_url(path):
        return None
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        return None  # a device or a named pipe
    if path.exists() and Path(source.name).exists() and path.samefile(source.name):
        raise MediaError(f"{path}: is the source itself; write to another file")
    if path.exists() and not overwrite:
        raise MediaError(f"{path}: exists already; give -y to replace it, or another name")
    if not path.parent.is_dir():
        raise MediaError(f"{path}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise MediaError(f"{path}: its folder cannot be written to; choose another")
    return path.with_name(f".{path.stem}.part{path.suffix}")


def _open_container(
    path: str | Path, part: Path | None, options: TargetOptions
) -> av.container.OutputContainer:
    muxer = dict(options.muxer)
    if str(path) == "-":
        name, form = f"pipe:{_own_stdout()}", options.format or "nut"
        if form in ("mp4", "mov"):  # a plain one needs to seek back
            muxer.setdefault("movflags", _FRAGMENTED)
    else:
        name, form = (str(path) if part is None else f"file:{part}"), options.format or ""
    if form in ("matroska", "webm") or name.endswith((".mkv", ".mka", ".webm")):
        # Its first cluster can hold the negative timestamps of AAC priming; by default the muxer
        # shifts every stream by them instead.
        muxer.setdefault("avoid_negative_ts", "disabled")
    try:
        return av.open(name, "w", format=form or None, container_options=muxer)
    except (av.error.FFmpegError, ValueError) as error:
        hint = (
            f"there is no output format {form!r}"
            if form
            else "its name does not say which container"
        )
        raise MediaError(f"{path}: {hint}; use .mkv, .mp4, .mov, .nut, .ts, .avi or -f") from error


def _own_stdout() -> int:
    """Take stdout for the media alone: whatever else prints goes to stderr from now on."""
    sys.stdout.flush()
    media = os.dup(1)
    os.dup2(2, 1)
    return media


def _add_video(
    container: av.container.OutputContainer,
    source: Source,
    options: TargetOptions,
    size: tuple[int, int] | None,
    *,
    is_pipe: bool,
) -> av.VideoStream:
    decoder = source.video.codec_context
    pix_fmt = options.pix_fmt or decoder.pix_fmt or ""
    codec = options.video_codec or _default_codec(container, pix_fmt, is_pipe=is_pipe)
    check_encoder(codec, "video", "-c:v", "libx264")
    try:
        stream = container.add_stream(codec, rate=source.rate or 25, time_base=source.time_base)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(
            f"-c:v {codec}: the {container.format.name} format cannot hold it;"
            " use an .mkv target or another -c:v"
        ) from error
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    formats = [f.name for f in context.codec.video_formats or ()]
    if pix_fmt.startswith("yuvj") and pix_fmt not in formats and options.pix_fmt is None:
        pix_fmt = pix_fmt.replace("yuvj", "yuv")  # the same samples; the range is a tag of its own
    if formats and pix_fmt not in formats:
        raise MediaError(
            f"-c:v {codec}: cannot encode pixel format {pix_fmt}; give -pix_fmt with one of"
            f" {', '.join(formats[:8])}, or -c:v ffv1 with an .mkv target"
        )
    context.pix_fmt = pix_fmt
    context.width, context.height = size or (decoder.width, decoder.height)
    context.thread_count = options.threads
    if source.video.sample_aspect_ratio:
        context.sample_aspect_ratio = source.video.sample_aspect_ratio
    if decoder.field_order > 1:
        _code_interlaced(context, decoder.field_order)
    context.options = _encoder_options(context, codec, options)
    copy_tags(source.video, stream)
    return stream


def _default_codec(container: av.container.OutputContainer, pix_fmt: str, *, is_pipe: bool) -> str:
    name, holds = container.format.name, container.supported_codecs
    if name in ("rawvideo", "yuv4mpegpipe") or (is_pipe and name == "nut"):
        return "rawvideo"
    x264 = [f.name for f in av.Codec("libx264", "w").video_formats or ()]
    if ("libx264" in holds or name in ("mpegts", "rtsp")) and pix_fmt in x264:
        return "libx264"
    if "matroska" in name and "ffv1" in holds:
        return "ffv1"
    raise MediaError(
        f"the {name} format has no default for pixel format {pix_fmt};"
        " use an .mkv target, or give -c:v and perhaps -pix_fmt"
    )


def _code_interlaced(context: av.VideoCodecContext, field_order: int) -> None:
    context.field_order = field_order
    if context.name in ("libx264", "mpeg2video"):
        flags = av.codec.context.Flags
        context.flags |= flags.interlaced_dct | flags.interlaced_me


def _encoder_options(
    context: av.VideoCodecContext, codec: str, options: TargetOptions
) -> dict[str, str]:
    given = dict(options.encoder)
    supported = context.supported_options
    known = {o.name for o in (*supported.generic, *supported.private)}
    for name in given:
        if name not in known:
            raise MediaError(f"-c:v {codec}: has no option {name!r}; see ffmpeg -h encoder={codec}")
    sets_rate = _RATE_CONTROL & given.keys() or any(
        word in given.get(p, "") for p in _PARAMS for word in ("crf=", "qp=", "bitrate=")
    )
    if codec in _DEFAULT_CRF and not sets_rate:
        given["crf"] = _DEFAULT_CRF[codec]
        given.setdefault("preset", "medium")
    if codec == "libx265" and not options.verbose_encoder:
        # It writes to stderr by itself, whatever FFmpeg's log level is.
        params = given.get("x265-params")
        given["x265-params"] = "log-level=none" + (f":{params}" if params else "")
    return given


def _copy_container_tags(
    container: av.container.OutputContainer, source: Source, options: TargetOptions
) -> None:
    tags = {
        key: value
        for key, value in source.container.metadata.items()
        if key.lower() not in _MUXER_TAGS
    }
    chapters = source.container.chapters()
    if chapters and source.options.start_seconds is None and source.options.end_seconds is None:
        for chapter in chapters:
            base = chapter["time_base"]
            if base:
                chapter["time_base"] = Fraction(base.numerator, base.denominator)
        container.set_chapters(chapters)
    container.metadata.update({**tags, **dict(options.metadata)})


def add_provenance(target: Target, text: str) -> None:
    """Write how the file was made into its tags; call it before the first frame.

    MP4 and MOV keep known keys only, so there it follows what stands in the comment.
    """
    tags = target.container.metadata
    if {"mp4", "mov"} & set(target.container.format.name.split(",")):
        tags["comment"] = f"{tags['comment']}\n{text}" if tags.get("comment") else text
    else:
        tags["carfilter"] = text


def _sync(path: Path) -> None:
    """Put the file on the disk before it gets its name: a power cut must not leave half a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_not_written(path: str | Path, error: Exception) -> str:
    name = "stdout" if str(path) == "-" else str(path)
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC:
        return f"{name}: the disk is full; make room or write to another disk"
    if number == errno.EFBIG:
        return f"{name}: the file would be larger than allowed here; write to another disk"
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name}: cannot be written ({reason}); check the disk, the container and the settings"
