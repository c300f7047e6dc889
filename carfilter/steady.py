"""Restored pictures of a fixed camera, steadied: what keeps still in the video keeps still in them.

A macroblock that did not change keeps its result. What the encoder coded anew it coded with other
errors, so that a still background breathes from frame to frame and jumps at key frames. Errors of
neighbouring pictures average out; what moves must not be averaged. So each pixel is averaged with
the same pixel of those neighbours that hardly differ from it there, before and after alike: an
average to both sides does not lag behind slow changes.

A camera counts as fixed as far as its encoder skips macroblocks. Moving cameras, and video so good
that nothing repeats, are not averaged.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from carfilter.pictures import MACROBLOCK, Luma, Picture
from carfilter.reuse import Blocks, settle

_REACH = 10  # neighbours before, and as many after
# Mean difference of the 3x3 pixels around, the nearer ones weighing more, that still counts in
# full; at twice that, a neighbour has no say.
_LEVELS = 5
# Of the past alone an average lags behind, so it is a short one of what hardly differs.
_PAST_REACH, _PAST_LEVELS = 2, 1
# Share of unchanged macroblocks, over so many pictures, from which the camera may be a fixed one,
# and from which it is. At CRF 29 the validation clips of moving cameras have 0.2 at most, those of
# fixed ones 0.5 and more.
_SPAN, _MAYBE, _SURELY = 25, 0.2, 0.4
_MOST_BYTES = 256 << 20  # of pictures that wait
_BYTES = 7  # that a pixel of such a picture takes, at 8 bits
_ROWS = 64  # of a picture are worked on at a time, so that they stay in a core's cache
_KERNEL = 16  # sum of the weights 1-2-1 x 1-2-1 of 3x3 pixels


@dataclass(frozen=True, slots=True)
class Noted:
    """What is kept of a decoded picture until its result comes."""

    depth: int  # bits of a sample
    changed: Blocks | None  # macroblocks that differ from the picture before; None is unknown


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored picture: luma [H, W], bits of a sample, share of macroblocks that kept still."""

    luma: Luma
    depth: int = 8
    still: float | None = None


def settle_noting(pictures: Iterable[Picture], noted: deque[Noted]) -> Iterator[Picture]:
    """Yield what settle() yields, and append to `noted` what keep_unchanged() needs of each."""
    for picture, changed in settle(pictures):
        noted.append(Noted(picture.depth, changed))
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
            rows, columns = (np.arange(side) // MACROBLOCK for side in plane.shape)
            last = np.where(changed[rows[:, None], columns], plane, last)
            still = 1.0 - float(changed.mean())
        else:
            last = plane
        yield Restored(last, note.depth, still)


class _Waiting:
    """A picture, and what its neighbours so far add to its average.

    All arrays are flat, of rows with a pixel of padding at either end, so that a shift in any
    direction is an offset and each step runs over memory that lies in one piece.
    """

    def __init__(self, restored: Restored) -> None:
        self.luma, self.depth = restored.luma, restored.depth
        # At 8 bits a weight times its difference is 80 x 20 at most, whatever the pixels, and
        # sixteen bits hold the sum over twenty neighbours.
        kind = np.int16 if restored.depth == 8 else np.int32
        padded = np.pad(restored.luma, 1, mode="edge").astype(kind)
        self.row = padded.shape[1]
        self.values = padded.ravel()
        self.weights = np.zeros(len(self.values) - 2 * self.row, kind)
        self.changes = np.zeros_like(self.weights)

    def averaged(self, own: int, amount: float) -> Luma:
        """Return the luma moved by `amount`, 0..1, to the average, in which it weighs `own`."""
        if amount <= 0:
            return self.luma
        changes, weights = (a.reshape(-1, self.row)[:, 1:-1] for a in (self.changes, self.weights))
        change = np.divide(changes, weights + own, dtype=np.float32)
        change *= np.float32(amount)
        change += self.luma
        rounded: Luma = np.rint(change, out=change).astype(self.luma.dtype)
        return rounded


def steadied(pictures: Iterable[Restored], lookahead: int, strength: float = 1.0) -> Iterator[Luma]:
    """Yield the luma of each picture, averaged over time where the scene keeps still.

    Args:
        lookahead: pictures to wait for at most; 0 averages over the past alone, and less.
        strength: 0..1, how much of the way to the average a picture goes.
    """
    shares: deque[float] = deque(maxlen=_SPAN)
    window: deque[_Waiting] = deque()  # with a look-ahead they wait, without one they are past
    gate, amount = 0, 0.0
    for picture in pictures:
        if window and not _comparable(window[-1], picture):
            yield from (old.averaged(gate, amount) for old in window if lookahead)
            window.clear()
        if picture.still is not None:
            shares.append(picture.still)
        amount = strength * _fixedness(shares)
        gate = _KERNEL * (_LEVELS if lookahead else _PAST_LEVELS) << (picture.depth - 8)
        new = _Waiting(picture)
        if amount > 0:
            _compare(new, window, gate)
        if not lookahead:
            yield new.averaged(gate, amount)
        window.append(new)
        if len(window) > _reach(picture.luma.size, lookahead):
            oldest = window.popleft()
            if lookahead:
                yield oldest.averaged(gate, amount)
    yield from (old.averaged(gate, amount) for old in window if lookahead)


def _fixedness(shares: deque[float]) -> float:
    """Return whether the camera is a fixed one, 0..1, by the shares of what kept still."""
    share = sum(shares) / len(shares) if shares else 0.0
    return min(max((share - _MAYBE) / (_SURELY - _MAYBE), 0.0), 1.0)


def _reach(pixels: int, lookahead: int) -> int:
    most = max(1, _MOST_BYTES // (_BYTES * pixels))
    return min(_REACH, lookahead, most) if lookahead else min(_PAST_REACH, most)


def _comparable(before: _Waiting, picture: Restored) -> bool:
    return before.luma.shape == picture.luma.shape and before.depth == picture.depth


def _compare(new: _Waiting, window: Iterable[_Waiting], gate: int) -> None:
    """Add to each picture what the other one says of it, weighed by how alike they are there.

    A weight is `gate` where the absolute differences around, times 1-2-1 in both directions, sum up
    to no more than `gate`, and falls to 0 where they reach twice that.
    """
    row, kind = new.row, new.values.dtype
    for top in range(0, len(new.weights), _ROWS * row):
        count = min(_ROWS * row, len(new.weights) - top)
        around, inner = slice(top, top + count + 2 * row), slice(top + 1, top + count - 1)
        difference, distance = np.empty((2, count + 2 * row), kind)
        rows = np.empty(count + row, kind)
        column, pair, weight = (np.empty(count - less, kind) for less in (0, 1, 2))
        for old in window:
            np.subtract(new.values[around], old.values[around], out=difference)
            np.abs(difference, out=distance)
            np.add(distance[:-row], distance[row:], out=rows)
            np.add(rows[:-row], rows[row:], out=column)
            np.add(column[:-1], column[1:], out=pair)
            np.add(pair[:-1], pair[1:], out=weight)
            np.clip(weight, gate, 2 * gate, out=weight)
            np.subtract(2 * gate, weight, out=weight)
            new.weights[inner] += weight
            old.weights[inner] += weight
            weight *= difference[row + 1 : row + count - 1]
            new.changes[inner] -= weight
            old.changes[inner] += weight
