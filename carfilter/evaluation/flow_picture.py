"""A picture of what moves between two frames, by the motion that `best` follows."""

import numpy as np
import numpy.typing as npt

from carfilter.restore.motion.arrays import BLOCK, STEPS
from carfilter.restore.motion.scene import Scene

_FASTEST = 99  # per cent of the blocks that move are no faster than the fullest colour
_TURN = 2 * np.pi


def flow_picture(
    before: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the motion from one luma plane, uint8 [H, W], to the next as colours.

    The hue is the direction: red to the right, green-yellow down, cyan to the left, violet up. The
    saturation is the speed; white keeps still.

    Returns:
        RGB, uint8 [ceil(H/4), ceil(W/4), 3], and the speed of full saturation in pixels a frame.
    """
    from PIL import Image

    scene = Scene()
    scene.add(0, before, 8)
    scene.add(1, now, 8)
    field = scene.field(1, 0)
    if field is None:
        field = np.zeros((*(-(-side // BLOCK) for side in now.shape), 2), np.int16)
    x, y = -np.moveaxis(field.astype(np.float64), 2, 0) / STEPS  # the field points back
    speed = np.hypot(x, y)
    moving = speed[speed > 0]
    fastest = float(np.percentile(moving, _FASTEST)) if moving.size else 0.0
    hue = np.arctan2(y, x) % _TURN / _TURN
    saturation = np.minimum(speed / max(fastest, 1.0), 1.0)
    hsv = np.stack((hue, saturation, np.ones_like(hue)), 2)
    colours = Image.fromarray((255 * hsv).round().astype(np.uint8), "HSV").convert("RGB")
    return np.asarray(colours), max(fastest, 1.0)
