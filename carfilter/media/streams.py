"""The streams that are not restored on their way into the target: copied, or converted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from carfilter.errors import MediaError
from carfilter.media.libav.stream import forget_codec_tag
from carfilter.media.opening import open_container
from carfilter.media.ticks import ENDLESS_MS, as_fraction, rescale

logger = logging.getLogger("carfilter")

_SHOWN_MS = 10_000  # of a text without an end, which no encoder writes

_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
COVER_ENDINGS = {"mjpeg": "jpg", "png": "png", "gif": "gif", "webp": "webp"}
# AAC as MPEG-TS holds it has a header (ADTS) in each packet; elsewhere there is one for all.
# FFmpeg's muxers change over by themselves, but at a pipe they fail: what they learn from the first
# packet would belong into the file's beginning. So it is told beforehand here.
_ADTS_FORMATS = ("mpegts", "adts", "segment", "stream_segment", "ssegment")
_PROFILES = {"Main": 1, "LC": 2}  # of the AudioSpecificConfig, ISO/IEC 14496-3
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 8: 7}
_MOV_TEXT_GAP = b"\0\0"  # an empty text; the MP4 muxer writes one into each gap by itself


def stream_codec(stream: av.stream.Stream) -> str:
    """Return the name of a stream's codec, or what the container calls it."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    if "timecode" in stream.metadata:
        return "timecode"
    # PyAV gives a stream of an unknown codec no context, and a name only where it is of data.
    return getattr(stream, "name", "unknown codec") or stream.type


def add_copy(target: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """Add a stream that holds another one's packets as they are.

    PyAV asks a table of FFmpeg's whether the container holds the codec, in which WMA and ADPCM in
    Matroska are missing; the muxer itself says so at the header. A bitstream filter that changes
    nothing copies the parameters past that question:
    https://github.com/PyAV-Org/PyAV/blob/main/av/bitstream.py (out_stream).

    Raises:
        FFmpegError, ValueError: the container does not hold it.
    """
    try:
        made = target.add_stream_from_template(stream, opaque=True)
    except ValueError:
        usual = target.default_audio_codec
        if stream.type != "audio" or stream.codec_context is None or usual == "none":
            raise
        made = target.add_mux_stream(usual)
        BitStreamFilterContext("null", stream, made)
        made.time_base = stream.time_base
        forget_codec_tag(made)
    if target.format.name == "flv" and isinstance(made, av.AudioStream) and made.codec_context:
        # FFmpeg 8.1 ends the process over a layout that is a mere count of channels:
        # https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/flvenc.c (write_codec_fourcc).
        made.codec_context.layout = _named_layout(made.codec_context.layout)
    return made


def _named_layout(layout: av.AudioLayout) -> str:
    """Return the usual layout where only the number of channels is known, as of PCM."""
    usual = _USUAL_LAYOUTS.get(layout.nb_channels, layout.name)
    return usual if layout.name.endswith("channels") else layout.name


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
    kind = COVER_ENDINGS.get(stream_codec(stream))
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
            f"{option} {codec}: there is no such encoder in PyAV's FFmpeg, whatever others have;"
            f" give one such as {example}"
        ) from error
    if found != kind:
        raise MediaError(f"{option} {codec}: encodes {found}; give one such as {example}")


def cannot_hold(target: av.container.OutputContainer, option: str, codec: str) -> str:
    """Return the sentence for a codec that a container does not take."""
    name = target.format.name
    if name == "matroska":  # as a codec of Windows's, which PyAV does not know of
        return f"{option} {codec}: PyAV does not write it into {name}; use another {option}"
    return f"{option} {codec}: the {name} format cannot hold it; use an .mkv target"


