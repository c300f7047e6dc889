"""Restored pictures of a fixed camera, steadied: what keeps still in the video keeps still in them.

A macroblock that did not change keeps its result. What the encoder coded anew it coded with other
errors, so that a still background breathes from frame to frame and jumps at key frames. Errors of
neighbouring pictures average out; what moves must not be averaged. So each pixel is averaged with
the same pixel of those neighbours that hardly differ from it there, before and after alike: an
average to both sides does not lag behind slow changes.

A camera counts as fixed as far as its encoder skips macroblocks. Moving cameras are not averaged,
nor is good video, which has little error to lose, nor video of unknown QP, which may be good.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.pictures import MACROBLOCK, Luma, Picture
from carfilter.reuse import Blocks, settle

# Mean differences of the 3x3 pixels around, the nearer ones weighing more, that count in full: for
# the next neighbours to each side, for the ones after them, and so on. They fall, since what moves
# differs more with each picture, and what the encoder did wrong does not.
_LEVELS = np.linspace(6.5, 0.5, 10)
# Of the past alone an average lags behind, so it is a short one of what hardly differs.
_PAST_LEVELS = np.linspace(1, 0.5, 2)
_FADE, _PAST_FADE = 4, 1  # levels more at which a neighbour has no say any more
_SPAN = 25  # pictures over which a scene is judged
# Share of unchanged macroblocks from which the camera may be a fixed one, and from which it is. At
# CRF 29 the validation clips of moving cameras have 0.2 at most, those of fixed ones 0.5 and more.
_MAYBE, _SURELY = 0.2, 0.4
_GOOD_QP, _POOR_QP = 20.0, 25.0  # mean QP up to which nothing is averaged, and from which all is
_MOST_BYTES = 256 << 20  # of pictures that wait
_BYTES = 7  # that a pixel of such a picture takes, at 8 bits
_ROWS = 64  # of a picture are worked on at a time, so that they stay in a core's cache
_KERNEL = 16  # sum of the weights 1-2-1 x 1-2-1 of 3x3 pixels

_Ints = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Noted:
    """What is kept of a decoded picture until its result comes."""

    depth: int  # bits of a sample
    changed: Blocks | None  # macroblocks that differ from the picture before; None is unknown
    qp: float | None  # mean; None is unknown


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored picture, and what its decoded one was like."""

    luma: Luma
    depth: int = 8  # bits of a sample
    still: float | None = None  # share of macroblocks that did not change; None is unknown
    qp: float | None = None  # mean; None is unknown


def settle_noting(pictures: Iterable[Picture], noted: deque[Noted]) -> Iterator[Picture]:
    """Yield what settle() yields, and append to `noted` what keep_unchanged() needs of each."""
    for picture, changed in settle(pictures):
        qp = picture.qp
        mean = None if qp is None or picture.qp_assumed else float(qp.mean())
        noted.append(Noted(picture.depth, changed, mean))
        yield picture


def keep_unchanged(planes: Iterable[Luma], noted: deque[Noted]) -> Iterator[Restored]:
    """Yield restored planes in which unchanged macroblocks keep the result they had before.

    A multi-frame network sees other neighbours in each picture and gives other results for the very
    same macroblock, which would flicker where the decoded video keeps still.
    """
    last: Luma | None = None
    for plane in planes:
        note = noted.popleft()
        changed, still = note.changed, None
        if last is not None and changed is not None:
            wide = changed.repeat(MACROBLOCK, 1)[:, : plane.shape[1]]
            last = np.where(wide.repeat(MACROBLOCK, 0)[: plane.shape[0]], plane, last)
            still = 1.0 - float(changed.mean())
        else:
            last = plane
        yield Restored(last, note.depth, still, note.qp)


