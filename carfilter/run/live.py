"""Keep up with a camera: where the network falls behind, frames pass unrestored, not late or lost.

They pass for at least a second at a time, since a picture that is restored in every other frame
pumps; and each of them is counted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from carfilter.media.source import Decoded, Event
from carfilter.media.ticks import frame_seconds
from carfilter.pictures import Luma, Picture, uniform_qp
from carfilter.restore.restorer import Restorer

logger = logging.getLogger("carfilter")

_LATE_SECONDS = 0.5  # a frame whose turn comes later than that is not restored
_CAUGHT_UP_SECONDS = 0.1
_WINDOW_SECONDS = 15.0  # what comes in blocks, as HLS does, has one more often than that
_SPELL_SECONDS = 1.0  # frames pass unrestored for so long at least
_HOPELESS_SECONDS = 10.0  # on the clock, of passing frames that still come late

Stage: TypeAlias = Callable[[Iterable[Event]], Iterable[Event]]


class Pace:
    """Decide which frames pass unrestored, and count them.

    A frame is late by the pace of the video: of what comes in blocks, the last frame is due a block
    later than the first. The frame that came furthest behind its own time, of late, sets the pace.

    Args:
        is_full: says whether decoded frames have no more room to wait in; the next would be lost.
    """

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self.passed = 0  # frames
        self._is_full = is_full
        self._until = 0.0  # the end of the present spell at the earliest, in seconds of the video
        self._since = 0.0  # its beginning on the clock, time.monotonic()
        self._paces: deque[tuple[float, float]] = deque()  # arrivals, and how far behind the video
        self._warned = self._given_up = False

    def give_up(self, passed: int) -> None:
        """Let all frames pass from now on, after so many that waited for the network."""
        self.passed += passed
        self._given_up = True

    def falls_behind(self, event: Decoded) -> bool:
        """Say whether a spell of unrestored frames has to begin with this one."""
        late = self._lateness(event) > _LATE_SECONDS or self._is_full()
        if not late and not self._given_up:
            return False
        self.passed += 1
        self._since, self._until = time.monotonic(), _seconds(event) + _SPELL_SECONDS
        return True

    def passes(self, event: Decoded) -> bool:
        """Say whether a frame belongs to the spell; the first that does not ends it."""
        late = self._lateness(event) > _CAUGHT_UP_SECONDS or self._is_full()
        if _seconds(event) >= self._until and not late and not self._given_up:
            return False
        self.passed += 1
        lasts = time.monotonic() - self._since
        if late and lasts > _HOPELESS_SECONDS and not self._warned and not self._given_up:
            self._warned = True
            logger.warning(
                "even unrestored frames come late: the encoder, or what reads the output, does not"
                " keep up with the source; use -preset ultrafast, another -c:v or a smaller picture"
            )
        return True

    def _lateness(self, event: Decoded) -> float:
        """Return by how many seconds a frame's turn comes after it was due."""
        at = _seconds(event)
        while self._paces and self._paces[-1][1] <= event.arrived - at:
            self._paces.pop()
        self._paces.append((event.arrived, event.arrived - at))
        while self._paces[0][0] < event.arrived - _WINDOW_SECONDS:
            self._paces.popleft()
        return time.monotonic() - at - self._paces[0][1]


def keep_up(
    events: Iterable[Event], restored: Stage, unrestored: Stage, pace: Pace
) -> Iterator[Event]:
    """Send the events through `restored` while that keeps up, and through `unrestored` while not.

    Each change of way ends the stage and with it what it held back, so the order stays.
    """
    ended = False
    source = iter(events)
    first: list[Event] = []  # of the next spell: read by the one before

    def spell(belongs: Callable[[Decoded], bool]) -> Iterator[Event]:
        nonlocal ended
        while first:
            yield first.pop()
        for event in source:
            if isinstance(event, Decoded) and not belongs(event):
                first.append(event)
                return
            yield event
        ended = True

    while not ended:
        yield from restored(spell(lambda event: not pace.falls_behind(event)))
        yield from unrestored(spell(pace.passes))


def warm_up(restorer: Restorer, size: tuple[int, int], depth: int) -> None:
    """Restore a black picture of height x width: the first one takes several times as long."""
    luma: Luma = np.zeros(size, np.uint8) if depth == 8 else np.zeros(size, np.uint16)
    black = Picture(luma, depth, uniform_qp(luma.shape, 0))
    deque(restorer.restore([black]), maxlen=0)


def _seconds(event: Decoded) -> float:
    return float(frame_seconds(event.frame) or 0)