class Copy:
    """Hand packets on as they are."""

    def __init__(self, target: av.container.OutputContainer, stream: av.stream.Stream) -> None:
        self.stream = add_copy(target, stream)
        self._is_mov_text = stream_codec(stream) == "mov_text"
        self._is_sound = stream.type == "audio"
        self._last_dts: int | None = None  # of its last packet
        self._duration = 0  # ticks from packet to packet
        header = None if target.format.name in _ADTS_FORMATS else _audio_specific_config(stream)
        self._strips_adts = header is not None
        if header is not None and self.stream.codec_context is not None:
            self.stream.codec_context.extradata = header

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        if self._is_mov_text and bytes(packet) == _MOV_TEXT_GAP:
            return ()
        if self._strips_adts:
            packet = _without_adts(packet)
        if self._is_sound:
            self._set_duration(packet)
        elif (packet.duration or 0) * (packet.time_base or 0) >= Fraction(ENDLESS_MS, 1000):
            packet.duration = 0  # MP4 takes none that long
        packet.stream = self.stream
        return (packet,)

    def _set_duration(self, packet: av.Packet[Any]) -> None:
        """Give a packet the duration of the one before, as far apart as they are, if it has none:
        Matroska may not tell any, and MP4 would end before the last one."""
        if packet.dts is not None:
            if self._last_dts is not None:
                self._duration = max(packet.dts - self._last_dts, 0)
            self._last_dts = packet.dts
        packet.duration = packet.duration or self._duration

    def drain(self) -> Iterable[av.Packet[Any]]:
        return ()


