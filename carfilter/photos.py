"""Photographs as short clips: a slow pan and zoom with sub-pixel steps (numpy alone)."""

import numpy as np
import numpy.typing as npt

from carfilter.errors import MediaError

_PHOTO_SIZE = (320, 240)


def pan_and_zoom(
    photo: npt.NDArray[np.uint8], frames: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return a clip uint8 [frames, H, W] that moves slowly over a photograph.

    Its picture is at most 320x240 (240x320 for upright ones), in multiples of 16, and never
    magnified; up to two pixels of pan and half a per cent of zoom from frame to frame.
    """
    rows, columns = photo.shape
    long, short = _PHOTO_SIZE
    limit_height, limit_width = (short, long) if columns >= rows else (long, short)
    height, width = (min(limit_height, rows) // 16 * 16, min(limit_width, columns) // 16 * 16)
    if not height or not width:
        raise MediaError(f"a picture of {columns}x{rows} pixels is too small; take larger ones")
    room = min(rows / height, columns / width)
    scale = 1 + (room - 1) * rng.random()
    step = rng.uniform(-2, 2, 2) * min(1.0, room - 1 + 0.25)
    zoom = 1 + rng.uniform(-0.005, 0.005)
    centre = np.array([rng.uniform(0, rows), rng.uniform(0, columns)])
    clip = np.empty((frames, height, width), np.uint8)
    for index in range(frames):
        now = min(max(scale * zoom**index, 1.0), room)
        half = np.array([height, width]) * now / 2
        middle = np.clip(centre + step * now * index, half, np.array([rows, columns]) - half)
        by_rows = _resampler(rows, height, middle[0] - half[0], now)
        by_columns = _resampler(columns, width, middle[1] - half[1], now)
        view = by_rows @ photo.astype(np.float32) @ by_columns.T
        clip[index] = np.rint(view).clip(0, 255).astype(np.uint8)
    return clip


def _resampler(inputs: int, outputs: int, start: float, scale: float) -> npt.NDArray[np.float32]:
    """Return [outputs, inputs] weights of cubic (a = -0.5) sampling, widened when it shrinks.

    Keys, "Cubic convolution interpolation", IEEE TASSP 29(6), 1981, equation 4.
    """
    centre = start + (np.arange(outputs)[:, None] + 0.5) * scale - 0.5
    x = np.abs(np.arange(inputs)[None] - centre) / max(scale, 1.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
