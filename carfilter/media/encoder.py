"""The video encoder: which one, its settings, and the tags of the picture it is opened with."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Sequence
from fractions import Fraction

import av
import av.error
from av.codec.context import Flags

from carfilter.errors import MediaError
from carfilter.media.conform import PLANAR, is_full_range, lies_on_side
from carfilter.media.frames import COLOUR_TAGS, display_matrix, pixel_format
from carfilter.media.hardware import usable_encoder
from carfilter.media.hdr import hdr_options
from carfilter.media.libav.stream import chroma_location, set_aspect_ratio
from carfilter.media.options import TargetOptions
from carfilter.media.routes import MPEG_VIDEO
from carfilter.media.segments import FORMATS as SEGMENT_FORMATS
from carfilter.media.source import Source
from carfilter.media.streams import cannot_hold, check_encoder, copy_tags
from carfilter.media.ticks import as_fraction, has_times, is_constant
from carfilter.process import cpu_flags

logger = logging.getLogger("carfilter")

_RATE_CONTROL = {"crf", "qp", "b", "maxrate", "minrate", "bufsize", "cq", "rc", "global_quality"}
_PARAMS = ("x264-params", "x264opts", "x265-params")
_Y4M_FORMATS = ("yuv411p", "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray")
_MPEG = ("mpegts", "mpeg", "vcd", "svcd", "vob", "dvd")  # the muxers of MPEG-TS and -PS
COUNT_PICTURES = ("mpeg1video", "mpeg2video")
_MPEG4_TICKS = 60_000  # a second; below its 2^16, and whole at 24, 25, 29.97, 30, 50 and 60 fps
# All that its own detection asks for (x264's common/cpu.c).
_X264_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_CHOOSES_CODE = re.compile(r"(^|:)(asm|cpu-independent)(=|:|$)")
_CODE_FIELDS = ("libx264", "mpeg2video", "mpeg4", "prores_ks")
_BOTTOM_FIRST = (3, 5)  # AV_FIELD_BB, AV_FIELD_BT
# Its decoder does not tell: by lines, bottom first, or top (AV_FIELD_TT); 720 come progressive.
_DV_FIELDS = {480: 3, 576: 3, 1080: 2}
_KEEP_FIELDS = ("ffv1", "rawvideo", "utvideo", "mjpeg")  # each picture by itself, nothing predicted
# Without any, NVENC aims at FFmpeg's 2 Mb/s whatever the size. As for libx264: a quality, no rate.
_NVENC = {"rc": "vbr", "cq": "19", "b": "0"}
_MOST_THREADS = {"libx265": 16}  # which takes them for pictures at a time (--frame-threads)
_SET_HERE = {
    "time_base": "the source's times",
    "video_size": "the source's size",
    "pixel_format": "-pix_fmt",
}
_DEFAULT_CRF = {"libx264": "18", "libx265": "18"}


def add_video(
    container: av.container.OutputContainer,
    holder: av.container.OutputContainer,
    source: Source,
    options: TargetOptions,
    size: tuple[int, int] | None,
    *,
    is_pipe: bool,
) -> av.VideoStream:
    """Add the stream of the restored video to a target, with its encoder set up but not open.

    Args:
        holder: a container of the format that will hold the stream: `container`, or for segments
            one of theirs.
        size: width and height of the written picture where it is not the source's.
        is_pipe: the target is stdout, where raw video is the default.

    Raises:
        MediaError: there is no such encoder or option, or the container or the encoder cannot hold
            the pixel format.
    """
    decoder = source.video.codec_context
    asked = options.pix_fmt or decoder.pix_fmt or ""
    pixel_format(asked)
    codec = options.video_codec or _default_codec(holder, asked, is_pipe=is_pipe)
    check_encoder(codec, "video", "-c:v", "libx264")
    codec, given = usable_encoder(codec, options.encoder)
    stream = _new_stream(container, holder, codec, source)
    context = stream.codec_context
    context.pix_fmt = _written_format(holder, codec, asked, was_asked=bool(options.pix_fmt))
    if container.format.name == "yuv4mpegpipe" and (context.pix_fmt or "") not in _Y4M_FORMATS:
        logger.warning(
            "Y4M with %s is an extension of FFmpeg's (its -strict -1): not every program reads it",
            context.pix_fmt,
        )
    context.width, context.height = size or (decoder.width, decoder.height)
    context.thread_count = min(options.threads, _MOST_THREADS.get(codec, options.threads))
    # As FFmpeg has it. PyAV's own choice, SLICE, makes x264 cut each picture into slices: less of
    # the cores is used, and the file is larger. Frame threads hold back a frame each.
    context.thread_type = "SLICE" if options.live else "AUTO"
    context.flags |= Flags.frame_duration  # that of the last picture is told by nothing else
    if source.video.sample_aspect_ratio:
        context.sample_aspect_ratio = source.video.sample_aspect_ratio
    settings = _with_defaults(codec, dict(given), options)
    context.options = _encoder_options(context, codec, settings, verbose=options.verbose_encoder)
    _keep_chroma_location(context, source)
    is_dv = decoder.name == "dvvideo"
    field_order = _DV_FIELDS.get(decoder.height, 0) if is_dv else decoder.field_order
    if field_order > 1:
        _code_interlaced(context, field_order)
    copy_tags(source.video, stream)
    _forget_lost_alpha(stream, source)
    _tell_lost_alpha(source, context.format)
    return stream


def _new_stream(
    container: av.container.OutputContainer,
    holder: av.container.OutputContainer,
    codec: str,
    source: Source,
) -> av.VideoStream:
    """Add a stream of a codec that the container holds, and that is read back from it."""
    if holder.format.name in _MPEG and av.Codec(codec, "w").canonical_name not in MPEG_VIDEO:
        raise MediaError(cannot_hold(holder, "-c:v", codec))
    base = _time_base(codec, holder, source)
    try:
        stream = container.add_stream(codec, rate=source.rate or 25, time_base=base)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(cannot_hold(container, "-c:v", codec)) from error
    assert isinstance(stream, av.VideoStream)
    return stream


def _tell_lost_alpha(source: Source, written: av.VideoFormat | None) -> None:
    decoded = source.video.codec_context.format
    if decoded is None or written is None or not _has_alpha(decoded) or _has_alpha(written):
        return
    logger.warning(
        "%s: its alpha is lost, since %s has none; to keep it give -pix_fmt %s with an .mkv target",
        source.name,
        written.name,
        "yuva444p" if decoded.is_rgb else decoded.name,
    )


def _has_alpha(pix_fmt: av.VideoFormat) -> bool:
    return any(component.is_alpha for component in pix_fmt.components)


def _forget_lost_alpha(stream: av.VideoStream, source: Source) -> None:
    """Tag no alpha where there is none: FFmpeg's own decoder of VP9 leaves it out."""
    tag = next((key for key in stream.metadata if key.lower() == "alpha_mode"), None)
    decoded = source.video.codec_context.format
    if tag is not None and decoded is not None and len(decoded.components) in (1, 3):
        del stream.metadata[tag]
        logger.warning(
            "%s: its alpha is lost, since its decoder does not give it; make it FFV1 first with"
            " ffmpeg -c:v %s -i INPUT -c:v ffv1 OUTPUT.mkv",
            source.name,
            "libvpx" if source.video.codec_context.name == "vp8" else "libvpx-vp9",
        )


