"""What happens to every stream that is not restored: copy, convert, or leave out with a word.

Decided before any work, by asking the muxer: each stream is tried in a scratch file of the target's
format. What the target cannot hold is converted where that is exact or usual, and else refused.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import av.error
from av.stream import Discard

from carfilter.errors import MediaError
from carfilter.media.opening import OpenAgain
from carfilter.media.selection import is_picture
from carfilter.media.streams import COVER_ENDINGS, Copy, add_attachment, add_copy, stream_codec
from carfilter.media.tags import WITH_CHAPTERS
from carfilter.media.ticks import BARE, packet_seconds, shift_packet

_PCM = {"pcm_mulaw", "pcm_alaw", "pcm_bluray", "pcm_dvd", "s302m"}  # samples in a packing of theirs
# Sound that comes back whole from every container whose muxer takes it; other sound is tried.
_SURE = {"aac", "ac3", "eac3", "flac", "mp2", "mp3", "opus", "vorbis"}
_TRIED_PACKETS = 50
_LATE = Fraction(1, 10)  # seconds that such sound may come to lie elsewhere
_UNKNOWN = "nobody knows what it is; FFmpeg leaves it out as well"
_WHOLE = {"audio": "sound", "video": "picture"}
# The muxers of MPEG take anything and write what they do not know as anonymous private data.
MPEG_VIDEO = ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4")
_TS_HOLDS = {
    *MPEG_VIDEO,
    *("mp2", "mp2float", "mp3", "mp3float", "mp1", "mp1float", "aac", "aac_latm", "ac3", "eac3"),
    *("dca", "dts", "opus", "truehd", "s302m"),
    *("dvb_subtitle", "dvbsub", "dvb_teletext", "klv", "scte_35", "timed_id3"),
}
# That of Blu-ray knows these as well: https://ffmpeg.org/ffmpeg-formats.html (mpegts_m2ts_mode).
M2TS = "m2ts"
_M2TS_HOLDS = {*_TS_HOLDS, "pcm_bluray", "pgssub"}
# MPEG-PS's as well, and its reader takes all subtitles for those of DVDs; GXF's fails in mid-run.
_LOSES_TEXT = ("mpeg", "vcd", "svcd", "vob", "dvd", "gxf")
_LOST_THERE = {"subrip", "srt", "text", "webvtt", "ass", "ssa", "mov_text", "pgssub", "dvbsub"}
# Their muxers want a picture, and before all else.
_PICTURE_FIRST = ("mxf", "gxf")
_WITH_TIMECODE = {"mov", "mp4", "matroska", "webm", "nut", "mxf"}
_NAMES = {
    "an .mkv": "matroska",
    "a .mov": "mov",
    "a .ts": "mpegts",
    "an .m2ts": M2TS,
    "an .avi": "avi",
    "a .nut": "nut",
}  # formats that a remedy may name, the usual ones first


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(frozen=True, repr=False)
class Route:
    """One stream's way into the target; `codec` is the encoder where it is converted."""

    stream: av.stream.Stream
    action: str  # "copy", "convert" or "drop"
    codec: str = ""
    note: str = ""
    is_loss: bool = False  # what is dropped is in the target in no other way

    def __str__(self) -> str:
        kind = f"#{self.stream.index} {self.stream.type} ({stream_codec(self.stream)})"
        note = f": {self.note}" if self.note else ""
        return f"{kind} -> {self.action}{' to ' + self.codec if self.codec else ''}{note}"


def plan_routes(
    streams: Sequence[av.stream.Stream],
    format_name: str,
    *,
    audio_codec: str | None = None,
    subtitle_codec: str | None = None,
    drop_unsupported: bool = False,
    again: OpenAgain | None = None,
) -> list[Route]:
    """Decide for each stream; codecs are encoder names, "copy", or None for the default.

    Args:
        format_name: FFmpeg's, or M2TS.
        again: opens the source once more, to read its cover art ahead and to try its sound; None
            for what can be read once only.

    Raises:
        MediaError: the target cannot hold a stream; the sentence names it and what would help.
    """
    wanted = {"audio": audio_codec, "subtitle": subtitle_codec}
    routes = [
        Route(stream, "copy")
        if again is not None and _becomes_attachment(format_name, stream)
        else _route(stream, format_name, wanted.get(stream.type), again)
        for stream in streams
    ]
    refused = [route.stream for route in routes if route.action == "refuse"]
    if refused and not drop_unsupported:
        raise MediaError(_remedy(refused, streams, format_name, again))
    return [
        _dropped(r.stream, "the target cannot hold it") if r.action == "refuse" else r
        for r in routes
    ]


def _dropped(stream: av.stream.Stream, note: str) -> Route:
    return Route(stream, "drop", note=note, is_loss=True)


