"""Photographs as short clips: a slow pan and zoom, or a fixed view that others cross (numpy)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carfilter.errors import MediaError

_PHOTO_SIZE = (320, 240)
_LEAST_PIECE = 16  # pixels high and wide, where the pictures are large enough


def pan_and_zoom(
    photo: npt.NDArray[np.uint8], frames: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return a clip uint8 [frames, H, W] that moves slowly over a photograph.

    Its picture is at most 320x240 (240x320 for upright ones), in multiples of 16, and never
    magnified; up to two pixels of pan and half a per cent of zoom from frame to frame.
    """
    rows, columns = photo.shape
    height, width = _clip_size(photo)
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


def still_scene(
    photo: npt.NDArray[np.uint8],
    others: Sequence[npt.NDArray[np.uint8]],
    frames: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Return a clip uint8 [frames, H, W] as of a fixed camera: the photograph does not move.

    A rounded piece of each of `others` crosses the view in a straight line, up to four pixels
    from frame to frame. Its size is that of pan_and_zoom().
    """
    rows, columns = photo.shape
    height, width = _clip_size(photo)
    scale = 1 + (min(rows / height, columns / width) - 1) * rng.random()
    top = rng.uniform(0, rows - height * scale)
    left = rng.uniform(0, columns - width * scale)
    by_rows, by_columns = (
        _resampler(rows, height, top, scale),
        _resampler(columns, width, left, scale),
    )
    scene = by_rows @ photo.astype(np.float32) @ by_columns.T
    clip = np.repeat(scene[None], frames, 0)
    for other in others:
        _cross(clip, other, rng)
    return np.rint(clip).clip(0, 255).astype(np.uint8)


def _cross(
    clip: npt.NDArray[np.float32], other: npt.NDArray[np.uint8], rng: np.random.Generator
) -> None:
    """Let a rounded piece of another photograph move over the clip, with sub-pixel steps."""
    frames, height, width = clip.shape
    most = min(height, width, *other.shape) // 2
    if most < 2:
        return  # nothing of it would be seen
    high, wide = rng.integers(min(_LEAST_PIECE, most - 1), most, 2)
    top = rng.integers(0, other.shape[0] - high)
    left = rng.integers(0, other.shape[1] - wide)
    piece = other[top : top + high, left : left + wide].astype(np.float32)
    down, across = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    inside = np.clip((1 - np.hypot(down, across)) * min(high, wide) / 4, 0, 1).astype(np.float32)
    step = rng.uniform(-4, 4, 2) * rng.random()
    start = np.array([rng.uniform(0, height), rng.uniform(0, width)]) - step * frames / 2
    for index in range(frames):
        place = start + step * index
        by_rows = _placer(high, height, place[0] - high / 2)
        by_columns = _placer(wide, width, place[1] - wide / 2)
        mask = by_rows @ inside @ by_columns.T
        clip[index] += by_rows @ (piece * inside) @ by_columns.T - clip[index] * mask


def _placer(inputs: int, outputs: int, start: float) -> npt.NDArray[np.float32]:
    """Return [outputs, inputs] weights that put samples down from `start` on, linear in between."""
    distance = np.abs(np.arange(outputs)[:, None] - start - np.arange(inputs)[None])
    return np.asarray(np.clip(1 - distance, 0, 1), np.float32)


def _clip_size(photo: npt.NDArray[np.uint8]) -> tuple[int, int]:
    rows, columns = photo.shape
    long, short = _PHOTO_SIZE
    limit_height, limit_width = (short, long) if columns >= rows else (long, short)
    height, width = (min(limit_height, rows) // 16 * 16, min(limit_width, columns) // 16 * 16)
    if not height or not width:
        raise MediaError(f"a picture of {columns}x{rows} pixels is too small; take larger ones")
    return height, width


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
