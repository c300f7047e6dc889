"""Nothing computed twice: what did not change since the picture before keeps its result.

A single-frame network gives equal results for equal inputs, as far around as it sees; where a
multi-frame one is used, unchanged macroblocks keep their result by rule. Pictures equal to the one
before are not computed at all; of pictures that changed a little, only boxes around the change are.
Which of the three it is, is decided for each picture.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carfilter.pictures import MACROBLOCK, Area, Blocks, Luma, Picture, cut
from carfilter.restore.planes import changed_blocks

_TILE = 4  # macroblocks to a side of what is computed again or not
_GAP = 4  # unchanged tiles between two boxes of a row
_WORTHWHILE = 0.6  # of the picture, boxes with their surroundings: above it, all is computed
_WIDTH, _HEIGHT = 256, 64  # sides of boxes are multiples of these: few shapes to be tried


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels top <= y < bottom, left <= x < right; top and left lie on the macroblock grid."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> Area:
        """The box as cut() takes it."""
        return self.top, self.left, self.bottom, self.right


Planned = tuple[Picture, list[Box] | None]  # what of a picture is to be computed; None is all


@dataclass(frozen=True, slots=True)
class _Patch:
    """A box that is being restored with what the network sees around it."""

    box: Box
    around: Box
    wait: Callable[[], Luma]

    def paste(self, restored: Luma) -> None:
        """Wait for the box and put it into a picture."""
        box, around = self.box, self.around
        rows = slice(box.top - around.top, box.bottom - around.top)
        columns = slice(box.left - around.left, box.right - around.left)
        restored[box.top : box.bottom, box.left : box.right] = self.wait()[rows, columns]


def settle(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield each picture with its changed macroblocks.

    A macroblock that did not change keeps its QP too. Skipped ones carry no QP of their own: the
    decoder exports that of their neighbours, which says nothing about how they were coded.
    """
    before: Picture | None = None
    for picture in pictures:
        changed = None
        if before is not None and _comparable(picture, before):
            changed = changed_blocks(picture.luma, before.luma)
            if picture.qp is not None and before.qp is not None:
                picture = replace(picture, qp=np.where(changed, picture.qp, before.qp))
        picture = replace(picture, changed=changed)
        yield picture
        before = picture


def _comparable(picture: Picture, before: Picture) -> bool:
    return (
        picture.luma.shape == before.luma.shape
        and picture.depth == before.depth
        and (picture.qp is None) == (before.qp is None)
    )


