"""A picture moved along a field of motion, where that makes it more like another one."""

import numpy as np
import numpy.typing as npt

from carfilter.pictures import Luma
from carfilter.restore.motion.arrays import BLOCK, STEPS, Field, Filters
from carfilter.restore.motion.kernels import apart, move

# A block is moved where its surroundings of 3x3 blocks then differ by less than this share of what
# they differed by, less so many levels a pixel: a fixed camera's picture is best left as it is.
_SHARE, _LESS = 0.8, 0.3
_AROUND = 9 * BLOCK * BLOCK
_SHARPNESS = -0.5  # Catmull-Rom's
_SUM = 64


def _filters() -> Filters:
    """Return the cubic convolution of Keys, IEEE Trans. ASSP 29(6), 1981: int16 [STEPS, 4]."""
    a, part = _SHARPNESS, np.arange(STEPS) / STEPS

    def near(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1

    def far(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    exact = np.stack((far(1 + part), near(part), near(1 - part), far(2 - part)), 1) * _SUM
    whole = np.rint(exact).astype(np.int16)
    whole[np.arange(STEPS), exact.argmax(1)] += _SUM - whole.sum(1, dtype=np.int16)
    return whole


_FILTERS = _filters()


def moved_where_better(picture: Luma, other: Luma, field: Field, depth: int) -> Luma:
    """Return another picture [H, W], its blocks moved where that makes it like the picture."""
    if not field.any():
        return other
    moved: Luma = move(other, field, _FILTERS, (1 << depth) - 1)
    before, after = (_around(apart(picture, one)) for one in (other, moved))
    less = round(_LESS * _AROUND * (1 << (depth - 8)))
    better = after < _SHARE * before - less
    if not better.any():
        return other
    for rows, wide in zip(_bands(moved), better, strict=True):
        columns = wide.repeat(BLOCK)[: moved.shape[1]]
        np.copyto(moved[rows], other[rows], where=~columns)
    return moved


def _bands(plane: Luma) -> list[slice]:
    return [slice(top, top + BLOCK) for top in range(0, plane.shape[0], BLOCK)]


def _around(blocks: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the sums over 3x3 blocks."""
    wide = np.pad(blocks, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    around: npt.NDArray[np.int32] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return around
