"""Pictures of cameras that move, and of what moves before fixed ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from carfilter.pictures import Luma
from carfilter.restore.motion import kernels
from carfilter.restore.motion.scene import Scene


def ground(height: int, width: int) -> npt.NDArray[np.float64]:
    """Hills and edges of all sizes, in 40..215."""
    rng = np.random.default_rng(3)
    plane = np.zeros((height, width))
    for size in (4, 8, 16, 32):
        rough = rng.normal(0, size, (height // size + 2, width // size + 2))
        wide = rough.repeat(size, 0).repeat(size, 1)
        plane += wide[:height, :width]
    for axis in (0, 1):
        plane = (np.roll(plane, 1, axis) + 2 * plane + np.roll(plane, -1, axis)) / 4
    return (40 + 175 * (plane - plane.min()) / np.ptp(plane)).clip(0, 255)


def pan(count: int, size: tuple[int, int], step: tuple[float, float], depth: int = 8) -> list[Luma]:
    """Pictures of a camera that turns by (x, y) pixels a picture, between pixels as well."""
    height, width = size
    wide = ground(height + 80, width + 160)
    pictures: list[Luma] = []
    for number in range(count):
        x, y = (number * part for part in step)
        top, left = int(y), int(x)
        down, right = y - top, x - left
        near = [
            wide[top + i : top + i + height, left + j : left + j + width]
            for i in (0, 1)
            for j in (0, 1)
        ]
        upper, lower = (near[i] * (1 - right) + near[i + 1] * right for i in (0, 2))
        mixed = (upper * (1 - down) + lower * down) * (1 << (depth - 8))
        pictures.append(mixed.round().astype(np.uint8 if depth == 8 else np.uint16))
    return pictures


def passing(count: int, size: tuple[int, int], depth: int = 8) -> list[Luma]:
    """Pictures of a fixed camera, before which something of 40x56 pixels goes to the right."""
    still, thing = (pan(1, size, (0, 0), depth)[0] for _ in range(2))
    thing = thing[::-1, ::-1][:40, :56]
    pictures = [still.copy() for _ in range(count)]
    for number, picture in enumerate(pictures):
        picture[24:64, 16 + 3 * number : 72 + 3 * number] = thing
    return pictures


@contextmanager
def without_compiler() -> Iterator[None]:
    """Compute as where motion.c could not be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "library", lambda: None)
        yield


def scene_of(pictures: list[Luma], depth: int = 8, qp: float | None = None) -> Scene:
    scene = Scene()
    for number, luma in enumerate(pictures):
        scene.add(number, luma, depth, qp)
    return scene