class _Waiting:
    """A picture, and what its neighbours so far add to its average.

    All arrays are flat, of rows with a pixel of padding at either end, so that a shift in any
    direction is an offset and each step runs over memory that lies in one piece. They are made
    when they are first asked for: a moving camera's pictures never need them.
    """

    def __init__(self, restored: Restored) -> None:
        self.luma, self.depth = restored.luma, restored.depth
        self.row = restored.luma.shape[1] + 2

    @cached_property
    def values(self) -> _Ints:
        """The luma and a pixel of padding around it."""
        # At 8 bits a weight times its difference, which is a quarter of the sum around at most,
        # stays below 1,700, and below 19,000 in all: sixteen bits hold it.
        kind = np.int16 if self.depth == 8 else np.int32
        return np.pad(self.luma, 1, mode="edge").astype(kind).ravel()

    @cached_property
    def weights(self) -> _Ints:
        """Of all neighbours so far, summed up."""
        return np.zeros(len(self.values) - 2 * self.row, self.values.dtype)

    @cached_property
    def changes(self) -> _Ints:
        """Of all neighbours so far, their differences times their weights, summed up."""
        return np.zeros_like(self.weights)

    def averaged(self, full: int, amount: float) -> Luma:
        """Return the luma moved by `amount`, 0..1, to the average; `full` is a whole weight."""
        if amount <= 0:
            return self.luma
        changes, weights = (a.reshape(-1, self.row)[:, 1:-1] for a in (self.changes, self.weights))
        change = np.divide(changes, weights + full, dtype=np.float32)
        change *= np.float32(amount)
        change += self.luma
        rounded: Luma = np.rint(change, out=change).astype(self.luma.dtype)
        return rounded


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


def steadied(pictures: Iterable[Restored], lookahead: int, strength: float = 1.0) -> Iterator[Luma]:
    """Yield the luma of each picture, averaged over time where the scene keeps still.

    Args:
        lookahead: pictures to wait for at most; 0 averages over the past alone, and less.
        strength: 0..1, how much of the way to the average a picture goes.
    """
    scene, amount, full = _Scene(), 0.0, 0
    window: deque[_Waiting] = deque()  # with a look-ahead they wait, without one they are past
    for picture in pictures:
        if window and not _comparable(window[-1], picture):
            yield from (old.averaged(full, amount) for old in window if lookahead)
            window.clear()
        scene.see(picture)
        amount = strength * scene.amount
        unit = _KERNEL << (picture.depth - 8)
        full = unit * (_FADE if lookahead else _PAST_FADE)
        levels = _levels(picture.luma.size, lookahead)
        new = _Waiting(picture)
        if amount > 0:
            gates = (round(level * unit) for level in levels)
            _compare(new, list(zip(reversed(window), gates, strict=False)), full)
        if not lookahead:
            yield new.averaged(full, amount)
        window.append(new)
        if len(window) > len(levels):
            oldest = window.popleft()
            if lookahead:
                yield oldest.averaged(full, amount)
    yield from (old.averaged(full, amount) for old in window if lookahead)


def _levels(pixels: int, lookahead: int) -> npt.NDArray[np.float64]:
    """Return the differences that count in full, of as many neighbours as may wait."""
    most = max(1, _MOST_BYTES // (_BYTES * pixels))
    return _LEVELS[: min(lookahead, most)] if lookahead else _PAST_LEVELS[:most]


def _comparable(before: _Waiting, picture: Restored) -> bool:
    return before.luma.shape == picture.luma.shape and before.depth == picture.depth


def _compare(new: _Waiting, others: list[tuple[_Waiting, int]], full: int) -> None:
    """Add to each picture what the other one says of it, weighed by how alike they are there.

    A weight is `full` where the absolute differences around, times 1-2-1 in both directions, sum up
    to no more than the other's gate, and falls to 0 where they are larger by `full`.
    """
    row, kind = new.row, new.values.dtype
    for top in range(0, len(new.weights), _ROWS * row):
        count = min(_ROWS * row, len(new.weights) - top)
        around, inner = slice(top, top + count + 2 * row), slice(top + 1, top + count - 1)
        difference, distance = np.empty((2, count + 2 * row), kind)
        rows = np.empty(count + row, kind)
        column, pair, weight = (np.empty(count - less, kind) for less in (0, 1, 2))
        nothing, whole = np.zeros_like(weight), np.full_like(weight, full)
        for old, gate in others:
            np.subtract(new.values[around], old.values[around], out=difference)
            np.abs(difference, out=distance)
            np.add(distance[:-row], distance[row:], out=rows)
            np.add(rows[:-row], rows[row:], out=column)
            np.add(column[:-1], column[1:], out=pair)
            np.add(pair[:-1], pair[1:], out=weight)
            np.subtract(gate + full, weight, out=weight)
            # With arrays as bounds, NumPy's maximum() is ten times as fast as with numbers.
            np.maximum(weight, nothing, out=weight)
            np.minimum(weight, whole, out=weight)
            new.weights[inner] += weight
            old.weights[inner] += weight
            weight *= difference[row + 1 : row + count - 1]
            new.changes[inner] -= weight
            old.changes[inner] += weight
