"""The arrays that motion is estimated from and described by."""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

CELL = 4  # pixels of a level to a side that have one vector while it is searched
BLOCK = 4  # pixels of the picture to a side that have one vector in the end
STEPS = 16  # of a pixel, that a vector counts
EDGE = 16  # pixels around each level
ITERATIONS = 4  # that a vector is searched in, at most
STIFFNESS = 3072.0  # holds a vector to where it started, as so much squared gradient would
NOISE = 3.0  # levels a pixel, at half the size, that coding alone may change
_SMALLEST = 6  # pixels of the shorter side of the coarsest level, at least

Vectors = npt.NDArray[np.float32]
"""(x, y) in pixels of a level for each of its cells, [rows, columns, 2]."""
Errors = npt.NDArray[np.uint16]
"""Absolute differences of each 2x2 pixels of the cells' patches, [rows, columns, 4, 4]."""
Field = npt.NDArray[np.int16]
"""(x, y) in sixteenths of a pixel for each block, [ceil(H/4), ceil(W/4), 2]."""
Marks = npt.NDArray[np.bool_]
"""Cells of a level that may have moved, or blocks that have, [rows, columns]."""
Filters = npt.NDArray[np.int16]
"""Weights of four samples for each sixteenth of a pixel, [STEPS, 4]; their sum is 64."""


@dataclass(frozen=True, slots=True)
class Level:
    """A picture at a fraction of its size, with EDGE more pixels around it."""

    padded: npt.NDArray[np.uint8]  # [H + 2 EDGE, W + 2 EDGE]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width without the edge."""
        return self.padded.shape[0] - 2 * EDGE, self.padded.shape[1] - 2 * EDGE

    @property
    def inner(self) -> npt.NDArray[np.uint8]:
        """The level without its edge."""
        return self.padded[EDGE:-EDGE, EDGE:-EDGE]

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.shape[0] // CELL), -(-self.shape[1] // CELL)


class Pyramid:
    """A picture at a half, a quarter, ... of its size, in one piece of memory.

    Attributes:
        shape: height and width of the picture.
        sizes: of the levels with their edges, the finest first.
        pixels: of the levels, one after another.
    """

    __slots__ = ("pixels", "shape", "sizes")

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.sizes: list[tuple[int, int]] = []
        height, width = shape
        while not self.sizes or min(height, width) >= 2 * _SMALLEST:
            height, width = (height + 1) // 2, (width + 1) // 2
            self.sizes.append((height + 2 * EDGE, width + 2 * EDGE))
        self.pixels = np.empty(sum(map(prod, self.sizes)), np.uint8)

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // BLOCK), -(-self.shape[1] // BLOCK)

    @property
    def levels(self) -> list[Level]:
        """The levels, the finest first; they share the memory."""
        ends = np.cumsum([prod(size) for size in self.sizes])
        parts = np.split(self.pixels, ends[:-1])
        return [Level(part.reshape(size)) for part, size in zip(parts, self.sizes, strict=True)]