class Reuse:
    """Restore a stream of pictures, each from the result before it as far as that holds.

    Args:
        whole: restores pictures, in order.
        part: begins to restore a box of a picture and returns what waits for it; None restores
            whole pictures only.
        halo: pixels to each side that a restored pixel depends on.
        spreads: what changed changes the result as far around as the halo; else unchanged
            macroblocks keep their result whatever lies beside them, see steady.keep_unchanged().
        doubtful: boxes must give the very same bits, and some shapes may run through kernels that
            round otherwise: each shape is tried once against a whole picture.
        ahead: pictures whose boxes are begun before those of one are waited for.
        patience: pictures like the one before that wait for its result while `whole` goes on with
            others, where there is no `part`; only where it looks at the next picture before it
            gives a result.
    """

    def __init__(
        self,
        whole: Callable[[Iterable[Picture]], Iterator[Luma]],
        part: Callable[[Picture, Box], Callable[[], Luma]] | None,
        halo: int,
        *,
        spreads: bool = True,
        doubtful: bool,
        ahead: int = 0,
        patience: int = 0,
    ) -> None:
        self._whole, self._part = whole, part
        self._halo_blocks = -(-halo // MACROBLOCK)
        self._spread = self._halo_blocks if spreads else 0
        self._doubtful, self._ahead = doubtful, ahead
        self._is_equal: dict[tuple[int, int], bool] = {}  # shapes of boxes that were tried
        self._next: Planned | None = None
        self._patience = patience if part is None else 0
        self._repeats: deque[int] = deque()  # of each picture that is computed
        self.pictures = 0
        self.computed = 0.0  # pictures' worth of pixels that went through the network

    @property
    def saved(self) -> float:
        """Share of the network's work that was saved, 0..1."""
        return max(0.0, 1 - self.computed / self.pictures) if self.pictures else 0.0

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        """Yield the restored luma of each picture, in order.

        Args:
            pictures: as settle() yields them; what it did not compare is computed whole.
        """
        stream = ((picture, self._boxes(picture)) for picture in pictures)
        last: Luma | None = None
        self._repeats.clear()  # of pictures that an earlier run began and nobody waited for
        self._next = next(stream, None)
        while self._next is not None:
            for last in self._whole(self._changed_ones(stream)):
                yield last
                for _ in range(self._repeats.popleft()):
                    yield last
            begun: deque[tuple[Picture, list[_Patch]]] = deque()
            while self._next is not None and self._next[1] is not None and last is not None:
                self.pictures += 1
                begun.append((self._next[0], self._begin(*self._next)))
                while len(begun) > self._ahead:
                    last = self._renew(last, *begun.popleft())
                    yield last
                self._next = next(stream, None)
            while begun and last is not None:
                last = self._renew(last, *begun.popleft())
                yield last

    def _changed_ones(self, stream: Iterator[Planned]) -> Iterator[Picture]:
        """Yield pictures up to the first that can be made from the result before it."""
        while self._next is not None and self._next[1] is None:
            self.pictures += 1
            self.computed += 1
            self._repeats.append(0)
            yield self._next[0]
            self._next = next(stream, None)
            while self._next is not None and self._next[1] == []:
                if not self._repeats or self._repeats[-1] >= self._patience:
                    return
                self.pictures += 1
                self._repeats[-1] += 1
                self._next = next(stream, None)

    def _boxes(self, picture: Picture) -> list[Box] | None:
        """Return what of a picture is to be computed; None is all of it."""
        changed = picture.changed
        if changed is None or (self._part is None and changed.any()):
            return None
        if changed.mean() > _WORTHWHILE / 2:  # a busy picture costs no more thought
            return None
        boxes = list(self._boxes_of_tiles(_tiles(_dilated(changed, self._spread)), picture))
        around = [self._around(box, picture).shape for box in boxes]
        if sum(height * width for height, width in around) > _WORTHWHILE * picture.luma.size:
            return None
        return None if self._distrusts(set(around)) else boxes

    def _distrusts(self, shapes: set[tuple[int, int]]) -> bool:
        return not all(self._is_equal.get(shape, True) for shape in shapes)

    def _boxes_of_tiles(self, tiles: Blocks, picture: Picture) -> Iterator[Box]:
        """Yield boxes of tiles: one for each group of columns in each group of rows."""
        height, width = picture.luma.shape
        side = _TILE * MACROBLOCK
        for top, bottom in _groups(np.any(tiles, axis=1), 1):
            for left, right in _groups(np.any(tiles[top:bottom], axis=0), _GAP):
                yield Box(
                    top * side, left * side, min(bottom * side, height), min(right * side, width)
                )

    def _around(self, box: Box, picture: Picture) -> Box:
        """Return a box with what the network sees around it, of one of few shapes."""
        height, width = picture.luma.shape
        halo = self._halo_blocks * MACROBLOCK
        top, bottom = _widened(box.top - halo, box.bottom + halo, height, _HEIGHT)
        left, right = _widened(box.left - halo, box.right + halo, width, _WIDTH)
        return Box(top, left, bottom, right)

    def _begin(self, picture: Picture, boxes: list[Box] | None) -> list[_Patch]:
        if not boxes:
            return []
        assert self._part is not None
        patches = []
        for box in boxes:
            around = self._around(box, picture)
            patches.append(_Patch(box, around, self._part(picture, around)))
            self.computed += np.prod(around.shape) / picture.luma.size
        return patches

    def _renew(self, last: Luma, picture: Picture, patches: list[_Patch]) -> Luma:
        if not patches:
            return last
        restored = last.copy()
        for patch in patches:
            patch.paste(restored)
        shapes = {patch.around.shape for patch in patches}
        unknown = shapes - self._is_equal.keys()
        if self._doubtful and (unknown or self._distrusts(shapes)):
            return self._tried(restored, picture, patches, unknown)
        return restored

    def _tried(
        self, restored: Luma, picture: Picture, patches: list[_Patch], shapes: set[tuple[int, int]]
    ) -> Luma:
        """Compute the whole picture as well, once per shape, and see whether the bits are equal."""
        whole = next(iter(self._whole([picture])))
        self.computed += 1
        areas = [patch.box.area for patch in patches]
        equal = all(np.array_equal(cut(restored, area), cut(whole, area)) for area in areas)
        self._is_equal |= dict.fromkeys(shapes, equal)
        return whole


def _dilated(blocks: Blocks, by: int) -> Blocks:
    for axis in (0, 1):
        source = blocks
        for shift in range(1, by + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            blocks = blocks.copy()
            blocks[tuple(ahead)] |= source[tuple(behind)]
            blocks[tuple(behind)] |= source[tuple(ahead)]
    return blocks


def _tiles(blocks: Blocks) -> Blocks:
    rows = np.logical_or.reduceat(blocks, np.arange(0, blocks.shape[0], _TILE), axis=0)
    tiles: Blocks = np.logical_or.reduceat(rows, np.arange(0, rows.shape[1], _TILE), axis=1)
    return tiles


def _groups(marked: Any, gap: int) -> list[tuple[int, int]]:
    """Return [start, stop) of each run of marks, bool [N]; runs less than `gap` apart are one."""
    groups: list[tuple[int, int]] = []
    for at in np.flatnonzero(marked).tolist():
        if groups and at - groups[-1][1] < gap:
            groups[-1] = (groups[-1][0], at + 1)
        else:
            groups.append((at, at + 1))
    return groups


def _widened(start: int, stop: int, size: int, unit: int) -> tuple[int, int]:
    """Grow a range to a multiple of `unit` inside 0..size; it starts on the macroblock grid."""
    start = max(start, 0)
    length = -(-(min(stop, size) - start) // unit) * unit
    stop = min(start + length, size)
    return max(stop - length, 0) // MACROBLOCK * MACROBLOCK, stop
