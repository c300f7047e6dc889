"""Decoders and encoders on a GPU: found by trying them, and done without where that fails.

FFmpeg lists NVDEC and NVENC on any machine; whether a card, its driver and a free session are there
shows only when one is opened.
"""

from __future__ import annotations

import logging
from fractions import Fraction

import av
import av.error
from av.codec.hwaccel import HWAccel, HWDeviceType

from carfilter.errors import MediaError

logger = logging.getLogger("carfilter")

_TRIED_SIZE = 256  # NVENC refuses much smaller pictures
_SOFTWARE = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
_HARDWARE = ("nvenc", "qsv", "amf")
_SHARED_OPTIONS = ("b", "maxrate", "minrate", "bufsize", "g", "bf")  # meant alike by all encoders


def decoding_device(name: str | None) -> HWAccel | None:
    """Return the device for -hwaccel, or None where decoding is left to software, saying so.

    Raises:
        MediaError: FFmpeg knows no device of that name.
    """
    if name in (None, "none"):
        return None
    wanted = "cuda" if name == "auto" else str(name)
    if wanted not in HWDeviceType.__members__:
        raise MediaError(f"-hwaccel {name}: there is no such device; give cuda, auto or none")
    try:
        device = HWAccel(wanted, allow_software_fallback=True)
        # On a codec that every device knows: a pipe can be opened only once.
        device.create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        logger.warning("-hwaccel %s: cannot be used here (%s); decoding in software", name, reason)
        return None
    return HWAccel(wanted, allow_software_fallback=True)


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
