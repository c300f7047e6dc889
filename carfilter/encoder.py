"""The video encoder: which one, its settings, and the tags of the picture it is opened with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import av.error

from carfilter.errors import MediaError
from carfilter.frames import display_matrix
from carfilter.source import Source
from carfilter.streams import check_encoder, copy_tags

if TYPE_CHECKING:
    from carfilter.target import TargetOptions

_RATE_CONTROL = {"crf", "qp", "b", "maxrate", "minrate", "bufsize", "cq", "rc", "global_quality"}
_PARAMS = ("x264-params", "x264opts", "x265-params")
_DEFAULT_CRF = {"libx264": "18", "libx265": "18"}


def add_video(
    container: av.container.OutputContainer,
    source: Source,
    options: TargetOptions,
    size: tuple[int, int] | None,
    *,
    is_pipe: bool,
) -> av.VideoStream:
    """Add the stream of the restored video to a target, with its encoder set up but not open.

    Args:
        size: width and height of the written picture where it is not the source's.
        is_pipe: the target is stdout, where raw video is the default.

    Raises:
        MediaError: there is no such encoder or option, or the container or the encoder cannot hold
            the pixel format.
    """
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


def open_encoder(stream: av.VideoStream, frame: av.VideoFrame) -> None:
    """Open with the first frame's own tags: colours come from the picture, not the header.

    Raises:
        MediaError: the encoder refuses its settings.
    """
    context = stream.codec_context
    context.width, context.height = frame.width, frame.height
    for tag in ("color_range", "colorspace", "color_trc", "color_primaries"):
        setattr(context, tag, int(getattr(frame, tag)))
    if hasattr(frame, "chroma_location"):  # PyAV 19 tells it
        setattr(context, "chroma_sample_location", int(frame.chroma_location))  # noqa: B010
    matrix = display_matrix(frame)
    if matrix is not None:
        stream.set_display_matrix(matrix)
    given = dict(context.options)
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{context.name} refuses these settings for {frame.width}x{frame.height}"
            f" {context.pix_fmt}: {given or 'none'}; correct them or choose another -c:v"
        ) from error
