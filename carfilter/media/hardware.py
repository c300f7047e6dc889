"""Decoders and encoders on a GPU: found by trying them, and done without where that fails.

FFmpeg lists NVDEC and NVENC on any machine; whether a card, its driver and a free session are there
shows only when one is opened.
"""

from __future__ import annotations

import contextlib
import logging
from fractions import Fraction
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel, HWDeviceType

from carfilter.errors import DecodingDeviceError, MediaError

logger = logging.getLogger("carfilter")

_MOST_HELD = 300  # packets before the first frame: a stream may begin between two key frames
_TOLD_BY_CONTAINER = ("codec_tag", "color_range", "color_primaries", "color_trc", "colorspace")
_TRIED_SIZE = 256  # NVENC refuses much smaller pictures
_SOFTWARE = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
_HARDWARE = ("nvenc", "qsv", "amf")
_SHARED_OPTIONS = ("b", "maxrate", "minrate", "bufsize", "g", "bf")  # meant alike by all encoders


def decoding_device(name: str | None, number: int | None = None) -> HWAccel | None:
    """Return the device for -hwaccel, or None where decoding is left to software, saying so.

    Args:
        number: of the card where there are several; None is the driver's first.

    Raises:
        MediaError: FFmpeg knows no device of that name.
    """
    if name in (None, "none"):
        return None
    wanted = "cuda" if name == "auto" else str(name)
    if wanted not in HWDeviceType.__members__:
        raise MediaError(f"-hwaccel {name}: there is no such device; give cuda, auto or none")
    device = None if number is None else str(number)
    # Torch's own context on the card takes no memory twice and no turns. FFmpeg refuses it where
    # torch made it first (hwcontext_cuda.c: "already active with incompatible flags").
    shared: dict[str, object] = {"primary_ctx": "1"}
    contexts = (shared, {}) if wanted == "cuda" else ({},)
    refused: Exception = ValueError("no context")
    for options in contexts:
        try:
            # On a codec that every device knows: a pipe can be opened only once.
            HWAccel(wanted, device, options=options).create(av.Codec("h264", "r"))
        except (av.error.FFmpegError, NotImplementedError, ValueError) as error:
            refused = error
            continue
        return HWAccel(wanted, device, allow_software_fallback=True, options=options)
    reason = getattr(refused, "strerror", None) or str(refused)
    logger.warning("-hwaccel %s: cannot be used here (%s); decoding in software", name, reason)
    return None


