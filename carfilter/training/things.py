"""Where a detector sees something on the clean pictures, for crops to be aimed at."""

from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.detection.detector import Detector
from carfilter.training.dataset import THING, Pairs

_SPACING = 4  # frames from one that is searched to the next


def find_things(pairs: Pairs, detector: Detector) -> npt.NDArray[Any]:
    """Return what the detector sees on the clean pictures, THING [M], for draw_crops() to aim at.

    One frame in four is searched.
    """
    luma = pairs.luma.cpu().numpy()
    _, first = np.unique(pairs.shots["clean"], return_index=True)
    things = []
    for shot in pairs.shots[first]:
        start, height, width = (int(shot[name]) for name in ("clean", "height", "width"))
        for time in range(0, int(shot["frames"]), _SPACING):
            at = start + time * height * width
            plane = luma[at : at + height * width].reshape(height, width)
            full = ((plane.astype(np.float32) - 16) * (255 / 219)).clip(0, 255).astype(np.uint8)
            found = detector(np.repeat(full[..., None], 3, 2))
            for left, top, right, bottom in found.corners:
                area = max(float((right - left) * (bottom - top)), 1.0)
                centre = (top + bottom) / 2, (left + right) / 2
                things.append((start, time, *centre, area**-0.5))
    return np.array(things, THING)