class AudioConversion:
    """Decode and encode one audio stream; exact where the codec is (G.711 to pcm_s16le)."""

    def __init__(
        self, target: av.container.OutputContainer, stream: av.AudioStream, codec: str
    ) -> None:
        self._decoder = stream.codec_context
        check_encoder(codec, "audio", "-c:a", "aac")
        rate, layout = _rate_for(codec, self._decoder.sample_rate), self._decoder.layout
        try:
            added = target.add_stream(codec, rate=rate, time_base=Fraction(1, rate))
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(cannot_hold(target, "-c:a", codec)) from error
        assert isinstance(added, av.AudioStream)
        self.stream = added
        self._encoder = self.stream.codec_context
        self._encoder.layout = _named_layout(layout)  # encoders refuse a mere count
        self._form: tuple[str, str, int] | None = None  # in which frames come
        self._resampler: av.AudioResampler | None = None  # from that form to the encoder's
        self._framer: av.AudioResampler | None = None  # to the encoder's number of samples
        self._index, self._failures = stream.index, 0  # packets that gave no sound

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            self._failures += 1
            return []  # a damaged packet: the gap stays, the timestamps do not move
        return self._encode(frames)

    def drain(self) -> Iterable[av.Packet[Any]]:
        with contextlib.suppress(av.error.FFmpegError):
            yield from self._encode(self._decoder.decode(None))
        if self._framer is not None:
            for frame in [*self._last_of_form(), *self._framer.resample(None)]:
                yield from self.stream.encode(frame)
        yield from self.stream.encode(None)
        if self._failures:
            logger.warning(
                "%d damaged packets of audio #%d could not be decoded and are gaps in its sound",
                self._failures,
                self._index,
            )

    def _encode(self, frames: list[av.AudioFrame]) -> list[av.Packet[Any]]:
        packets = []
        for frame in frames:
            for fitting in self._resample(frame):
                packets += self.stream.encode(fitting)
        return packets

    def _resample(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        fitting: list[av.AudioFrame] = []
        if self._framer is None:
            self._encoder.open(strict=False)
            self._framer = self._to_encoder(self._encoder.frame_size or None)
        if form != self._form:  # a resampler takes one form only, and a broadcast may change it
            fitting += self._last_of_form()
            self._form, self._resampler = form, self._to_encoder(None)
        assert self._resampler is not None
        return [*fitting, *self._framed(self._resampler.resample(frame))]

    def _last_of_form(self) -> list[av.AudioFrame]:
        return [] if self._resampler is None else self._framed(self._resampler.resample(None))

    def _framed(self, frames: list[av.AudioFrame]) -> list[av.AudioFrame]:
        assert self._framer is not None
        framed, base = [], Fraction(1, self._encoder.sample_rate)
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                # PyAV's resamplers take all frames to count in the first one's ticks.
                frame.pts = rescale(frame.pts, as_fraction(frame.time_base), base)
                frame.time_base = base
            framed += self._framer.resample(frame)
        return framed

    def _to_encoder(self, frame_size: int | None) -> av.AudioResampler:
        return av.AudioResampler(
            format=self._encoder.format,
            layout=self._encoder.layout,
            rate=self._encoder.sample_rate,
            frame_size=frame_size,
        )


def _rate_for(codec: str, rate: int) -> int:
    """Return the sample rate that an encoder takes for a source: its own, or the next higher."""
    known = av.Codec(codec, "w").audio_rates
    if not known or rate in known:
        return rate
    return min((one for one in known if one > rate), default=max(known))


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
            raise MediaError(cannot_hold(target, "-c:s", codec)) from error
        assert isinstance(added, SubtitleStream)
        self.stream = added
        self._encoder = self.stream.codec_context
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = Fraction(1, 1000)
        self.stream.time_base = Fraction(1, 1000)
        self._index, self._failures = stream.index, 0  # packets that gave no text

    def convert(self, packet: av.Packet[Any]) -> Iterable[av.Packet[Any]]:
        try:
            texts = self._decoder.decode2(packet)
        except av.error.FFmpegError:
            self._failures += 1
            return  # such as a line that is no UTF-8; the others are shown when they should be
        if texts is None or packet.pts is None or not packet.time_base:
            return
        base = packet.time_base
        for text in texts:
            if not isinstance(text, AssSubtitle):
                continue
            shown_ms = round((packet.duration or 0) * float(base) * 1000)
            shown_ms = shown_ms if shown_ms < ENDLESS_MS else _SHOWN_MS
            encoded = self._encoder.encode_subtitle(SubtitleSet.create(text.ass, 0, shown_ms))
            encoded.time_base = Fraction(1, 1000)
            encoded.pts = encoded.dts = round(packet.pts * float(base) * 1000)
            encoded.duration = shown_ms
            encoded.stream = self.stream
            yield encoded

    def drain(self) -> Iterable[av.Packet[Any]]:
        if self._failures:
            logger.warning(
                "%d damaged packets of subtitles #%d could not be decoded and are left out",
                self._failures,
                self._index,
            )
        return ()


def _audio_specific_config(stream: av.stream.Stream) -> bytes | None:
    """Return the header of an AAC stream that has none of its own; None for any other stream."""
    if not isinstance(stream, av.AudioStream) or stream.codec_context.name != "aac":
        return None
    context = stream.codec_context
    kind, channels = (
        _PROFILES.get(context.profile or ""),
        _CHANNELS.get(context.layout.nb_channels),
    )
    if context.extradata or kind is None or channels is None or context.sample_rate not in _RATES:
        return None
    bits = kind << 11 | _RATES.index(context.sample_rate) << 7 | channels << 3
    return bits.to_bytes(2, "big")


def _without_adts(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Return a packet without its ADTS header, times kept."""
    data = bytes(packet)
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return packet
    bare: av.Packet[Any] = av.Packet(data[7 if data[1] & 1 else 9 :])
    bare.pts, bare.dts, bare.duration = packet.pts, packet.dts, packet.duration
    bare.time_base, bare.is_keyframe = packet.time_base, True
    return bare


Carrier = Copy | AudioConversion | SubtitleConversion


def make_carrier(
    target: av.container.OutputContainer, stream: av.stream.Stream, codec: str
) -> Carrier:
    """Add the target's stream for one and return what turns source packets into its packets.

    Args:
        codec: to convert to; "" copies.

    Tags and dispositions come along: a stream made from a template has neither.
    """
    if not codec:
        carrier: Carrier = Copy(target, stream)
    elif isinstance(stream, av.AudioStream):
        carrier = AudioConversion(target, stream, codec)
    else:
        assert isinstance(stream, SubtitleStream)
        carrier = SubtitleConversion(target, stream, codec)
    copy_tags(stream, carrier.stream)
    return carrier


def copy_tags(source: av.stream.Stream, target: av.stream.Stream) -> None:
    """Copy metadata and disposition, without the tags that a muxer computes anew."""
    stale = {"encoder", "duration", "bps", "number_of_frames", "number_of_bytes"}
    kept = {k: v for k, v in source.metadata.items() if k.lower() not in stale}
    target.metadata.update(kept)
    target.disposition = source.disposition