def _keep_chroma_location(context: av.VideoCodecContext, source: Source) -> None:
    """Say where the chroma samples lie, which PyAV has no attribute for, where they stay there."""
    before, after = source.video.codec_context.format, context.format
    lies = chroma_location(source.video)
    if lies and before is not None and after is not None and _halves(before) and _halves(after):
        context.options = {"chroma_sample_location": str(lies), **context.options}


def _halves(pix_fmt: av.VideoFormat) -> bool:
    """Say whether chroma has half the samples of luma across and down."""
    return pix_fmt.chroma_width(4) == pix_fmt.chroma_height(4) == 2


def _time_base(codec: str, container: av.container.OutputContainer, source: Source) -> Fraction:
    """Return the source's own time base wherever the target can express it."""
    too_fine = codec == "mpeg4" and source.time_base.denominator > _MPEG4_TICKS
    # MPEG-1 and -2 know a few constant rates and no times, and in a bare stream nothing else does.
    # AVI writes something into every tick, and it and IVF call the ticks the rate.
    counts = codec in COUNT_PICTURES or not has_times(container)
    if container.format.name in ("avi", "ivf"):
        counts = counts or too_fine or is_constant(source.video)
    if counts and source.rate:
        return 1 / source.rate
    return Fraction(1, _MPEG4_TICKS) if too_fine else source.time_base


