"""The inner loops of motion: int8/motion.c where it was compiled, plain.py elsewhere.

Both give the same bits.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.restore.int8.kinds import usable_kinds
from carfilter.restore.int8.library import load_library
from carfilter.restore.motion import plain
from carfilter.restore.motion.arrays import (
    BLOCK,
    EDGE,
    ITERATIONS,
    STIFFNESS,
    Errors,
    Field,
    Filters,
    Level,
    Vectors,
)


class _Level(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("height", "width", "row", "edge")),
    )


class _Search(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "columns", "iterations")),
        ("stiffness", ctypes.c_float),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the library with motion.c, or None where there is none for this CPU."""
    libraries = map(load_library, usable_kinds())
    found = next((one for one in libraries if one is not None), None)
    return found if hasattr(found, "carfilter_motion_search") else None


def _at(array: npt.NDArray[Any] | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _level(level: Level) -> Any:
    pixels = level.inner.ctypes.data
    return ctypes.byref(_Level(pixels, *level.shape, level.padded.shape[1], EDGE))


def halved(pixels: npt.NDArray[np.uint8]) -> Level:
    """Return a picture or level [H, W], whose rows may lie apart, at half its size."""
    code = library()
    if code is None:
        return Level(plain.halve(pixels))
    height, width = pixels.shape
    padded = np.empty((-(-height // 2) + 2 * EDGE, -(-width // 2) + 2 * EDGE), np.uint8)
    level = Level(padded)
    code.carfilter_motion_halve(
        _at(pixels), height, width, pixels.strides[0], _at(level.inner), padded.shape[1], EDGE
    )
    return level


def search(target: Level, reference: Level, guesses: list[Vectors]) -> tuple[Vectors, Errors]:
    """Return the vector of each cell of a level, and how far its patch then differs.

    Args:
        guesses: up to two of each vector besides no motion; the best is where it starts.
    """
    code = library()
    if code is None:
        return plain.search(target, reference, guesses)
    rows, columns = target.cells
    vectors = np.empty((rows, columns, 2), np.float32)
    errors = np.empty((rows, columns, 4, 4), np.uint16)
    first, second = (*guesses, None, None)[:2]
    told = _Search(rows, columns, ITERATIONS, STIFFNESS)
    code.carfilter_motion_search(
        _level(target), _level(reference), ctypes.byref(told),
        _at(first), _at(second), _at(vectors), _at(errors),
    )  # fmt: skip
    return vectors, errors


def blend(vectors: Vectors, errors: Errors, scale: float) -> Vectors:
    """Return the vector of each 2x2 pixels, times `scale`: [2 rows, 2 columns, 2].

    It is the mean of those of the patches that cover them, by how well they explain them.
    """
    code = library()
    if code is None:
        return plain.blend(vectors, errors, scale)
    rows, columns = vectors.shape[:2]
    blended = np.empty((2 * rows, 2 * columns, 2), np.float32)
    code.carfilter_motion_blend(
        _at(vectors), _at(errors), rows, columns, ctypes.c_float(scale), _at(blended)
    )
    return blended


def move(other: Any, field: Field, filters: Filters, most: int) -> Any:
    """Return another picture [H, W] moved along a field; `most` is the largest sample."""
    code = library()
    if code is None:
        return plain.move(other, field, filters, most)
    other, field = np.ascontiguousarray(other), np.ascontiguousarray(field)
    moved = np.empty_like(other)
    moving = _of(code, other, "move")
    moving(_at(other), *other.shape, _at(field), field.shape[1], _at(filters), most, _at(moved))
    return moved


def apart(one: Any, other: Any) -> npt.NDArray[np.int32]:
    """Return the sum of absolute differences in each block, [ceil(H/4), ceil(W/4)]."""
    code = library()
    if code is None:
        return plain.apart(one, other)
    one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
    blocks = np.empty([-(-side // BLOCK) for side in one.shape], np.int32)
    _of(code, one, "apart")(_at(one), _at(other), *one.shape, _at(blocks))
    return blocks


def _of(code: ctypes.CDLL, plane: npt.NDArray[Any], name: str) -> Any:
    return getattr(code, f"carfilter_motion_{name}{8 * plane.itemsize}")