def _route(
    stream: av.stream.Stream, format_name: str, wanted: str | None, again: OpenAgain | None
) -> Route:
    if stream.type == "unknown":
        return _dropped(stream, _UNKNOWN)
    if _is_silent(stream):
        return _dropped(stream, f"it is announced, but no {_WHOLE[stream.type]} in it was found")
    if wanted and wanted != "copy":
        known = stream.codec_context is not None
        return Route(stream, "convert", wanted) if known else Route(stream, "refuse")
    if stream.type == "data" and not _is_free_data(stream):
        return Route(stream, "drop", note=_what_it_repeats(stream, format_name))
    if (
        can_hold(format_name, stream)
        and (wanted == "copy" or not _is_better_plain(format_name, stream))
        and (again is None or _is_heard(format_name, stream, again))
    ):
        return Route(stream, "copy")
    for codec in () if wanted == "copy" else _usual_conversions(stream):
        if _can_encode(format_name, codec):
            return Route(stream, "convert", codec)
    if stream.type == "data" and not _kind(stream)[1] and wanted != "copy":
        return _dropped(stream, _UNKNOWN)
    return Route(stream, "refuse")


def _becomes_attachment(format_name: str, stream: av.stream.Stream) -> bool:
    """Say whether a stream is cover art that Matroska takes, see add_cover()."""
    return (
        "matroska" in format_name and is_picture(stream) and stream_codec(stream) in COVER_ENDINGS
    )


def _is_silent(stream: av.stream.Stream) -> bool:
    """Say whether nothing is known of a stream but its codec, since no packet of it came."""
    if stream.codec_context is None:
        return False
    if isinstance(stream, av.AudioStream):
        context = stream.codec_context
        return not context.sample_rate or not context.layout.nb_channels
    return isinstance(stream, av.VideoStream) and not stream.codec_context.width


def _is_free_data(stream: av.stream.Stream) -> bool:
    """Say whether a data stream carries something of its own (KLV, ONVIF, telemetry), and not MP4's
    timecode or chapter track, which the muxer makes anew from tags and chapters."""
    if stream.codec_context is not None:
        return True
    # FFmpeg's demuxer discards the packets of a chapter track by itself, and of no other.
    return "timecode" not in stream.metadata and stream.discard != Discard.all


def _what_it_repeats(stream: av.stream.Stream, format_name: str) -> str:
    if "timecode" in stream.metadata:
        kept = format_name in _WITH_TIMECODE
        return "the timecode tag it repeats is kept" if kept else "this format holds no timecodes"
    kept = format_name in WITH_CHAPTERS
    return "the chapters it repeats are kept" if kept else "this format holds no chapters"


def _is_better_plain(format_name: str, stream: av.stream.Stream) -> bool:
    """Say whether sound is samples in a packing that few programs know in this container."""
    if stream_codec(stream) not in _PCM or format_name in ("mpegts", M2TS):
        return False
    with _scratch(format_name, io.BytesIO()) as (target, refusals):
        target.add_stream_from_template(stream, opaque=True)
    return bool(refusals)


def _usual_conversions(stream: av.stream.Stream) -> Sequence[str]:
    codec = stream_codec(stream)
    if codec in _PCM and isinstance(stream, av.AudioStream):
        is_short = stream.codec_context.format.name.startswith("s16")
        return ("pcm_s16le",) if is_short else ("pcm_s24le",)
    if codec == "mov_text":
        return ("srt",)
    if codec in ("subrip", "srt", "text", "webvtt", "ass", "ssa"):
        return ("mov_text", "srt")
    return ()


def can_hold(format_name: str, stream: av.stream.Stream) -> bool:
    """Try whether a muxer takes a stream as it is, and whether a reader will know it again."""
    if format_name in BARE or not _is_named(format_name, stream_codec(stream)):
        return False  # the muxer of raw video would write sound between its pictures
    if format_name == "mov" and is_picture(stream):
        return False  # its muxer leaves the picture out without a word
    if format_name == "webm" and stream.type == "attachment":
        return False  # likewise
    file, is_doubtful = io.BytesIO(), stream.type == "data"
    with _scratch(format_name, file) as (target, refusals):
        if format_name in _PICTURE_FIRST:
            _add_picture(target)
        if stream.type == "attachment":
            add_attachment(target, stream)
        else:
            made = add_copy(target, stream)
            is_doubtful |= made.codec_context is None
        target.start_encoding()
        if is_doubtful:
            _mux_nothing(target, made)
    return not refusals and (not is_doubtful or _is_known(file, format_name, stream))


def _is_named(format_name: str, codec: str) -> bool:
    if format_name in _LOSES_TEXT:
        return codec not in _LOST_THERE
    holds = {"mpegts": _TS_HOLDS, M2TS: _M2TS_HOLDS}.get(format_name)
    return holds is None or codec in holds


def _add_picture(target: av.container.OutputContainer) -> None:
    stream = target.add_stream("mpeg2video", rate=25)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"


def _mux_nothing(target: av.container.OutputContainer, stream: av.stream.Stream) -> None:
    packet: av.Packet[Any] = av.Packet(bytes(16))
    packet.pts = packet.dts = 0
    packet.time_base, packet.stream = Fraction(1, 1000), stream
    target.mux_one(packet)


