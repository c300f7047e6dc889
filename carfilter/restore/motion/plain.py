"""What motion.c and move.c compute, in NumPy: slower, and the same bits.

Sums are of integers, so that their order does not matter; what is left of floating point is
computed in the same order, in float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.restore.motion.arrays import (
    BLOCK,
    CELL,
    EDGE,
    STEPS,
    Errors,
    Field,
    Filters,
    Level,
    Marks,
    Pyramid,
    Vectors,
)

_PATCH = 8
_LEAST = np.float32(1 / STEPS)  # of a pixel: a smaller step is not taken
_CELLS_AT_ONCE = 4096  # so that their patches stay in a core's cache

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Search:
    """How pictures are searched: `most` that a cell may differ by in sum and not be searched."""

    most: int
    iterations: int
    stiffness: float


def fill(pyramid: Pyramid, pixels: npt.NDArray[np.uint8]) -> None:
    """Fill the pyramid of a picture [H, W]."""
    for level in pyramid.levels:
        level.padded[:] = np.pad(_halved(pixels), EDGE, mode="edge")
        pixels = level.inner


def _halved(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the mean of each 2x2 pixels, a last odd row or column doubled."""
    height, width = pixels.shape
    even = np.pad(pixels, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.uint16)
    total = even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def estimate(picture: Pyramid, other: Pyramid, how: Search, guess: Field | None) -> Field | None:
    """See kernels.estimate()."""
    targets, references = picture.levels, other.levels
    marks = _marks(_differing(targets[0], references[0], how.most), len(targets))
    if marks is None:
        return None
    coarse: Vectors | None = None
    for at in reversed(range(len(targets))):
        rows, columns = targets[at].cells
        guesses = [] if coarse is None else [np.ascontiguousarray(coarse[:rows, :columns])]
        if guess is not None:
            guesses.append(_at_cells(guess, 2 << at, rows, columns))
        coarse = _blend(*_search(targets[at], references[at], how, marks[at], guesses))
    assert coarse is not None
    rows, columns = picture.blocks
    return np.rint(coarse[:rows, :columns] * STEPS).astype(np.int16)


def _marks(finest: Marks, levels: int) -> list[Marks] | None:
    """Return which cells of each level, the finest first, are marked, or lie beside one."""
    if not finest.any():
        return None
    marks = [_grown(finest)]
    while len(marks) < levels:
        fine = np.pad(marks[-1], [(0, side % 2) for side in marks[-1].shape])
        rows = fine[::2] | fine[1::2]
        marks.append(_grown(rows[:, ::2] | rows[:, 1::2]))
    return marks


