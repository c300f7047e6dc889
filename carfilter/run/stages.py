"""The stages between source and target, each in a thread of its own: decode and network."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from carfilter.errors import DeviceError
from carfilter.media.conform import compared
from carfilter.media.frames import bit_depth, copy_luma, replace_luma
from carfilter.media.source import Decoded, Event, Source
from carfilter.pictures import Picture
from carfilter.prefetch import Prefetch
from carfilter.restore.restorer import Restorer
from carfilter.run.account import Run
from carfilter.run.live import Pace, keep_up
from carfilter.run.options import FilterOptions

logger = logging.getLogger("carfilter")

_QUEUE_EVENTS = 32  # frames and packets between two stages
_QUEUE_BYTES = 128 << 20
_LIVE_FACTOR = 8  # longer queues there: what finds no room is lost


class Stages:
    """The threads between source and target; entering starts them, leaving ends them."""

    def __init__(
        self,
        source: Source,
        restorer: Restorer | None,
        options: FilterOptions,
        stop: threading.Event,
        run: Run,
    ) -> None:
        self.source, self.restorer, self.run, self.stop = source, restorer, run, stop
        self.keep_decoded, self.live = options.compare, options.live
        self._stages: dict[str, Prefetch[Event]] = {}
        self._pace: Pace | None = None

    def __enter__(self) -> Iterable[Event]:
        factor = _LIVE_FACTOR if self.live else 1
        count, size = _QUEUE_EVENTS * factor, _QUEUE_BYTES * factor
        decode = Prefetch(self._decoded(), count, size, _event_bytes, stop=self.stop)
        self._stages["decode"] = decode
        if self.restorer is None and not self.keep_decoded:
            return decode
        if self.live:
            self._pace = Pace(decode.is_nearly_full)
            restored = keep_up(decode, self._restored, self._unrestored, self._pace)
        else:
            restored = self._restored(decode)
        network = Prefetch(
            restored, _QUEUE_EVENTS, _QUEUE_BYTES, _event_bytes, decode, self.stop, self._compiles
        )
        self._stages["network"] = network
        return network

    def __exit__(self, *exc: object) -> None:
        ended = [stage.close() for stage in reversed(self._stages.values())]
        if all(ended):  # closing under a thread that still reads would crash the process
            self.source.close()

    @property
    def passed(self) -> int:
        """Frames that went unrestored."""
        return 0 if self._pace is None else self._pace.passed

    def _compiles(self) -> bool:
        return self.restorer is not None and self.restorer.is_compiling

    def _restored(self, events: Iterable[Event]) -> Iterator[Event]:
        waiting: deque[Event] = deque()
        try:
            yield from _restored(events, self.restorer, waiting, keep_decoded=self.keep_decoded)
        except DeviceError as error:
            if self._pace is None:
                raise
            # A recorder goes on without its GPU. What waited for it passes as it came.
            logger.warning("%s; the rest passes unrestored", error)
            self._pace.give_up(sum(isinstance(event, Decoded) for event in waiting))
            yield from self._unrestored(waiting)

    def _unrestored(self, events: Iterable[Event]) -> Iterable[Event]:
        if not self.keep_decoded:
            return events
        return _restored(events, None, deque(), keep_decoded=True)

    def busy_seconds(self) -> dict[str, float]:
        return {name: stage.busy_seconds for name, stage in self._stages.items()}

    def _decoded(self) -> Iterator[Event]:
        for event in self.source.events():
            if self.stop.is_set():
                return
            if isinstance(event, Decoded) and event.qp is not None:
                self.run.qp_sum += float(event.qp.mean())
                self.run.qp_frames += 1
            yield event


def _event_bytes(event: Event) -> int:
    if isinstance(event, Decoded):
        # 4:2:0 is 1.5, 4:4:4 is 3 samples a pixel; half way is near enough for a bound.
        return event.frame.width * event.frame.height * (bit_depth(event.frame.format) + 7) // 4
    return event.size


def _restored(
    events: Iterable[Event],
    restorer: Restorer | None,
    waiting: deque[Event],
    *,
    keep_decoded: bool,
) -> Iterator[Event]:
    """Yield the events with the luma of their frames exchanged, packets in their old places.

    Args:
        waiting: holds what was taken and has not come out yet.
    """
    decoded_luma: deque[Any] = deque()

    def pictures() -> Iterator[Picture]:
        for event in events:
            waiting.append(event)
            if isinstance(event, Decoded):
                picture = _picture(event)
                if keep_decoded:
                    decoded_luma.append(picture.luma)
                yield picture

    lumas = (
        (picture.luma for picture in pictures())
        if restorer is None
        else restorer.restore(pictures())
    )
    for luma in lumas:
        while not isinstance(event := waiting.popleft(), Decoded):
            yield event
        replace_luma(event.frame, luma)
        if keep_decoded:
            pair = compared(event.frame, decoded_luma.popleft())
            yield Decoded(pair, event.qp, event.frame_type)
        else:
            yield event
        del event
    yield from waiting


def _picture(event: Decoded) -> Picture:
    frame = event.frame
    return Picture(
        luma=copy_luma(frame),
        depth=bit_depth(frame.format),
        qp=event.qp,
        frame_type=event.frame_type,
        interlaced=frame.interlaced_frame,
    )