def _is_known(file: io.BytesIO, format_name: str, stream: av.stream.Stream) -> bool:
    """Say whether what was written is still the same kind of data: NUT and MOV take KLV, but
    hand it back as data without a name."""
    file.seek(0)
    reader = "mpegts" if format_name == M2TS else format_name.split(",")[0]
    try:
        with av.open(file, format=reader) as made:
            return [_kind(s) for s in made.streams] == [_kind(stream)]
    except (av.error.FFmpegError, ValueError):
        return False


def _is_heard(format_name: str, stream: av.stream.Stream, again: OpenAgain) -> bool:
    """Try whether sound that few know is heard, in time, when it has gone through a format: a
    demuxer may not know what its own muxer takes (DFPWM in MOV), or a container lack what another
    one needs (NUT does not tell the blocks of ADPCM, and FFmpeg's AVI not how long they last)."""
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        return True
    codec = stream.codec_context.codec.canonical_name
    if codec in _SURE or codec.startswith("pcm_"):
        return True
    file = io.BytesIO()
    try:
        with again() as opened, _scratch(format_name, file) as (target, refusals):
            twin = opened.streams[stream.index]
            packets = [p for p in islice(opened.demux(twin), _TRIED_PACKETS) if p.size]
            wanted, carrier = _samples(twin, packets), Copy(target, twin)
            lasting = _lasting(packets)
            start = next((p.dts for p in packets if p.dts is not None), 0)
            for packet in packets:
                shift_packet(packet, -start)
                target.mux([*carrier.convert(packet)])
    except (MediaError, av.error.FFmpegError, ValueError, IndexError):
        return True  # it cannot be tried
    file.seek(0)
    try:
        with av.open(file, "r") as made:
            (back,) = made.streams
            packets = [p for p in made.demux(back) if p.size]
            in_time = abs(_lasting(packets) - lasting) <= _LATE + lasting / 10
            return not refusals and in_time and _samples(back, packets) >= wanted / 2
    except (av.error.FFmpegError, ValueError):
        return False


def _lasting(packets: Sequence[av.Packet[Any]]) -> Fraction:
    """Return the seconds from the first packet to the last one; zero where they have no times."""
    times = [at for at in map(packet_seconds, packets) if at is not None]
    return times[-1] - times[0] if times else Fraction(0)


def _samples(stream: av.stream.Stream, packets: Iterable[av.Packet[Any]]) -> int:
    """Count the samples that packets decode to, at any rate."""
    count = 0
    if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
        return 0
    for packet in packets:
        with contextlib.suppress(av.error.FFmpegError):
            count += sum(frame.samples for frame in stream.codec_context.decode(packet))
    return count


def _kind(stream: av.stream.Stream) -> tuple[str, str | None]:
    if stream.codec_context is not None:
        return stream.type, stream.codec_context.name
    return stream.type, getattr(stream, "name", None)  # one of no known type has no name


def _can_encode(format_name: str, codec: str) -> bool:
    if not _is_named(format_name, codec):
        return False
    with _scratch(format_name, io.BytesIO()) as (target, refusals):
        if format_name in _PICTURE_FIRST:
            _add_picture(target)
        target.add_stream(codec)
        if format_name in _PICTURE_FIRST:
            target.start_encoding()
    return not refusals


@contextlib.contextmanager
def _scratch(
    format_name: str, file: io.BytesIO
) -> Iterator[tuple[av.container.OutputContainer, list[Exception]]]:
    """Open a target in memory; what the muxer refuses in the block is put into the list."""
    name, options = format_name, {}
    if format_name == M2TS:
        name, options = "mpegts", {"mpegts_m2ts_mode": "1"}
    target = av.open(file, "w", format=name, container_options=options)
    refusals: list[Exception] = []
    try:
        yield target, refusals
    except (av.error.FFmpegError, ValueError) as error:
        refusals.append(error)
    finally:
        with contextlib.suppress(av.error.FFmpegError):
            target.close()


def _remedy(
    refused: Sequence[av.stream.Stream],
    streams: Sequence[av.stream.Stream],
    format_name: str,
    again: OpenAgain | None,
) -> str:
    """Say what the target cannot hold, and each way out that works for all of it together."""
    ways = []
    if all(isinstance(stream, av.AudioStream) and stream.codec_context for stream in refused):
        ways += [f"-c:a {c}" for c in ("aac", "pcm_s16le") if _can_encode(format_name, c)][:1]
    for name, other in _NAMES.items():
        left = [s for s in streams if again is None or not _becomes_attachment(other, s)]
        if all(_route(s, other, None, again).action != "refuse" for s in left):
            ways.append(f"{name} target")
            break
    ways.append(" ".join(dict.fromkeys(map(_leaving_out, refused))))
    return (
        f"the {format_name} format cannot hold {' and '.join(map(_described, refused))};"
        f" give {', '.join(ways)}, or --drop-unsupported"
    )


def _described(stream: av.stream.Stream) -> str:
    return f"stream #{stream.index} ({stream.type}, {stream_codec(stream)})"


def _leaving_out(stream: av.stream.Stream) -> str:
    by_type = {"audio": "-an", "subtitle": "-sn", "data": "-dn", "attachment": "-map -0:t"}
    return by_type.get(stream.type, f"-map -0:{stream.index}")
