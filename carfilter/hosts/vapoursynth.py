"""A function for VapourSynth: a clip in, the same clip restored out, by the whole filter.

VapourSynth asks for frames in any order, and several at a time; the filter goes along a video. So
one who asks for the next frame gets what the filter gives, and one who jumps lets it begin there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import vapoursynth

from carfilter.errors import ImpossibleValueError, MediaError
from carfilter.media.frames import VideoFrame
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, open_source
from carfilter.pictures import MACROBLOCK, Luma, Picture, QpMap, uniform_qp
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model, load_weights

_TYPES = {"I": 1, "P": 2, "B": 3}
_NEAR = 32  # frames ahead that are restored on the way to one that is asked for
_KEPT = 64  # results that are kept for those who ask for frames not quite in order


def restore(
    clip: vapoursynth.VideoNode,
    weights: str | Path | Model | None = None,
    *,
    source: str | Path | None = None,
    qp: int | str | None = None,
    options: RestoreOptions | None = None,
) -> vapoursynth.VideoNode:
    """Return a clip with its luma restored; chroma and properties stay.

    Asked for frame by frame from the first one on, it gives the very luma that the filter gives.
    After a jump the filter begins anew at the frame that was asked for. Types of frames are taken
    from the property _PictType, fields from _FieldBased.

    Args:
        clip: YUV or gray, of 8 to 16 bits, of one format and size.
        weights: a path, a shipped model's name, a loaded model, or None for the default.
        source: the file that the clip shows, frame by frame: it is decoded once more, for the QP
            of its frames as the filter reads or measures it, their types and fields.
        qp: else 0..51 for all frames, or the name of the property of each frame that holds its QP:
            one number, or one to a macroblock in raster order. Without any, it is unknown, as that
            of raw video is.
        options: of the network.

    Raises:
        WeightsError, DeviceError: as with the filter.
        ImpossibleValueError: a `qp` beyond 0..51, or that is neither a whole number nor a name.
        MediaError: the clip's format is another, or VapourSynth has one thread only; or for a frame
            that is asked for, `source` has none, or one of another size, or a property no QP.
    """
    _check(clip)
    options, qp = options or RestoreOptions(), _whole(qp)
    if isinstance(qp, int):
        options = replace(options, qp=qp)
    model = weights if isinstance(weights, Model) else load_weights(weights)
    feed = _Feed(clip, None if source is None else Path(source), qp, model.uses_qp)
    size = clip.height, clip.width
    order = _Order(feed, Restorer(model, options, size, codec=feed.codec()))

    def restored(n: int, f: vapoursynth.VideoFrame) -> vapoursynth.VideoFrame:
        frame = f.copy()
        np.copyto(np.asarray(frame[0]), order.luma(n))
        return frame

    return clip.std.ModifyFrame(clip, restored)


def _check(clip: vapoursynth.VideoNode) -> None:
    given = clip.format
    families = vapoursynth.YUV, vapoursynth.GRAY
    if given is None or not clip.width or given.color_family not in families:
        raise MediaError("the clip is not YUV or gray of one size; convert it with resize first")
    if given.sample_type != vapoursynth.INTEGER or given.bits_per_sample > 16:
        raise MediaError(f"the clip is {given.name}; convert it to 8 to 16 bits a sample first")
    if vapoursynth.core.num_threads < 2:  # one waits for the filter, which waits for its frames
        raise MediaError("VapourSynth has one thread; set core.num_threads = 2 first")


def _whole(qp: Any) -> int | str | None:
    """Return a number of any type as Python's own; what is not whole could only be ignored."""
    if qp is None or isinstance(qp, str):
        return qp
    is_number = isinstance(qp, int | float | np.integer | np.floating) and not isinstance(qp, bool)
    if not is_number or not float(qp).is_integer():
        raise ImpossibleValueError(
            f"qp has to be a whole number in 0..51, or the name of a property, not {qp!r}"
        )
    return int(qp)