class HardwareDecoder:
    """Decodes a stream on a device; in software, from its start, where that does not decode it.

    Whether it does, only the first frame shows: FFmpeg falls back without a word. Packets are held
    until then and given to the software decoder, with all its threads, where it has to take over.
    Else it is given them for its first frame: that alone carries what the container says of the
    picture, such as its rotation.

    Args:
        software: of the stream, set up and not opened yet.
        name: of the device, as the user gave it.
    """

    def __init__(self, software: av.VideoCodecContext, device: HWAccel, name: str) -> None:
        self._software, self._name = software, name
        self._hardware = _on_device(software, device)
        # PyAV puts that of the device there, until the decoder has chosen.
        self._format = None if self._hardware is None else self._hardware.pix_fmt
        self._held: list[av.Packet[Any]] = []
        self._is_settled = False
        if self._hardware is None:
            self._give_up("it has no decoder for it")

    @property
    def is_used(self) -> bool:
        """Whether the device decodes, as far as is known by now."""
        return self._hardware is not None

    def decode(self, packet: av.Packet[Any] | None) -> list[av.VideoFrame]:
        """Return the frames that a packet completes, in display order; None ends the stream.

        Raises:
            FFmpegError: damaged data. DecodingDeviceError: the device has stopped decoding.
        """
        if self._hardware is None:
            return self._software.decode(packet)
        if self._is_settled:
            return self._decode_on_device(packet)
        if packet is not None:
            self._held.append(packet)
        try:
            frames = self._hardware.decode(packet)
        except av.error.InvalidDataError:
            if len(self._held) < _MOST_HELD:
                raise
            return self._replay(packet)
        except av.error.FFmpegError as error:
            self._give_up(error.strerror or str(error))
            return self._replay(packet)
        if not frames and packet is not None and len(self._held) < _MOST_HELD:
            return []
        if not frames or self._hardware.pix_fmt != self._format:
            self._give_up("it refuses this video")
            return self._replay(packet)
        self._is_settled = True
        codec = self._hardware.name
        logger.info("-hwaccel %s: the device decodes %s", self._name, codec)
        return [self._as_software_shows(frames[0]), *frames[1:]]

    def _decode_on_device(self, packet: av.Packet[Any] | None) -> list[av.VideoFrame]:
        assert self._hardware is not None
        try:
            return self._hardware.decode(packet)
        except av.error.ExternalError as error:  # what NVDEC and its driver answer comes as that
            raise DecodingDeviceError(
                f"-hwaccel {self._name}: the device has stopped decoding ({error.strerror});"
                " look at it with nvidia-smi, or leave out -hwaccel"
            ) from error

    def _give_up(self, reason: str) -> None:
        self._hardware = None
        logger.warning(
            "-hwaccel %s: does not decode %s (%s); decoding in software",
            self._name,
            self._software.name,
            reason,
        )

    def _replay(self, last: av.Packet[Any] | None) -> list[av.VideoFrame]:
        """Decode in software what was held; its damage counts for nothing where frames come."""
        self._hardware = None
        held: list[av.Packet[Any] | None] = [*self._held, *([None] if last is None else [])]
        self._held = []
        frames: list[av.VideoFrame] = []
        for packet in held:
            with contextlib.suppress(av.error.InvalidDataError):
                frames += self._software.decode(packet)
        return frames

    def _as_software_shows(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the software decoder's frame of the same time, or the given one."""
        held, self._held = [*self._held, None], []
        with contextlib.suppress(av.error.FFmpegError):
            for packet in held:
                for shown in self._software.decode(packet):
                    return shown if shown.pts == frame.pts else frame
        return frame


def _on_device(software: av.VideoCodecContext, device: HWAccel) -> av.VideoCodecContext | None:
    """Return a decoder on a device set up as a software one is; None where there is none."""
    # By the codec's own name: what FFmpeg takes for AV1 in software knows no devices.
    codec = av.Codec(software.codec.canonical_name, "r")
    context = av.CodecContext.create(codec, "r", hwaccel=device)
    assert isinstance(context, av.VideoCodecContext)
    if not context.is_hwaccel:
        return None
    context.extradata = software.extradata
    context.width, context.height = software.width, software.height
    for tag in _TOLD_BY_CONTAINER:
        setattr(context, tag, getattr(software, tag))
    if software.sample_aspect_ratio:
        context.sample_aspect_ratio = software.sample_aspect_ratio
    context.options, context.flags = software.options, software.flags
    # A surface a thread: above 32 of them NVDEC may refuse.
    context.thread_count = 1
    return context


def usable_encoder(
    codec: str, given: tuple[tuple[str, str], ...]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the encoder and its options, or for one on a GPU that does not open its software
    counterpart with the options that both understand, saying so."""
    kind, _, engine = codec.partition("_")
    if engine not in _HARDWARE or kind not in _SOFTWARE or _opens(codec):
        return codec, given
    software = _SOFTWARE[kind]
    kept = tuple((key, value) for key, value in given if key in _SHARED_OPTIONS)
    left_out = ", ".join(f"-{key} {value}" for key, value in given if key not in _SHARED_OPTIONS)
    logger.warning(
        "-c:v %s: cannot be opened here; encoding with %s in software%s",
        codec,
        software,
        f", without {left_out}" if left_out else "",
    )
    return software, kept


def _opens(codec: str) -> bool:
    try:
        context = av.CodecContext.create(codec, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width = context.height = _TRIED_SIZE
        context.pix_fmt = "nv12"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
