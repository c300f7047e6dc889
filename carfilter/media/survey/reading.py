"""Read every packet of a file once: what its streams hold, and a sample of its pictures, decoded.

Nothing is sought, so that it is the same for every container: the decoder gets the packets of some
runs, each from a key frame on, while all of them pass by and are counted and hashed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from carfilter.media.clock import Clock, FrameTimes
from carfilter.media.frames import side_data
from carfilter.media.options import SourceOptions
from carfilter.media.qp.nal import new_extradata
from carfilter.media.source import Decoded, Source, open_source
from carfilter.media.survey.picture_types import reader_of
from carfilter.media.survey.stream import Contents, Stream, described
from carfilter.media.ticks import as_fraction

_PLACES = 12  # runs of the sample, spread evenly over the bytes of the file
_SAMPLED_PIXELS = 200 << 20  # about a hundred pictures of 1080p, a second or less of two cores
_FEWEST, _MOST = 4, 60  # packets of a run
_TIMED = 24  # packets of which decoding is timed
_FAR_SECONDS, _FAR_PICTURES = 10.0, 32  # of a pts from its dts; decoders reorder 16 at most
_INTRA = 1  # AVPictureType
_NAN = float("nan")


@dataclass
class VideoPackets:
    """The packets of the main video in the order of the file; times are corrected seconds."""

    pts: array[float] = field(default_factory=lambda: array("d"))  # nan where there is none
    dts: array[float] = field(default_factory=lambda: array("d"))
    durations: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)  # 1 where a packet is a key frame
    types: list[str] = field(default_factory=list)  # I, P, B, S, or "" where it is not told
    step: float = 0.04  # seconds of a picture, for streams that know no times

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def are_timed(self) -> npt.NDArray[np.bool_]:
        """Whether each has a pts, and none far from its dts, which is damaged: pictures wait for a
        few others only, however far apart these are."""
        pts, dts = np.array(self.pts), np.array(self.dts)
        steps = np.diff(dts[~np.isnan(dts)])
        usual = float(np.median(steps)) if len(steps) else 0.0
        is_far = np.abs(pts - dts) > max(_FAR_SECONDS, _FAR_PICTURES * usual)
        timed: npt.NDArray[np.bool_] = ~np.isnan(pts) & ~is_far
        return timed

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Time of each packet: its pts, or one between those around it; where no packet has any,
        its dts, or nan; of raw streams, which know none, as they follow each other."""
        index, dts = np.arange(len(self), dtype=float), np.array(self.dts)
        timed = self.are_timed
        if not timed.any():
            return index * self.step if np.isnan(dts).all() else dts
        pts = np.array(self.pts)[timed]
        filled: npt.NDArray[np.float64] = np.interp(index, index[timed], pts)
        first, last = index[timed][[0, -1]]
        filled += self.step * (np.minimum(index - first, 0) + np.maximum(index - last, 0))
        return filled

    def note(self, packet: av.Packet[Any], kind: str) -> None:
        """Add a packet whose picture is of that type."""
        base = float(as_fraction(packet.time_base)) if packet.time_base else 0.0
        self.pts.append(_NAN if packet.pts is None else packet.pts * base)
        self.dts.append(_NAN if packet.dts is None else packet.dts * base)
        self.durations.append((packet.duration or 0) * base)
        self.sizes.append(packet.size)
        self.keys.append(packet.is_keyframe)
        self.types.append(kind)

    def join(self, packet: av.Packet[Any]) -> None:
        """Add a packet of the second field of the last picture."""
        base = float(as_fraction(packet.time_base)) if packet.time_base else 0.0
        self.durations[-1] += (packet.duration or 0) * base
        self.sizes[-1] += packet.size


@dataclass(frozen=True)
class Sampled:
    """A decoded picture of the sample."""

    decoded: Decoded
    run: int  # pictures of one run follow each other
    packet: int  # number of the packet that the run begins with
    seconds: float