def _grown(marks: Marks) -> Marks:
    """Return what is marked, and the eight beside each."""
    tall = marks.copy()
    tall[1:] |= marks[:-1]
    tall[:-1] |= marks[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _at_cells(field: Field, scale: int, rows: int, columns: int) -> Vectors:
    """Return the vectors of the middle block of each cell of a level, in its pixels."""
    middle = np.ix_(
        *(
            (np.arange(count) * scale + scale // 2).clip(0, blocks - 1)
            for count, blocks in zip((rows, columns), field.shape, strict=False)
        )
    )
    vectors: Vectors = np.multiply(field[middle], 1 / (STEPS * scale), dtype=np.float32)
    return vectors


class _Patches:
    """The patches of some cells of a level: values and gradients, [N, 8, 8]."""

    def __init__(self, level: Level, tops: _Integers, lefts: _Integers) -> None:
        self.tops, self.lefts = tops, lefts

        def taken(y: int, x: int) -> _Integers:
            return _windows(level, tops + y, lefts + x, _PATCH)

        self.values = taken(0, 0) * STEPS
        self.across = taken(0, 1) - taken(0, -1)
        self.down = taken(1, 0) - taken(-1, 0)
        self.sum_x, self.sum_y = self.across.sum((1, 2)), self.down.sum((1, 2))
        self.xx = (self.across * self.across).sum((1, 2)) - (self.sum_x * self.sum_x >> 6)
        self.xy = (self.across * self.down).sum((1, 2)) - (self.sum_x * self.sum_y >> 6)
        self.yy = (self.down * self.down).sum((1, 2)) - (self.sum_y * self.sum_y >> 6)

    def compare(self, reference: Level, vectors: Vectors) -> tuple[_Integers, _Integers]:
        """Return the squared error [N] about its mean and what differs, [N, 8, 8]."""
        reach, (height, width) = EDGE - 1, reference.shape
        moves = np.floor(vectors * np.float32(STEPS) + np.float32(0.5)).astype(np.int64)
        y = (self.tops * STEPS + moves[:, 1]).clip(
            -reach * STEPS, (height + reach - _PATCH - 1) * STEPS
        )
        x = (self.lefts * STEPS + moves[:, 0]).clip(
            -reach * STEPS, (width + reach - _PATCH - 1) * STEPS
        )
        down, across = (part[:, None, None] % STEPS for part in (y, x))
        around = _windows(reference, y >> 4, x >> 4, _PATCH + 1)
        rows = around[:, :, :-1] * (STEPS - across) + around[:, :, 1:] * across
        mixed = rows[:, :-1] * (STEPS - down) + rows[:, 1:] * down + STEPS // 2
        apart = (mixed >> 4) - self.values
        total = apart.sum((1, 2))
        return (apart * apart).sum((1, 2)) - (total * total >> 6), apart

    def step(self, apart: _Integers, stiffness: float) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """Return the step [N, 2] from where the patches differ so, and whether there is one."""
        total = apart.sum((1, 2))
        bx, by = (
            ((slope * apart).sum((1, 2)) - (of * total >> 6)).astype(np.float32)
            for slope, of in ((self.across, self.sum_x), (self.down, self.sum_y))
        )
        hold = np.float32(stiffness)
        xx, yy = self.xx.astype(np.float32) + hold, self.yy.astype(np.float32) + hold
        xy = self.xy.astype(np.float32)
        below = xx * yy - xy * xy
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.float32(-0.125) / below
            steps = np.stack(((yy * bx - xy * by) * scale, (xx * by - xy * bx) * scale), 1)
        return steps, below > 0


def _windows(level: Level, tops: _Integers, lefts: _Integers, side: int) -> _Integers:
    every = np.lib.stride_tricks.sliding_window_view(level.padded, (side, side))
    return every[tops + EDGE, lefts + EDGE].astype(np.int64)


def _differing(target: Level, reference: Level, most: int) -> Marks:
    """Return the cells that differ from those of another level by more than `most` in sum."""
    height, (rows, columns) = target.shape[0], target.cells
    area = slice(EDGE, EDGE + height), slice(EDGE, EDGE + columns * CELL)
    apart = np.abs(target.padded[area].astype(np.int32) - reference.padded[area])
    lines = np.add.reduceat(apart, np.arange(0, height, CELL), axis=0)
    marks: Marks = lines.reshape(rows, columns, CELL).sum(2) > most
    return marks


def _search(
    target: Level, reference: Level, how: Search, marks: Marks, guesses: list[Vectors]
) -> tuple[Vectors, Errors]:
    """Return the vector of each cell, and how far its patch then differs.

    Args:
        marks: where it is searched; elsewhere nothing moves, or differs.
        guesses: of each vector, besides no motion; the best is where it starts.
    """
    rows, columns = target.cells
    vectors = np.zeros((rows * columns, 2), np.float32)
    errors = np.zeros((rows * columns, 4, 4), np.uint16)
    cells = np.flatnonzero(marks)
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        at = cells[start : start + _CELLS_AT_ONCE]
        tops, lefts = (index * CELL - CELL // 2 for index in divmod(at, columns))
        patches = _Patches(target, tops, lefts)
        starts = [guess.reshape(-1, 2)[at] for guess in guesses]
        vectors[at], apart = _found(patches, reference, how, starts)
        errors[at] = np.abs(apart).reshape(-1, 4, 2, 4, 2).sum((2, 4)).astype(np.uint16)
    return vectors.reshape(rows, columns, 2), errors.reshape(rows, columns, 4, 4)


def _found(
    patches: _Patches, reference: Level, how: Search, guesses: list[Vectors]
) -> tuple[Vectors, _Integers]:
    vectors = np.zeros((len(patches.tops), 2), np.float32)
    error, apart = patches.compare(reference, vectors)
    moving = error > 0
    for guess in guesses:
        other, differing = patches.compare(reference, guess)
        better = moving & (other < error)
        vectors, error = _where(better, guess, vectors), np.where(better, other, error)
        apart = _where(better, differing, apart)
    origin, going = vectors, moving
    for _ in range(how.iterations):
        steps, there = patches.step(apart, how.stiffness)
        going = going & there & ~(np.abs(steps) < _LEAST).all(1)
        moved = np.where(going[:, None], vectors + steps, vectors)
        going = going & (np.abs(moved - origin) < _PATCH).all(1)
        other, differing = patches.compare(reference, _where(going, moved, vectors))
        going = going & (other < error)
        vectors, error = _where(going, moved, vectors), np.where(going, other, error)
        apart = _where(going, differing, apart)
    return vectors, apart


def _where(chosen: npt.NDArray[np.bool_], one: Any, other: Any) -> Any:
    return np.where(chosen.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def _blend(vectors: Vectors, errors: Errors) -> Vectors:
    """Return the vector of each 2x2 pixels, in pixels of the finer level: [2 rows, 2 columns, 2].

    It is the mean of those of the patches that cover them, by how well they explain them.
    """
    rows, columns = vectors.shape[:2]
    explained = np.float32(1) / (errors + np.float32(64))
    vectors = np.pad(vectors, ((1, 1), (1, 1), (0, 0)))
    explained = np.pad(explained, ((1, 1), (1, 1), (0, 0), (0, 0)))
    sums = np.zeros((2 * rows, 2 * columns, 2), np.float32)
    weights = np.zeros((2 * rows, 2 * columns, 1), np.float32)
    y, x = np.arange(2 * rows)[:, None], np.arange(2 * columns)[None]
    for row, part_y in _covering(y):
        for column, part_x in _covering(x):
            weight = explained[row, column, part_y, part_x][..., None]
            sums += weight * vectors[row, column]
            weights += weight
    blended: Vectors = np.multiply(sums / weights, 2, dtype=np.float32)
    return blended


def _covering(quads: _Integers) -> tuple[tuple[_Integers, _Integers], ...]:
    """Return the two cells, after one that is none, that cover 2x2 pixels, and by which part."""
    first, odd = (quads + 1) >> 1, quads & 1
    return (first, 3 - odd), (first + 1, 1 - odd)


def move(picture: Any, other: Any, field: Field, filters: Filters, most: int) -> tuple[Any, Marks]:
    """See kernels.move()."""
    moved = _moved(other, field, filters, most)
    before, after = (_around(_apart(picture, one)) for one in (other, moved))
    better: Marks = field.any(2) & (5 * after < 4 * before)
    height, width = other.shape
    wide = better.repeat(BLOCK, 0)[:height].repeat(BLOCK, 1)[:, :width]
    return np.where(wide, moved, other), better


def _moved(other: Any, field: Field, filters: Filters, most: int) -> Any:
    height, width = other.shape
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    vectors = field[y // BLOCK, x // BLOCK].astype(np.int64)
    # Of a block all pixels have the same fraction, so one of them tells where it is taken from.
    top, left = y + (vectors[..., 1] >> 4) - 1, x + (vectors[..., 0] >> 4) - 1
    down, across = (filters[vectors[..., axis] % STEPS].astype(np.int64) for axis in (1, 0))
    total = np.zeros(other.shape, np.int64)
    for i in range(4):
        row = (top + i).clip(0, height - 1)
        line = sum(other[row, (left + j).clip(0, width - 1)] * across[..., j] for j in range(4))
        total += line * down[..., i]
    return ((total + 2048) >> 12).clip(0, most).astype(other.dtype)


def _apart(one: Any, other: Any) -> _Integers:
    """Return the sum of absolute differences in each block, [ceil(H/4), ceil(W/4)]."""
    difference = np.abs(one.astype(np.int64) - other)
    rows = np.add.reduceat(difference, np.arange(0, one.shape[0], BLOCK), axis=0)
    blocks: _Integers = np.add.reduceat(rows, np.arange(0, one.shape[1], BLOCK), axis=1)
    return blocks


def _around(blocks: _Integers) -> _Integers:
    """Return the sums over 3x3 blocks."""
    wide = np.pad(blocks, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    around: _Integers = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return around


def compose(first: Field, second: Field) -> Field:
    """See kernels.compose()."""
    rows, columns = first.shape[:2]
    step = BLOCK * STEPS
    blocks = (first + step // 2) // step
    y = (np.arange(rows, dtype=np.int16)[:, None] + blocks[..., 1]).clip(0, rows - 1)
    x = (np.arange(columns, dtype=np.int16) + blocks[..., 0]).clip(0, columns - 1)
    both: Field = first + second[y, x]
    return both
