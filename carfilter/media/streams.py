"""What happens to every stream that is not restored: copy, convert or drop; and the converters.

Decided before any work, by asking the muxer: each stream is tried in a scratch file of the target's
format. What the target cannot hold is converted where that is exact or usual, and else refused.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from carfilter.errors import MediaError
from carfilter.media.adts import ADTS_FORMATS, audio_specific_config, without_adts
from carfilter.media.opening import open_container
from carfilter.media.selection import is_picture

_G711 = {"pcm_mulaw", "pcm_alaw"}
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_PICTURES = {"mjpeg": "jpg", "png": "png", "gif": "gif", "webp": "webp"}
_MOV_TEXT_GAP = b"\0\0"  # an empty text; the MP4 muxer writes one into each gap by itself
# The MPEG-TS muxer takes anything and writes what it does not know as anonymous private data.
_TS_HOLDS = {
    *("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "av1"),
    *("mp2", "mp3", "mp1", "aac", "aac_latm", "ac3", "eac3", "dca", "dts", "opus", "truehd"),
    *("dvb_subtitle", "dvbsub", "dvb_teletext", "klv", "scte_35", "timed_id3"),
}


# No repr of the fields: that of a PyAV stream crashes once its container is closed.
@dataclass(frozen=True, repr=False)
class Route:
    """One stream's way into the target; `codec` is the encoder where it is converted."""

    stream: av.stream.Stream
    action: str  # "copy", "convert" or "drop"
    codec: str = ""
    note: str = ""

    def __str__(self) -> str:
        kind = f"#{self.stream.index} {self.stream.type} ({stream_codec(self.stream)})"
        note = f": {self.note}" if self.note else ""
        return f"{kind} -> {self.action}{' to ' + self.codec if self.codec else ''}{note}"


