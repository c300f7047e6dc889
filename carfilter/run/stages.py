"""The stages between source and target, each in a thread of its own: decode and network."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from carfilter.errors import DecodingDeviceError, DeviceError
from carfilter.media.conform import compared
from carfilter.media.frames import Envelope, bit_depth, bits_per_pixel, copy_luma
from carfilter.media.source import Decoded, Event, Source
from carfilter.pictures import Luma, Picture, QpMap
from carfilter.prefetch import Prefetch
from carfilter.restore.restorer import Restorer
from carfilter.run.account import Run
from carfilter.run.live import Pace, keep_up
from carfilter.run.options import FilterOptions

logger = logging.getLogger("carfilter")

_QUEUE_EVENTS = 32  # frames and packets between two stages
_QUEUE_BYTES = 12 << 20  # four frames of 1080p
_LIVE_EVENTS, _LIVE_BYTES = 256, 512 << 20  # longer ones there: what finds no room is lost


@dataclass(frozen=True, slots=True)
class _Parted:
    """A decoded frame whose luma is being restored."""

    rest: Envelope
    qp: QpMap | None
    frame_type: int
    luma: Luma | None  # as decoded, where it is needed again

    def whole(self, luma: Luma) -> Decoded:
        """Return the frame with another luma."""
        return Decoded(self.rest.with_luma(luma), self.qp, self.frame_type)


_Waiting: TypeAlias = "_Parted | Event"


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
        count, size = (_LIVE_EVENTS, _LIVE_BYTES) if self.live else (_QUEUE_EVENTS, _QUEUE_BYTES)
        decode = Prefetch(self._decoded(), count, size, _event_bytes, stop=self.stop)
        self._stages["decode"] = decode
        if self.restorer is None and not self.keep_decoded:
            return decode
        if self.live:
            # The server of a playlist keeps what is not read yet; no other source does.
            keeps = "hls" in self.source.container.format.name
            self._pace = Pace(lambda: not keeps and decode.is_nearly_full())
            restored = keep_up(decode, self._restored, self._unrestored, self._pace)
        else:
            restored = self._restored(decode)
        restorer = self.restorer  # not self: a decoder in a cycle would outlive the run

        def compiles() -> bool:
            return restorer is not None and restorer.is_compiling

        network = Prefetch(
            restored, _QUEUE_EVENTS, _QUEUE_BYTES, _event_bytes, decode, self.stop, compiles
        )
        self._stages["network"] = network
        return network

    def __exit__(self, *exc: object) -> None:
        self.source.is_left = True
        ended = [stage.close() for stage in reversed(self._stages.values())]
        if all(ended):  # closing under a thread that still reads would crash the process
            self.source.close()

    @property
    def passed(self) -> int:
        """Frames that went unrestored."""
        return 0 if self._pace is None else self._pace.passed

    def _restored(self, events: Iterable[Event]) -> Iterator[Event]:
        waiting: deque[_Waiting] = deque()
        try:
            yield from _restored(
                events, self.restorer, waiting, pairs=self.keep_decoded, keeps=self.live
            )
        except DeviceError as error:
            if self._pace is None or isinstance(error, DecodingDeviceError):
                raise
            # A recorder goes on without its GPU. What waited for it passes as it came.
            logger.warning("%s; the rest passes unrestored", error)
            self._pace.give_up(sum(isinstance(event, _Parted) for event in waiting))
            yield from self._unrestored(_as_they_came(waiting))

    def _unrestored(self, events: Iterable[Event]) -> Iterable[Event]:
        return _restored(events, None, deque(), pairs=True) if self.keep_decoded else events

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
        frame = event.frame
        return frame.width * frame.height * bits_per_pixel(frame.format) // 8
    return event.size


def _restored(
    events: Iterable[Event],
    restorer: Restorer | None,
    waiting: deque[_Waiting],
    *,
    pairs: bool,
    keeps: bool = False,
) -> Iterator[Event]:
    """Yield the events with the luma of their frames exchanged, packets in their old places.

    Args:
        waiting: holds what was taken and has not come out yet.
        pairs: the decoded picture goes beside the restored one.
        keeps: the decoded luma with what waits.
    """

    def pictures() -> Iterator[Picture]:
        for event in events:
            if isinstance(event, Decoded):
                picture = _picture(event)
                kept = picture.luma if pairs or keeps else None
                rest = Envelope(event.frame)
                waiting.append(_Parted(rest, event.qp, event.frame_type, kept))
                del event, rest  # the decoder gets its buffers back
                yield picture
            else:
                waiting.append(event)

    lumas = (
        (picture.luma for picture in pictures())
        if restorer is None
        else restorer.restore(pictures())
    )
    for luma in lumas:
        while not isinstance(event := waiting.popleft(), _Parted):
            yield event
        restored = event.whole(luma)
        if pairs and event.luma is not None:
            pair = compared(restored.frame, event.luma)
            yield Decoded(pair, event.qp, event.frame_type)
        else:
            yield restored
        del event, restored
    yield from _as_they_came(waiting)


def _as_they_came(waiting: Iterable[_Waiting]) -> Iterator[Event]:
    for event in waiting:
        if not isinstance(event, _Parted):
            yield event
        elif event.luma is not None:
            yield event.whole(event.luma)


def _picture(event: Decoded) -> Picture:
    frame = event.frame
    return Picture(
        luma=copy_luma(frame),
        depth=bit_depth(frame.format),
        qp=event.qp,
        frame_type=event.frame_type,
        interlaced=frame.interlaced_frame,
    )
