"""Whether the lines of pictures belong to two moments, whatever their flags say: FFmpeg's idet."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import av
import av.error

_FEWEST = 3  # judged pictures without which nothing is said
_CLEARLY = 0.5  # of the judged pictures
_TICK = Fraction(1, 1000)  # of the graph; idet does not look at times, and frames may lack them
_KEY = "lavfi.idet.multiple.current_frame"


class FieldJudge:
    """Look at pictures that follow each other: https://ffmpeg.org/ffmpeg-filters.html#idet"""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[int, int, str] | None = None
        self._verdicts = Counter[str]()

    def see(self, frame: av.VideoFrame) -> None:
        """Take a picture into account; others than the first one's size and format are not."""
        form = (frame.width, frame.height, frame.format.name)
        if self._form is None:
            self._form = form
            self._graph = _graph_for(frame)
        if self._graph is None or form != self._form:
            return
        try:
            self._graph.push(frame)
            while True:
                self._verdicts[self._graph.pull().metadata.get(_KEY, "")] += 1
        except (BlockingIOError, EOFError):
            return
        except av.error.FFmpegError:
            self._graph = None  # a picture it does not take; what was seen counts

    @property
    def is_combed(self) -> bool | None:
        """Whether most judged pictures are; None where too few could be judged, as when all keep
        still."""
        fields = self._verdicts["tff"] + self._verdicts["bff"]
        judged = fields + self._verdicts["progressive"]
        return None if judged < _FEWEST else fields > _CLEARLY * judged


def _graph_for(frame: av.VideoFrame) -> av.filter.Graph | None:
    graph = av.filter.Graph()
    try:
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=_TICK
        )
        idet = graph.add("idet")
        sink = graph.add("buffersink")
        source.link_to(idet)
        idet.link_to(sink)
        graph.configure()
    except (av.error.FFmpegError, ValueError):
        return None
    return graph