def stream_codec(stream: av.stream.Stream) -> str:
    """Return the name of a stream's codec, or what the container calls it."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    if "timecode" in stream.metadata:
        return "timecode"
    # PyAV gives a stream of an unknown codec no context, and a name only where it is of data.
    return getattr(stream, "name", "unknown codec") or stream.type


def plan_routes(
    streams: Sequence[av.stream.Stream],
    format_name: str,
    *,
    audio_codec: str | None = None,
    subtitle_codec: str | None = None,
    drop_unsupported: bool = False,
) -> list[Route]:
    """Decide for each stream; codecs are encoder names, "copy", or None for the default.

    Raises:
        MediaError: the target cannot hold a stream; the sentence names it and the remedy.
    """
    wanted = {"audio": audio_codec, "subtitle": subtitle_codec}
    routes = [_route(stream, format_name, wanted.get(stream.type)) for stream in streams]
    refused = [route for route in routes if route.action == "refuse"]
    if refused and not drop_unsupported:
        raise MediaError(_remedy(refused[0], format_name))
    return [
        Route(r.stream, "drop", note="the target cannot hold it") if r.action == "refuse" else r
        for r in routes
    ]


def _route(stream: av.stream.Stream, format_name: str, wanted: str | None) -> Route:
    if wanted and wanted != "copy":
        known = stream.codec_context is not None
        return Route(stream, "convert", wanted) if known else Route(stream, "refuse")
    if stream.type == "data" and not _is_free_data(stream):
        kept = "the chapters, or timecode tag, it repeats are kept"
        lost = "this format holds neither chapters nor timecodes"
        return Route(stream, "drop", note=lost if format_name == "mpegts" else kept)
    if can_hold(format_name, stream):
        return Route(stream, "copy")
    for codec in () if wanted == "copy" else _usual_conversions(stream):
        if _can_encode(format_name, codec):
            return Route(stream, "convert", codec)
    return Route(stream, "refuse")


def _is_free_data(stream: av.stream.Stream) -> bool:
    """Say whether a data stream carries something of its own (KLV, ONVIF), and not MP4's timecode
    or chapter track, which the muxer makes anew from tags and chapters."""
    if stream.codec_context is not None:
        return True
    chapter_titles = bool(stream.container.chapters()) and "mp4" in stream.container.format.name
    return "timecode" not in stream.metadata and not chapter_titles


def _usual_conversions(stream: av.stream.Stream) -> Sequence[str]:
    codec = stream_codec(stream)
    if codec in _G711:
        return ("pcm_s16le",)
    if codec == "mov_text":
        return ("srt",)
    if codec in ("subrip", "srt", "text", "webvtt", "ass", "ssa"):
        return ("mov_text", "srt")
    return ()


def can_hold(format_name: str, stream: av.stream.Stream) -> bool:
    """Try whether a muxer takes a stream as it is, and whether a reader will know it again."""
    if format_name == "mpegts" and stream_codec(stream) not in _TS_HOLDS:
        return False
    if format_name == "mov" and is_picture(stream):
        return False  # its muxer leaves the picture out without a word
    file = io.BytesIO()
    with _scratch(format_name, file) as (target, refusals):
        if stream.type == "attachment":
            add_attachment(target, stream)
        else:
            made = target.add_stream_from_template(stream, opaque=True)
        target.start_encoding()
        if stream.type == "data":
            _mux_nothing(target, made)
    return not refusals and (stream.type != "data" or _is_known(file, format_name, stream))


def _mux_nothing(target: av.container.OutputContainer, stream: av.stream.Stream) -> None:
    packet: av.Packet[Any] = av.Packet(bytes(16))
    packet.pts = packet.dts = 0
    packet.time_base, packet.stream = Fraction(1, 1000), stream
    target.mux_one(packet)


def _is_known(file: io.BytesIO, format_name: str, stream: av.stream.Stream) -> bool:
    """Say whether what was written is still the same kind of data: NUT and MOV take KLV, but
    hand it back as data without a name."""
    file.seek(0)
    try:
        with av.open(file, format=format_name.split(",")[0]) as made:
            return [(s.type, s.name) for s in made.streams] == [(stream.type, stream.name)]
    except (av.error.FFmpegError, ValueError):
        return False


def _can_encode(format_name: str, codec: str) -> bool:
    if format_name == "mpegts" and codec not in _TS_HOLDS:
        return False
    with _scratch(format_name, io.BytesIO()) as (target, refusals):
        target.add_stream(codec)
    return not refusals


@contextlib.contextmanager
def _scratch(
    format_name: str, file: io.BytesIO
) -> Iterator[tuple[av.container.OutputContainer, list[Exception]]]:
    """Open a target in memory; what the muxer refuses in the block is put into the list."""
    target = av.open(file, "w", format=format_name)
    refusals: list[Exception] = []
    try:
        yield target, refusals
    except (av.error.FFmpegError, ValueError) as error:
        refusals.append(error)
    finally:
        with contextlib.suppress(av.error.FFmpegError):
            target.close()


def _remedy(route: Route, format_name: str) -> str:
    stream = route.stream
    what = f"stream #{stream.index} ({stream.type}, {stream_codec(stream)})"
    ways = {
        "audio": "give -c:a aac, an .mkv target, -an" if stream.codec_context else "give -an",
        "subtitle": "give an .mkv target, -sn",
        "data": "give a .ts target, -dn",
        "attachment": "give an .mkv target, -map -0:t",
        "video": "give an .mkv target, -map to leave it out",
    }.get(stream.type, "give another container")
    return f"the {format_name} format cannot hold {what}; {ways}, or --drop-unsupported"


def add_attachment(
    target: av.container.OutputContainer, stream: av.stream.Stream
) -> av.stream.Stream:
    """Add a copy of an attachment (a font, a picture, a document) to a target."""
    assert isinstance(stream, av.stream.AttachmentStream)
    name = stream.metadata.get("filename") or stream.name or f"attachment{stream.index}"
    return target.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)


def add_cover(
    target: av.container.OutputContainer, stream: av.stream.Stream, source: str
) -> av.stream.Stream | None:
    """Add cover art as Matroska has it, as an attachment; None where it cannot be read ahead.

    Args:
        source: the path; its picture is read from a second opening, so that nothing of the first
            is passed over.
    """
    kind = _PICTURES.get(stream_codec(stream))
    if kind is None or not Path(source).is_file():
        return None
    with open_container(source) as again:
        packets = again.demux(again.streams[stream.index])
        data = next((bytes(packet) for packet in packets if packet.size), b"")
    name = stream.metadata.get("filename") or f"cover.{kind}"
    return target.add_attachment(name, f"image/{'jpeg' if kind == 'jpg' else kind}", data)


def check_encoder(codec: str, kind: str, option: str, example: str) -> None:
    """Refuse an encoder that does not exist or encodes something else than `kind`."""
    try:
        found = av.Codec(codec, "w").type
    except ValueError as error:
        raise MediaError(
            f"{option} {codec}: there is no such encoder; see ffmpeg -encoders"
        ) from error
    if found != kind:
        raise MediaError(f"{option} {codec}: encodes {found}; give one such as {example}")


def _cannot_hold(target: av.container.OutputContainer, option: str, codec: str) -> str:
    return f"{option} {codec}: the {target.format.name} format cannot hold it; use an .mkv target"


class Copy:
    """Hand packets on as they are."""

    def __init__(self, target: av.container.OutputContainer, stream: av.stream.Stream) -> None:
        self.stream = target.add_stream_from_template(stream, opaque=True)
        self._is_mov_text = stream_codec(stream) == "mov_text"
        header = None if target.format.name in ADTS_FORMATS else audio_specific_config(stream)
        self._strips_adts = header is not None
        if header is not None:
            self.stream.codec_context.extradata = header

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        if self._is_mov_text and bytes(packet) == _MOV_TEXT_GAP:
            return ()
        if self._strips_adts:
            packet = without_adts(packet)
        packet.stream = self.stream
        return (packet,)

    def drain(self) -> Iterable[av.Packet[Any]]:
        return ()


class AudioConversion:
    """Decode and encode one audio stream; exact where the codec is (G.711 to pcm_s16le)."""

    def __init__(
        self, target: av.container.OutputContainer, stream: av.AudioStream, codec: str
    ) -> None:
        self._decoder = stream.codec_context
        check_encoder(codec, "audio", "-c:a", "aac")
        rate, layout = self._decoder.sample_rate, self._decoder.layout
        try:
            added = target.add_stream(codec, rate=rate, time_base=Fraction(1, rate))
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(_cannot_hold(target, "-c:a", codec)) from error
        assert isinstance(added, av.AudioStream)
        self.stream = added
        self._encoder = self.stream.codec_context
        # PCM names no layout but only a count, which encoders refuse.
        usual = _USUAL_LAYOUTS.get(layout.nb_channels, layout.name)
        self._encoder.layout = usual if layout.name.endswith("channels") else layout.name
        self._resampler: av.AudioResampler | None = None

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            return []  # a damaged packet: the gap stays, the timestamps do not move
        return self._encode(frames)

    def drain(self) -> Iterable[av.Packet[Any]]:
        with contextlib.suppress(av.error.FFmpegError):
            yield from self._encode(self._decoder.decode(None))
        if self._resampler is not None:
            for frame in self._resampler.resample(None):
                yield from self.stream.encode(frame)
        yield from self.stream.encode(None)

    def _encode(self, frames: list[av.AudioFrame]) -> list[av.Packet[Any]]:
        packets = []
        for frame in frames:
            for fitting in self._resample(frame):
                packets += self.stream.encode(fitting)
        return packets

    def _resample(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        if self._resampler is None:
            self._encoder.open(strict=False)
            self._resampler = av.AudioResampler(
                format=self._encoder.format,
                layout=self._encoder.layout,
                rate=self._encoder.sample_rate,
                frame_size=self._encoder.frame_size or None,
            )
        return self._resampler.resample(frame)


class SubtitleConversion:
    """Carry text subtitles from one codec to another (mov_text and SubRip)."""

    def __init__(
        self,
        target: av.container.OutputContainer,
        stream: SubtitleStream,
        codec: str,
    ) -> None:
        self._decoder = stream.codec_context
        if not self._decoder.is_open:
            self._decoder.open()
        check_encoder(codec, "subtitle", "-c:s", "srt or mov_text")
        try:
            added = target.add_stream(codec)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(_cannot_hold(target, "-c:s", codec)) from error
        assert isinstance(added, SubtitleStream)
        self.stream = added
        self._encoder = self.stream.codec_context
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = Fraction(1, 1000)
        self.stream.time_base = Fraction(1, 1000)

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        texts = self._decoder.decode2(packet)
        if texts is None or packet.pts is None or not packet.time_base:
            return
        base = packet.time_base
        for text in texts:
            if not isinstance(text, AssSubtitle):
                continue
            shown_ms = round((packet.duration or 0) * float(base) * 1000)
            encoded = self._encoder.encode_subtitle(SubtitleSet.create(text.ass, 0, shown_ms))
            encoded.time_base = Fraction(1, 1000)
            encoded.pts = encoded.dts = round(packet.pts * float(base) * 1000)
            encoded.duration = shown_ms
            encoded.stream = self.stream
            yield encoded

    def drain(self) -> Iterable[av.Packet[Any]]:
        return ()


Carrier = Copy | AudioConversion | SubtitleConversion


def make_carrier(target: av.container.OutputContainer, route: Route) -> Carrier:
    """Add the target's stream for a route and return what turns source packets into its packets.

    Tags and dispositions come along: a stream made from a template has neither.
    """
    if route.action == "copy":
        carrier: Carrier = Copy(target, route.stream)
    elif isinstance(route.stream, av.AudioStream):
        carrier = AudioConversion(target, route.stream, route.codec)
    else:
        assert isinstance(route.stream, SubtitleStream)
        carrier = SubtitleConversion(target, route.stream, route.codec)
    copy_tags(route.stream, carrier.stream)
    return carrier


def copy_tags(source: av.stream.Stream, target: av.stream.Stream) -> None:
    """Copy metadata and disposition, without the tags that a muxer computes anew."""
    stale = {"encoder", "duration", "bps", "number_of_frames", "number_of_bytes"}
    kept = {k: v for k, v in source.metadata.items() if k.lower() not in stale}
    target.metadata.update(kept)
    target.disposition = source.disposition
