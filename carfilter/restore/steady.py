"""Restored pictures of a fixed camera, steadied: what keeps still in the video keeps still in them.

A macroblock that did not change keeps its result. What the encoder coded anew it coded with other
errors, so that a still background breathes from frame to frame and jumps at key frames. Errors of
neighbouring pictures average out; what moves must not be averaged. So each pixel is averaged with
the same pixel of the pictures before and after: of a neighbour goes in what it resembles, of the
next one what is left times what that resembles, and so on. An average to both sides does not lag
behind slow changes. That is a recursive filter along time, whose weights fall with all the change
on the way as those of Gastal & Oliveira do along lines, "Domain Transform for Edge-Aware Image and
Video Processing", SIGGRAPH 2011, section 5.

A camera counts as fixed as far as its encoder skips macroblocks. Moving cameras are not averaged
here (carfilter.restore.follow has what moves), nor is good video, which has little error to lose,
nor video of unknown QP, which may be good.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from carfilter.pictures import Blocks, Luma, Motion, Picture
from carfilter.restore.planes import CpuPlanes, Linked, Plane, Planes

# The share of a pixel that goes on to the next picture where nothing changed, and the levels by
# which the 3x3 pixels around differ, the nearer ones weighing more, where 1/e of that share does.
# Of the past alone an average lags behind, so it is a short one.
_DECAY, _LEVEL = 0.96, 4.8
_PAST_DECAY, _PAST_LEVEL = 0.8, 3.0
_SPAN = 25  # pictures over which a scene is judged
# Share of unchanged macroblocks from which the camera may be a fixed one, and from which it is. At
# CRF 29 the validation clips of moving cameras have 0.2 at most, those of fixed ones 0.5 and more.
_MAYBE, _SURELY = 0.2, 0.4
_GOOD_QP, _POOR_QP = 20.0, 25.0  # mean QP up to which nothing is averaged, and from which all is
_MOST_PIXELS = (130 << 20) // 3  # of pictures that wait; each takes three bytes at 8 bits


@dataclass(frozen=True, slots=True)
class Noted:
    """What is kept of a decoded picture until its result comes."""

    depth: int  # bits of a sample
    changed: Blocks | None  # macroblocks that differ from the picture before; None is unknown
    qp: float | None  # mean; None is unknown
    motion: Motion


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored picture, and what its decoded one was like."""

    luma: Plane
    depth: int = 8  # bits of a sample
    still: float | None = None  # share of macroblocks that did not change; None is unknown
    qp: float | None = None  # mean; None is unknown
    motion: Motion = (None, None)


def noting(pictures: Iterable[Picture], noted: deque[Noted]) -> Iterator[Picture]:
    """Yield the pictures, and append to `noted` what keep_unchanged() needs of each."""
    for picture in pictures:
        qp = picture.qp
        mean = None if qp is None or picture.qp_assumed else float(qp.mean())
        noted.append(Noted(picture.depth, picture.changed, mean, picture.motion))
        yield picture


def keep_unchanged(
    restored: Iterable[Plane], noted: deque[Noted], planes: Planes
) -> Iterator[Restored]:
    """Yield restored planes in which unchanged macroblocks keep the result they had before.

    A multi-frame network sees other neighbours in each picture and gives other results for the very
    same macroblock, which would flicker where the decoded video keeps still.
    """
    last: Plane | None = None
    for plane in restored:
        note = noted.popleft()
        changed, still = note.changed, None
        if last is not None and changed is not None:
            last = planes.kept(plane, last, changed)
            still = 1.0 - float(changed.mean())
        else:
            last = plane
        yield Restored(last, note.depth, still, note.qp, note.motion)


