"""What is known of a file after a look at it: plain values, for people, pages and programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from carfilter.media.survey.stream import Stream


@dataclass(frozen=True)
class Times:
    """When the pictures of the main video come."""

    seconds: float  # by the clock, from the first picture to the end of the last
    seconds_by_frames: float | None  # pictures divided by the rate of the container
    rate: float | None  # pictures a second by the clock
    is_variable: bool  # the intervals differ by more than rounding
    shortest: float  # interval in seconds; 0 where there is none
    longest: float
    gaps: tuple[tuple[float, float], ...]  # (seconds, length) of holes, at most 1000
    jumps: int  # of the clock, which the filter closes
    first_jump: tuple[float, float] | None  # (seconds, by)
    cut_off: str  # how much of the end that the header names is missing, if any
    missing: int  # packets without a time


@dataclass(frozen=True)
class Coding:
    """How the pictures of the main video are coded."""

    pictures: int
    types: Mapping[str, int]  # I, P, B, S; "" is not known without decoding
    key_frames: int
    key_seconds: tuple[float, float, float] | None  # least, mean, most between two of them
    key_pictures: tuple[int, float, int] | None
    bit_rate: float  # bits a second, of the video
    rates: tuple[float, ...]  # bits a second over time, at most RATE_STEPS equal steps
    type_bytes: Mapping[str, float]  # mean bytes of a picture of each type


@dataclass(frozen=True)
class Qp:
    """How coarsely the pictures were coded, 0..51 at any depth."""

    source: str  # "read" of H.264, "converted" of another scale, or "measured" at key frames
    mean: float
    spread: float  # standard deviation over macroblocks; over pictures where each has one
    by_type: Mapping[str, float]
    over_time: tuple[tuple[float, float], ...]  # (seconds, mean QP) of the sampled pictures


@dataclass(frozen=True)
class Looks:
    """What the decoded pictures show."""

    pictures: int  # looked at
    of_all: bool  # they are all of the file
    unchanged: float | None  # share of macroblocks equal to those of the picture before
    is_fixed: bool | None  # the camera does not move, as the filter judges it; None is not known
    is_flagged_interlaced: bool
    is_combed: bool | None  # the lines of a picture belong to two moments; None is not known
    damaged: int  # pictures with concealed errors, and packets that gave none
    change_over_time: tuple[tuple[float, float], ...]  # (seconds, share of changed macroblocks)
    coarser_than_coded: bool | None  # signs of an earlier encode; None is not known


@dataclass(frozen=True)
class Colour:
    """The tags of the main video, "" where there is none."""

    range: str
    matrix: str
    transfer: str
    primaries: str
    range_shown: str  # "limited", "beyond limited", or "": what the samples use


@dataclass(frozen=True)
class Filter:
    """What carfilter would take, and how fast it is here."""

    model: str
    sha256: str
    engine: str  # device, precision, batch
    change: float  # of luma by the filter, root of the mean square, grey levels at 8 bits
    network_seconds: float  # of a picture
    decode_seconds: float
    encode_seconds: float
    seconds: float  # for the whole file, with the default encoder
    pictures: int  # measured


@dataclass(frozen=True)
class Finding:
    """One sentence on something that will matter."""

    kind: str  # "good", "note", "warning"
    text: str


@dataclass(frozen=True)
class Inspection:
    """What inspect() found; as_dict() gives it to programs."""

    path: Path
    size: int
    sha256: str
    container: str  # FFmpeg's name, such as mov,mp4,m4a,3gp,3g2,mj2
    container_name: str  # the same for people
    container_seconds: float | None  # as it declares
    bit_rate: float | None  # of the whole file
    tags: Mapping[str, str]
    streams: tuple[Stream, ...]
    times: Times
    coding: Coding
    qp: Qp | None
    looks: Looks
    colour: Colour
    filter: Filter | None  # None where no network was asked for
    findings: tuple[Finding, ...] = field(default=())

    @property
    def video(self) -> Stream:
        """The main video."""
        return next(stream for stream in self.streams if stream.is_main)

    @property
    def gain(self) -> float:
        """How much the filter would do, for sorting alone: what it changed, else the QP."""
        if self.filter is not None:
            return self.filter.change
        return 0.0 if self.qp is None else self.qp.mean / 100

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it: fractions as "30000/1001", no infinite numbers."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
