"""The arrays that motion is estimated from and described by."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CELL = 4  # pixels of a level to a side that have one vector while it is searched
BLOCK = 4  # pixels of the picture to a side that have one vector in the end
STEPS = 16  # of a pixel, that a vector counts
EDGE = 16  # pixels around each level
ITERATIONS = 4  # that a vector is searched in, at most
STIFFNESS = 4096.0  # holds a vector to where it started, as so much squared gradient would

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


def grown(marks: Marks) -> Marks:
    """Return what is marked, and the eight beside each."""
    tall = marks.copy()
    tall[1:] |= marks[:-1]
    tall[:-1] |= marks[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide
