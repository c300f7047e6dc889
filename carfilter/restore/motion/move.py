"""A picture moved along a field of motion, where that makes it more like another one."""

import numpy as np
import numpy.typing as npt

from carfilter.pictures import Luma
from carfilter.restore.motion.arrays import STEPS, Field, Filters, Marks
from carfilter.restore.motion.kernels import move

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


FILTERS = _filters()


def moved_where_better(
    picture: Luma, other: Luma, field: Field | None, depth: int
) -> tuple[Luma, Marks | None]:
    """Return another picture [H, W], its blocks moved where that makes it like the picture.

    A fixed camera's picture is best left as it is: there the gate holds. `field` is None where
    nothing moves. And which blocks are moved; None is none.
    """
    if field is None:
        return other, None
    return move(picture, other, field, FILTERS, depth) or (other, None)