@dataclass
class Survey:
    """One reading of a file: iterate pictures() to its end, look at the rest, then close()."""

    source: Source
    full: bool
    size: int  # bytes of the file
    streams: tuple[Stream, ...]  # whose packets are counted and hashed at the end
    video: VideoPackets = field(default_factory=VideoPackets)
    corrupt: int = 0  # packets that their container or demuxer marks as damaged
    jumps: int = 0  # of the clock
    first_jump: tuple[float, float] | None = None  # where and by how much, in seconds
    cut_off: str = ""  # how much of the end is missing, if any
    decoded_all: bool = False  # the sample is every picture
    tried: list[av.Packet[Any]] = field(default_factory=list)  # the first packets of the last run

    def pictures(self) -> Iterator[Sampled]:
        """Read the file to its end and yield the pictures of the sample.

        Raises:
            MediaError: more errors follow each other than a damaged file has.
        """
        source, every = self.source, list(self.source.container.streams)
        types, clock = reader_of(source.video), Clock(source.container, source.video)
        contents = [Contents() for _ in self.streams]
        runs, length = _Runs(source), self._run_length()
        self.video.step = runs.step
        self.decoded_all = not length
        seen = place = 0
        for packet in source.packets(every):
            if packet.stream_index >= len(every):
                continue  # a stream that came up on the way, which the filter leaves out as well
            clock.correct(packet)
            if packet.size:
                contents[packet.stream_index].count(packet)
                self.corrupt += packet.is_corrupt
            if packet.stream_index != source.video.index or not packet.size:
                continue
            if (extradata := new_extradata(packet)) is not None:
                types = reader_of(source.video, extradata)
            kind = types.read(packet)
            is_second = types.is_second_field
            if is_second:
                self.video.join(packet)
            else:
                if packet.is_keyframe and length and seen * _PLACES >= place * self.size:
                    yield from runs.end()
                    runs.begin(len(self.video), length)
                    place = seen * _PLACES // self.size + 1
                elif not length and not len(self.video):
                    runs.begin(0, None)
                self.video.note(packet, kind)
            yield from runs.give(packet, goes_on=is_second)
            seen = sum(content.bytes for content in contents)
        yield from runs.end()
        self.jumps, self.first_jump = clock.jumps, clock.first_jump
        self.cut_off = clock.cut_off(source.container)
        self.tried = runs.packets
        whole = zip(contents, self.streams, strict=True)
        self.streams = tuple(content.of(stream) for content, stream in whole)

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def _run_length(self) -> int:
        """Return the packets of a run, or 0 where all pictures are decoded."""
        source, context = self.source, self.source.video.codec_context
        frames = source.video.frames or round((source.seconds or 0) * float(source.rate or 25))
        affordable = _SAMPLED_PIXELS // (context.width * context.height)
        if self.full or 0 < frames <= affordable:
            return 0
        return min(max(affordable // _PLACES, _FEWEST), _MOST)


class _Runs:
    """The decoder of a source, given packets in runs that each begin with a key frame."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._base = float(source.time_base)
        step = 1 / ((source.rate or Fraction(25)) * source.time_base)
        self._times = FrameTimes(source.time_base, max(round(step), 1))
        self.step = float(1 / (source.rate or Fraction(25)))  # seconds of a picture
        self._number = 0  # of the next picture, where pictures know no times
        self._left: int | None = 0  # pictures
        self._is_open = False
        self._run, self._packet, self._first = -1, 0, False
        self.packets: list[av.Packet[Any]] = []  # the first ones of the run
        self._from: int | None = None  # pts of the packet that the run began with
        self._recovers = False  # it is no key frame, but from it on the picture is built up anew

    def begin(self, packet: int, length: int | None) -> None:
        """Take the packets of the next `length` pictures, or all; the first has that number."""
        self._left, self._packet, self._run, self._first = length, packet, self._run + 1, True
        self.packets, self._number = [], packet
        self._is_open, self._recovers = True, False
        self._source.qp_anew()

    def give(self, packet: av.Packet[Any], *, goes_on: bool = False) -> Iterator[Sampled]:
        """Decode a packet, if it belongs to a run.

        Args:
            goes_on: with the picture of the one before.
        """
        if not goes_on and self._left == 0:
            yield from self.end()
        if not self._is_open:
            return
        if self._left is not None:
            self._left -= not goes_on
        if not self.packets:
            self._from = packet.pts
        if len(self.packets) < _TIMED:
            self.packets.append(packet)
        yield from self._decode(packet)

    def end(self) -> Iterator[Sampled]:
        """Give what the decoder still holds of the run."""
        if self._is_open:
            yield from self._drain()
        self._left, self._is_open = 0, False

    def _drain(self) -> Iterator[Sampled]:
        yield from self._decode(None)
        self._source.video.codec_context.flush_buffers()

    def _decode(self, packet: av.Packet[Any] | None) -> Iterator[Sampled]:
        report = self._source.report
        damaged = report.damaged
        for decoded in self._source.decode(packet):
            pts = self._times.best_effort(decoded.frame)
            if self._lacks_pictures(decoded, pts):
                report.damaged = damaged
                continue
            damaged = report.damaged
            seconds = self._number * self.step if pts is None else pts * self._base
            self._number += 1
            yield Sampled(decoded, self._run, self._packet, seconds)

    def _lacks_pictures(self, decoded: Decoded, pts: int | None) -> bool:
        """Say whether what a picture lacks are those before the run, which the file has.

        Where none is whole from its beginning on, as with periodic intra refresh, a run begins with
        one from which on the picture is built up anew.
        """
        if not self._packet:
            return False
        if self._from is not None and pts is not None and pts < self._from:
            return True
        if self._first:
            self._first, self._recovers = False, decoded.frame_type != _INTRA
        self._recovers = self._recovers and decoded.is_damaged
        return self._recovers


def open_survey(path: Path, options: SourceOptions | None = None, *, full: bool = False) -> Survey:
    """Open a file for one reading.

    Args:
        full: decode every picture, and not a sample.

    Raises:
        MediaError: the filter would refuse it, for the same reason.
    """
    source = open_source(path, options or SourceOptions(qp_maps=True))
    main = source.video.index
    streams = tuple(described(s, is_main=s.index == main) for s in source.container.streams)
    return Survey(source, full, path.stat().st_size, streams)


@dataclass(frozen=True)
class Around:
    """A run of packets to decode: from a key frame to the last one wanted."""

    first: int
    last: int


def read_runs(path: Path, runs: Sequence[Around], *, vectors: bool = False) -> Iterator[Sampled]:
    """Decode some runs of packets of the main video, numbered as in VideoPackets.

    Args:
        runs: in order, none touching another; each begins with a key frame.
        vectors: let the decoder export motion vectors as well, see motion_of().

    Raises:
        MediaError: the file cannot be opened any more.
    """
    source = open_source(path, SourceOptions(qp_maps=True))
    context = source.video.codec_context
    if vectors and source.is_h264:
        context.options = {**context.options, "export_side_data": "venc_params+mvs"}
    clock, decoder = Clock(source.container, source.video), _Runs(source)
    types, wanted, number = reader_of(source.video), [*runs], -1
    try:
        for packet in source.packets(list(source.container.streams)):
            if packet.stream_index >= len(source.container.streams):
                continue
            clock.correct(packet)
            if packet.stream_index != source.video.index or not packet.size:
                continue
            if (extradata := new_extradata(packet)) is not None:
                types = reader_of(source.video, extradata)
            types.read(packet)
            is_second = types.is_second_field
            if not is_second:
                number += 1
                if number > runs[-1].last:
                    break
                if wanted and number == wanted[0].first:
                    yield from decoder.end()
                    run = wanted.pop(0)
                    decoder.begin(number, run.last - run.first + 1)
            yield from decoder.give(packet, goes_on=is_second)
        yield from decoder.end()
    finally:
        source.close()


Vectors = npt.NDArray[Any]
"""FFmpeg's: source (-1, +1), w, h, dst_x, dst_y, motion_x, motion_y, motion_scale of each block."""


def motion_of(frame: av.VideoFrame) -> Vectors | None:
    """Return a copy of the motion vectors of a picture; None where the decoder exports none.

    Of intra blocks there are none. Call it before the frame is made writable.
    """
    data = side_data(frame, "MOTION_VECTORS")
    return None if data is None else data.to_ndarray().copy()