class _Feed:
    """The pictures of a clip, from any of its frames on."""

    def __init__(
        self, clip: vapoursynth.VideoNode, source: Path | None, qp: int | str | None, uses_qp: bool
    ) -> None:
        self._clip, self._source = clip, source
        self._property = qp if isinstance(qp, str) else None
        self._reading = SourceOptions(
            audio=False, subtitles=False, data=False,
            qp_maps=True, measures_qp=uses_qp and qp is None,
        )  # fmt: skip

    def codec(self) -> str:
        """Return FFmpeg's name of what the file was coded with; "" without one."""
        if self._source is None:
            return ""
        with closing(open_source(self._source, self._reading)) as source:
            return str(source.video.codec_context.codec.canonical_name)

    def pictures(self, start: int) -> Iterator[Picture]:
        """Yield what the filter is given of each frame."""
        if self._source is None:
            for n in range(start, self._clip.num_frames):
                with self._clip.get_frame(n) as frame:
                    yield self._picture(frame)
            return
        with closing(self._decoded(self._source)) as all_decoded:
            decoded = islice(all_decoded, start, None)
            for n in range(start, self._clip.num_frames):
                known = next(decoded, None)
                if known is None:
                    raise MediaError(
                        f"{self._source}: ends before the clip; give the file that it shows"
                    )
                with self._clip.get_frame(n) as frame:
                    self._check_size(known.frame, frame)
                    yield replace(
                        self._picture(frame),
                        qp=known.qp,
                        frame_type=known.frame_type,
                        interlaced=known.frame.interlaced_frame,
                    )

    def _check_size(self, known: VideoFrame, frame: vapoursynth.VideoFrame) -> None:
        if (known.width, known.height) != (frame.width, frame.height):
            raise MediaError(
                f"{self._source}: its pictures are {known.width}x{known.height} and the clip's"
                f" {frame.width}x{frame.height}; give the file that it shows, or restore it before"
                " it is resized"
            )

    def _decoded(self, path: Path) -> Generator[Decoded]:
        with closing(open_source(path, self._reading)) as source:
            for event in source.events():
                if isinstance(event, Decoded):
                    yield event

    def _picture(self, frame: vapoursynth.VideoFrame) -> Picture:
        luma = np.array(frame[0])
        told = frame.props.get("_PictType", "")
        return Picture(
            luma,
            frame.format.bits_per_sample,
            self._qp(frame, luma),
            frame_type=_TYPES.get(told if isinstance(told, str) else told.decode(), 0),
            interlaced=frame.props.get("_FieldBased", 0) > 0,
        )

    def _qp(self, frame: vapoursynth.VideoFrame, luma: Luma) -> QpMap | None:
        given = None if self._property is None else frame.props.get(self._property)
        if given is None:
            return None
        try:
            told = np.atleast_1d(np.asarray(given, float))
        except (TypeError, ValueError):  # of text, or another clip
            told = np.array([np.nan])
        if not np.isfinite(told).all():
            raise MediaError(
                f"property {self._property} holds {given!r:.40}, which is no QP; give a number"
            )
        values: QpMap = np.rint(told).clip(0, 51).astype(np.int16)
        if values.size == 1:
            return uniform_qp(luma.shape, int(values[0]))
        rows, columns = (-(-side // MACROBLOCK) for side in luma.shape)
        if values.size != rows * columns:
            raise MediaError(
                f"property {self._property} holds {values.size} numbers; give one, or one to each"
                f" of the {columns}x{rows} macroblocks"
            )
        return values.reshape(rows, columns)


class _Order:
    """Results of a filter that goes along a video, for those who ask for frames by number."""

    def __init__(self, feed: _Feed, restorer: Restorer) -> None:
        self._feed, self._restorer = feed, restorer
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Luma] = OrderedDict()
        self._error: Exception | None = None  # by which the present run ended
        self._begin(0)

    def luma(self, n: int) -> Luma:
        """Return the restored luma of a frame."""
        with self._lock:
            if n not in self._kept and not self._next <= n < self._next + _NEAR:
                self._running.close()
                self._begin(0 if n < _NEAR else n)
            if self._error is not None and n not in self._kept:
                raise self._error  # what ended is asked in vain
            while n not in self._kept:
                try:
                    self._kept[self._next] = next(self._running)
                except Exception as error:
                    self._error = error
                    raise
                self._next += 1
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return self._kept[n]

    def _begin(self, n: int) -> None:
        self._kept.clear()
        self._error = None
        self._running: Any = self._restorer.restore(self._feed.pictures(n))
        self._next = n  # number of the frame that `running` gives next
