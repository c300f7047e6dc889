"""Pyramids of pictures of any depth, and motion that goes on along other motion."""

import numpy as np

from carfilter.pictures import Luma
from carfilter.restore.motion import kernels
from carfilter.restore.motion.arrays import BLOCK, STEPS, Field, Pyramid


def pyramid(luma: Luma, depth: int) -> Pyramid:
    """Return the pyramid of a picture [H, W] at 8 bits a sample."""
    pixels = luma if luma.dtype == np.uint8 else luma >> (depth - 8)
    return kernels.pyramid(np.ascontiguousarray(pixels, np.uint8))


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
