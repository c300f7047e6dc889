"""What a raw format cannot hold of the picture: said once, at the first frame it matters for."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import TYPE_CHECKING

from carfilter.media.ticks import frame_seconds

if TYPE_CHECKING:
    import av

logger = logging.getLogger("carfilter")

_WITHOUT_TIMES = {"yuv4mpegpipe", "rawvideo", "h264", "hevc", "m4v", "mpeg2video", "mjpeg"}
# Containers that describe colours themselves; elsewhere the stream has to.
_WITH_COLOURS = {"matroska", "webm", "mp4", "mov", "ipod", "mxf"}
_WITHOUT_COLOURS = {"rawvideo", "ffv1", "mpeg4", "utvideo", "ffvhuff", "huffyuv", "mjpeg", "png"}
_UNSPECIFIED, _FULL_RANGE = 2, 2  # FFmpeg's numbers


class Losses:
    """Watch the frames of one target; warn of colour tags and of times that it cannot hold."""

    def __init__(self, format_name: str, codec: str, rate: Fraction | None) -> None:
        self._format, self._codec = format_name, codec
        self._step = 1 / (rate or Fraction(25))
        self._has_times = format_name not in _WITHOUT_TIMES
        self._start: Fraction | None = None
        self._frames = 0

    def note(self, frame: av.VideoFrame) -> None:
        """Look at the next frame on its way to the encoder."""
        if self._frames == 0:
            self._check_colours(frame)
        if not self._has_times and (at := frame_seconds(frame)) is not None:
            self._check_time(at)
        self._frames += 1

    def _check_colours(self, frame: av.VideoFrame) -> None:
        if self._codec not in _WITHOUT_COLOURS or _WITH_COLOURS & set(self._format.split(",")):
            return
        matrix, primaries, transfer = frame.colorspace, frame.color_primaries, frame.color_trc
        tags = [
            name
            for name, value in (("matrix", matrix), ("primaries", primaries), ("trc", transfer))
            if value != _UNSPECIFIED
        ]
        if self._format != "yuv4mpegpipe" and frame.color_range == _FULL_RANGE:
            tags.append("full range")  # the limited one is what a reader takes for granted
        if tags:
            logger.warning(
                "the %s format with %s cannot hold the picture's colour tags (%s);"
                " use -f matroska, or tell them to the reader",
                self._format,
                self._codec,
                ", ".join(tags),
            )

    def _check_time(self, at: Fraction) -> None:
        if self._start is None:
            self._start = at
        if abs(at - self._start - self._frames * self._step) > self._step / 2:
            self._has_times = True  # once is enough
            logger.warning(
                "the %s format holds no timestamps: from frame %d on the times differ from the"
                " source's, whose rate is not a constant %.6g; use -f nut or -f matroska",
                self._format,
                self._frames,
                float(1 / self._step),
            )