def _written_format(
    container: av.container.OutputContainer, codec: str, pix_fmt: str, *, was_asked: bool
) -> str:
    """Return the pixel format to encode: the given one, or another layout of the same samples."""
    formats = [f.name for f in av.Codec(codec, "w").video_formats or ()]
    for name in [pix_fmt] if was_asked else _layouts(pix_fmt):
        if name in formats or (not formats and _can_name(container.format.name, codec, name)):
            return name
    if not formats:
        raise MediaError(
            f"-c:v {codec}: the {container.format.name} format has no name for {pix_fmt};"
            f" give {'-pix_fmt ' + PLANAR[pix_fmt] if pix_fmt in PLANAR else '-c:v ffv1'},"
            " or another container"
        )
    raise MediaError(
        f"-c:v {codec}: cannot encode pixel format {pix_fmt}; give -pix_fmt with one of"
        f" {', '.join(formats[:8])}"
        f"{'' if codec == 'ffv1' else ', or -c:v ffv1 with an .mkv target'}"
    )


def _layouts(pix_fmt: str) -> list[str]:
    """Return the formats that hold the same samples: the range is a tag of its own, and the two
    chroma planes may be one."""
    if pix_fmt.startswith("yuvj"):
        return [pix_fmt, pix_fmt.replace("yuvj", "yuv")]
    semi_planar = {"yuv420p10le": "p010le", "yuv422p10le": "p210le"}  # what NVENC takes
    other = PLANAR.get(pix_fmt) or semi_planar.get(pix_fmt)
    return [pix_fmt, *([other] if other else [])]


def _can_name(format_name: str, codec: str, pix_fmt: str) -> bool:
    """Try whether a reader of raw video would know its format: NUT writes an empty tag for P010,
    and it is read as RGB."""
    if codec != "rawvideo" or format_name in ("rawvideo", "yuv4mpegpipe"):
        return True
    file = io.BytesIO()
    frame = av.VideoFrame(32, 32, pix_fmt)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    try:
        with av.open(file, "w", format=format_name) as target:
            stream = target.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 32, 32, pix_fmt
            target.mux(stream.encode(frame))
        file.seek(0)
        with av.open(file, format=format_name.split(",")[0]) as made:
            return made.streams.video[0].codec_context.pix_fmt == pix_fmt.replace("yuvj", "yuv")
    except (av.error.FFmpegError, ValueError):
        return False


def _default_codec(container: av.container.OutputContainer, pix_fmt: str, *, is_pipe: bool) -> str:
    name, holds = container.format.name, container.supported_codecs
    if name in ("rawvideo", "yuv4mpegpipe") or (is_pipe and name == "nut"):
        return "rawvideo"
    x264 = [f.name for f in av.Codec("libx264", "w").video_formats or ()]
    if ("libx264" in holds or name in ("mpegts", "rtsp", "rtp_mpegts")) and set(
        _layouts(pix_fmt)
    ) & set(x264):
        return "libx264"
    if "matroska" in name and "ffv1" in holds:
        return "ffv1"
    raise MediaError(
        f"the {name} format has no default for pixel format {pix_fmt};"
        " use an .mkv target, or give -c:v and perhaps -pix_fmt"
    )


def _code_interlaced(context: av.VideoCodecContext, field_order: int) -> None:
    context.field_order = field_order
    if context.name in _CODE_FIELDS:
        flags = av.codec.context.Flags
        context.flags |= flags.interlaced_dct | flags.interlaced_me
        if context.name == "libx264" and field_order in _BOTTOM_FIRST:
            # x264 learns it from the first frame, after its headers were written.
            given = context.options.get("x264-params")
            params = "bff=1" + (f":{given}" if given else "")
            context.options = {**context.options, "x264-params": params}
    elif context.name not in _KEEP_FIELDS:
        logger.warning(
            "the source is interlaced, but %s codes whole pictures: use libx264, or deinterlace"
            " what it writes",
            context.name,
        )


def _with_defaults(codec: str, given: dict[str, str], options: TargetOptions) -> dict[str, str]:
    """Add what --live and segments ask of an encoder, where the user has not decided it."""
    defaults: dict[str, str] = {}
    if options.format in SEGMENT_FORMATS and codec in _DEFAULT_CRF:
        defaults["forced-idr"] = "1"  # of the frames at which the segments begin
    if options.live and codec in _DEFAULT_CRF:
        # Without look-ahead and B-frames, which alone would cost two seconds.
        defaults |= {"preset": "veryfast", "tune": "zerolatency"}
    return {**defaults, **given}