class _Scene:
    """What the last pictures tell of the camera and of the quality of its video."""

    def __init__(self) -> None:
        self.shares: deque[float] = deque(maxlen=_SPAN)
        self.qps: deque[float] = deque(maxlen=_SPAN)

    def see(self, picture: Restored) -> None:
        """Take the next picture into account."""
        if picture.still is not None:
            self.shares.append(picture.still)
        if picture.qp is None:
            self.qps.clear()
        else:
            self.qps.append(picture.qp)

    @property
    def amount(self) -> float:
        """How much of the averaging is wanted, 0..1."""
        return _ramp(self.shares, _MAYBE, _SURELY) * _ramp(self.qps, _GOOD_QP, _POOR_QP)


def _ramp(values: deque[float], none: float, full: float) -> float:
    mean = sum(values) / len(values) if values else none
    return min(max((mean - none) / (full - none), 0.0), 1.0)


def steadied(
    pictures: Iterable[Restored],
    lookahead: int,
    strength: float = 1.0,
    planes: Planes | None = None,
) -> Iterator[Luma]:
    """Yield the luma of each picture, averaged over time where the scene keeps still.

    Args:
        lookahead: pictures to wait for at most; 0 averages over the past alone, and less.
        strength: 0..1, how much of the way to the average a picture goes.
        planes: works on them; None is this CPU.
    """
    scene, planes = _Scene(), planes or CpuPlanes()
    for (shape, depth), alike in groupby(pictures, lambda one: (one.luma.shape, one.depth)):
        shot = _Shot(shape, depth, lookahead, planes)
        for picture in alike:
            scene.see(picture)
            shot.add(picture.luma, strength * scene.amount)
            yield from shot.come_out(shot.ready)
        yield from shot.come_out(len(shot.waiting))


@dataclass(frozen=True, slots=True)
class _Waiting(Linked):
    """A picture that waits for later ones."""

    amount: float  # of averaging, 0..1, as the scene was when it came


class _Shot:
    """Pictures of one size and depth, which are averaged with each other."""

    def __init__(self, shape: tuple[int, ...], depth: int, lookahead: int, planes: Planes) -> None:
        self.shape, self.depth, self.planes = shape, depth, planes
        fitting = _MOST_PIXELS // math.prod(shape)
        self.most = min(lookahead, max(1, fitting))  # pictures that wait for later ones
        # Pictures come out some at a time, since for each time all that wait are gone through.
        self.at_once = self.most // 2 + 1
        self.decay, self.level = (_DECAY, _LEVEL) if lookahead else (_PAST_DECAY, _PAST_LEVEL)
        self.waiting: list[_Waiting] = []
        self.last: Plane | None = None
        # What the picture that came out last was made of, itself and before: sum and weight.
        self.past: Any = None

    def add(self, luma: Plane, amount: float) -> None:
        """Let a picture wait."""
        link = None
        if amount > 0 and self.last is not None:
            level = self.level * (1 << (self.depth - 8))
            link = self.planes.links(self.last, luma, self.depth, level, self.decay)
        self.waiting.append(_Waiting(luma, link, amount))
        self.last = luma

    @property
    def ready(self) -> int:
        """How many of the pictures that wait need not, or must not, wait for more."""
        if len(self.waiting) > self.most:
            return self.at_once
        # Before a camera that moves nothing is waited for but the word that it still does.
        if any(picture.amount for picture in self.waiting):
            return 0
        return max(len(self.waiting) - self.at_once, 0)

    def come_out(self, count: int) -> Iterator[Luma]:
        """Yield the averages of the pictures that wait longest."""
        if not count:
            return
        pictures, self.waiting = self.waiting, self.waiting[count:]
        # What came a while after a picture knows more of its scene.
        later, last = max(count, self.at_once), len(pictures) - 1
        amounts = [pictures[min(i + later, last)].amount for i in range(count)]
        if not any(amounts):
            self.past = None
            yield from self.planes.fetched([picture.luma for picture in pictures[:count]])
            return
        if self.past is None:
            self.past = self.planes.nothing(self.shape)
        averages = self.planes.average(pictures, amounts, self.past)
        results = [*self.planes.fetched(averages)]
        del pictures, averages
        results.reverse()
        while results:  # which may take as long as the encoder does: nothing stays that has gone
            yield results.pop()
