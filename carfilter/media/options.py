"""What a user may say of a source and of a target; names and values are FFmpeg's."""

import math
from dataclasses import dataclass

from carfilter.errors import ImpossibleValueError

MAX_PIXELS = 8192 * 4352  # of a picture


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source; times are seconds from the start of the source."""

    format: str | None = None
    options: tuple[tuple[str, str], ...] = ()  # of the demuxer or protocol
    start_seconds: float | None = None
    end_seconds: float | None = None
    maps: tuple[str, ...] = ()  # FFmpeg's -map specifiers; none takes every stream
    audio: bool = True
    subtitles: bool = True
    data: bool = True
    copyts: bool = False  # keep the times of a source that starts far from zero, or at -ss
    threads: int = 0  # of the decoder; 0 takes the cores
    stop_on_error: bool = False
    pix_fmt: str | None = None  # to convert to what has no luma plane of its own
    max_pixels: int = MAX_PIXELS  # larger pictures are refused
    hwaccel: str | None = None  # device to decode on; it exports no QP
    hwaccel_device: int | None = None  # its number; None is the first
    live: bool = False  # give frames as soon as they are there, and notice sooner that none come
    qp_maps: bool = False  # let the decoder export them; some then decode without frame threads
    measures_qp: bool = True  # of other codecs than H.264, as told or else measured

    def __post_init__(self) -> None:
        """Check the times.

        Raises:
            ImpossibleValueError: one is not finite, or they leave nothing; None is no limit.
        """
        for name, seconds in (("start", self.start_seconds), ("end", self.end_seconds)):
            if seconds is not None and not math.isfinite(seconds):
                raise ImpossibleValueError(f"{name}_seconds has to be finite, not {seconds}")
        begin = max(self.start_seconds or 0.0, 0.0)
        if self.end_seconds is not None and self.end_seconds <= begin:
            raise ImpossibleValueError(
                "-to (end_seconds) has to lie behind -ss (start_seconds) and behind zero"
            )

    @property
    def dropped_types(self) -> set[str]:
        """The stream types that -an, -sn and -dn leave out."""
        kept = {"audio": self.audio, "subtitle": self.subtitles, "data": self.data}
        return {kind for kind, is_kept in kept.items() if not is_kept}


@dataclass(frozen=True)
class TargetOptions:
    """How to write a target."""

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
    upright: bool = False  # turn the pixels, even where the format can tell players to
    verbose_encoder: bool = False
    live: bool = False  # encode without delay, and write each packet at once
