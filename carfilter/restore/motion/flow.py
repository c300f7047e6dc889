"""Pyramids of pictures of any depth, and motion that goes on along other motion."""

import numpy as np

from carfilter.pictures import Luma
from carfilter.restore.motion import kernels
from carfilter.restore.motion.arrays import Field, Pyramid


def pyramid(luma: Luma, depth: int) -> Pyramid:
    """Return the pyramid of a picture [H, W] at 8 bits a sample."""
    pixels = luma if luma.dtype == np.uint8 else luma >> (depth - 8)
    return kernels.pyramid(np.ascontiguousarray(pixels, np.uint8))


def composed(first: Field | None, second: Field | None) -> Field | None:
    """Return the motion along one field and then, from where it leads, along another."""
    if first is None or second is None:
        return second if first is None else first
    return kernels.compose(first, second)
