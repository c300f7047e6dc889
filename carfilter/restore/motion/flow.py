"""Dense motion between two pictures, from coarse to fine."""

import numpy as np

from carfilter.pictures import Luma
from carfilter.restore.motion.arrays import BLOCK, CELL, STEPS, Field, Level, Marks, Vectors, grown
from carfilter.restore.motion.kernels import blend, differing, halved, search

_SMALLEST = 24  # pixels of the shorter side of the coarsest level
_NOISE = 2.0  # levels a pixel, at half the size, that coding alone may change


def pyramid(luma: Luma, depth: int) -> list[Level]:
    """Return a picture [H, W] at a half, a quarter, ... of its size."""
    pixels = luma if luma.dtype == np.uint8 else (luma >> (depth - 8)).astype(np.uint8)
    levels = [halved(np.ascontiguousarray(pixels))]
    while min(levels[-1].shape) >= 2 * _SMALLEST:
        levels.append(halved(levels[-1].inner))
    return levels


def estimate(
    picture: list[Level],
    other: list[Level],
    shape: tuple[int, ...],
    guess: Field | None = None,
    *,
    refine: bool = False,
) -> Field | None:
    """Return where each block of a picture of shape (H, W) lies in another one.

    Where the two are alike as they are, nothing is searched; None where they are so everywhere.
    """
    finest = differing(picture[0], other[0], round(_NOISE * CELL * CELL))
    if not finest.any():
        return None
    marks = _of_levels(finest, 1 if refine else len(picture))
    coarse: Vectors | None = None
    for at in reversed(range(len(marks))):
        rows, columns = picture[at].cells
        guesses = [] if coarse is None else [np.ascontiguousarray(coarse[:rows, :columns])]
        if guess is not None:
            guesses.append(_at_cells(guess, 2 << at, rows, columns))
        vectors, errors = search(picture[at], other[at], marks[at], guesses)
        coarse = blend(vectors, errors, 2.0)
    assert coarse is not None
    rows, columns = (-(-side // BLOCK) for side in shape)
    return np.rint(coarse[:rows, :columns] * STEPS).astype(np.int16)


def _of_levels(finest: Marks, levels: int) -> list[Marks]:
    """Return which cells of each level, the finest first, are marked, or lie beside one."""
    marks = [grown(finest)]
    while len(marks) < levels:
        odd = [(0, side % 2) for side in marks[-1].shape]
        fine = np.pad(marks[-1], odd)
        rows = fine[::2] | fine[1::2]
        marks.append(grown(rows[:, ::2] | rows[:, 1::2]))
    return marks


def _at_cells(field: Field, scale: int, rows: int, columns: int) -> Vectors:
    """Return the vectors of the middle block of each cell of a level, in its pixels."""
    middle = field[scale // 2 :: scale, scale // 2 :: scale]
    missing = rows - middle.shape[0], columns - middle.shape[1]
    middle = np.pad(middle, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return np.multiply(middle, 1 / (STEPS * scale), dtype=np.float32)


def composed(first: Field | None, second: Field | None) -> Field | None:
    """Return the motion along one field and then, from where it leads, along another."""
    if first is None or second is None:
        return second if first is None else first
    rows, columns = first.shape[:2]
    step = BLOCK * STEPS
    blocks = (first + step // 2) // step
    y = (np.arange(rows, dtype=np.int16)[:, None] + blocks[..., 1]).clip(0, rows - 1)
    x = (np.arange(columns, dtype=np.int16) + blocks[..., 0]).clip(0, columns - 1)
    # A vector as one number, by its place in flat memory: taken one by one they cost most.
    whole = np.ascontiguousarray(second).view(np.int32).ravel()
    led = whole.take(y.astype(np.intp) * columns + x).view(np.int16)
    both: Field = first + led.reshape(first.shape)
    return both
