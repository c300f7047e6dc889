"""Dense motion between two pictures, from coarse to fine."""

import numpy as np

from carfilter.pictures import Luma
from carfilter.restore.motion.arrays import BLOCK, STEPS, Field, Level, Vectors
from carfilter.restore.motion.kernels import blend, halved, search

_SMALLEST = 24  # pixels of the shorter side of the coarsest level


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
) -> Field:
    """Return where each block of a picture of shape (H, W) lies in another one."""
    coarse: Vectors | None = None
    for at in reversed(range(1 if refine else len(picture))):
        rows, columns = picture[at].cells
        guesses = [] if coarse is None else [np.ascontiguousarray(coarse[:rows, :columns])]
        if guess is not None:
            guesses.append(_at_cells(guess, 2 << at, rows, columns))
        vectors, errors = search(picture[at], other[at], guesses)
        coarse = blend(vectors, errors, 2.0)
    assert coarse is not None
    rows, columns = (-(-side // BLOCK) for side in shape)
    return np.rint(coarse[:rows, :columns] * STEPS).astype(np.int16)


def _at_cells(field: Field, scale: int, rows: int, columns: int) -> Vectors:
    """Return the vectors of the middle block of each cell of a level, in its pixels."""
    middle = field[scale // 2 :: scale, scale // 2 :: scale]
    missing = rows - middle.shape[0], columns - middle.shape[1]
    middle = np.pad(middle, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return np.multiply(middle, 1 / (STEPS * scale), dtype=np.float32)


def composed(first: Field, second: Field) -> Field:
    """Return the motion along one field and then, from where it leads, along another."""
    rows, columns = first.shape[:2]
    step = BLOCK * STEPS
    y = np.arange(rows)[:, None] + ((first[..., 1] + step // 2) // step)
    x = np.arange(columns) + ((first[..., 0] + step // 2) // step)
    both: Field = first + second[y.clip(0, rows - 1), x.clip(0, columns - 1)]
    return both