def _repeating_itself(given: dict[str, str]) -> dict[str, str]:
    """Keep libx264 from AVX-512, with which three encodes of one clip gave three files.

    What the user says of `asm` or `cpu-independent` stands.
    """
    said = [given.get(name, "") for name in ("x264-params", "x264opts")]
    if not cpu_flags() >= _X264_AVX512 or any(map(_CHOOSES_CODE.search, said)):
        return given
    logger.info(
        "libx264 without AVX-512, with which it does not repeat itself bit by bit;"
        " --enc-opt x264-params=asm=auto allows it"
    )
    params = given.get("x264-params")
    return {**given, "x264-params": "asm=avx2" + (f":{params}" if params else "")}


def _encoder_options(
    context: av.VideoCodecContext, codec: str, given: dict[str, str], *, verbose: bool
) -> dict[str, str]:
    supported = context.supported_options
    known = {o.name for o in (*supported.generic, *supported.private)}
    for name in given:
        if name in _SET_HERE:
            raise MediaError(f"-c:v {codec}: {name} follows {_SET_HERE[name]}; leave it out")
        if name not in known:
            raise MediaError(f"-c:v {codec}: has no option {name!r}; see ffmpeg -h encoder={codec}")
    sets_rate = _RATE_CONTROL & given.keys() or any(
        word in given.get(p, "") for p in _PARAMS for word in ("crf=", "qp=", "bitrate=")
    )
    if codec in _DEFAULT_CRF and not sets_rate:
        given["crf"] = _DEFAULT_CRF[codec]
        given.setdefault("preset", "medium")
    if codec == "libx264":
        given = _repeating_itself(given)
    if codec.endswith("_nvenc") and not sets_rate:
        given |= _NVENC
    if codec == "libsvtav1" and not verbose:
        os.environ.setdefault("SVT_LOG", "1")  # errors; it prints its settings otherwise
    if codec == "libx265" and not verbose:
        # It writes to stderr by itself, whatever FFmpeg's log level is.
        params = given.get("x265-params")
        given["x265-params"] = "log-level=none" + (f":{params}" if params else "")
    return given


def open_encoder(
    stream: av.VideoStream, frame: av.VideoFrame, turned: Sequence[int] | None = None
) -> None:
    """Open with the first frame's own tags: colours come from the picture, not the header.

    Args:
        turned: the display matrix by which what is encoded was turned upright.

    Raises:
        MediaError: the encoder refuses its settings.
    """
    context = stream.codec_context
    context.width, context.height = frame.width, frame.height
    if turned is not None and lies_on_side(turned):
        context.width, context.height = frame.height, frame.width
        if context.sample_aspect_ratio:
            context.sample_aspect_ratio = 1 / as_fraction(context.sample_aspect_ratio)
    if context.sample_aspect_ratio and not set_aspect_ratio(
        stream, as_fraction(context.sample_aspect_ratio)
    ):
        logger.warning(
            "the shape of a sample, %s, may be lost: this PyAV is not known; use -c:v libx264",
            context.sample_aspect_ratio,
        )
    for tag in COLOUR_TAGS:
        setattr(context, tag, int(getattr(frame, tag)))
    matrix = display_matrix(frame)
    if matrix is not None and turned is None:
        stream.set_display_matrix(matrix)
    if context.name == "mjpeg" and not is_full_range(frame):
        full = frame.format.name.replace("yuv4", "yuvj4")
        raise MediaError(f"-c:v mjpeg: holds full range only; give -pix_fmt {full} to stretch it")
    given = hdr_options(frame, context.name, dict(context.options))
    context.options = given
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        if odd := _odd_side(context):
            full = (context.pix_fmt or "").replace("420", "444").replace("422", "444")
            raise MediaError(
                f"{context.name} takes no odd {odd} with {context.pix_fmt}, and the picture is"
                f" {context.width}x{context.height}; give -pix_fmt {full}, or -c:v ffv1 with an"
                " .mkv target, or crop it first with ffmpeg -vf crop"
            ) from error
        settings = ", ".join(f"{name}={value}" for name, value in given.items())
        raise MediaError(
            f"{context.name} refuses these settings for {frame.width}x{frame.height}"
            f" {context.pix_fmt}: {settings or 'none'}; correct them or choose another -c:v"
        ) from error


def _odd_side(context: av.VideoCodecContext) -> str:
    """Return which side is odd though the chroma of the pixel format is halved there, if any."""
    pix_fmt = context.format
    if pix_fmt is None or len(pix_fmt.components) < 2:
        return ""
    chroma = pix_fmt.components[1]
    sizes = (("width", context.width, chroma.width), ("height", context.height, chroma.height))
    sides = [side for side, whole, halved in sizes if whole % 2 and halved != whole]
    return " and ".join(sides)
