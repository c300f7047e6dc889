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
    EDGE,
    ITERATIONS,
    STIFFNESS,
    Errors,
    Field,
    Filters,
    Level,
    Marks,
    Vectors,
    grown,
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


_MOVED = ("picture", "reference", "field", "moving", "near", "filters")


class _Move(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _MOVED),
        *((name, ctypes.c_int32) for name in ("height", "width", "columns", "most", "less")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the library with motion.c, or None where there is none for this CPU."""
    libraries = map(load_library, usable_kinds())
    found = next((one for one in libraries if one is not None), None)
    return found if hasattr(found, "carfilter_motion_follow8") else None


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


def differing(target: Level, reference: Level, most: int) -> Marks:
    """Return the cells whose pixels differ from those of another level by more than `most`."""
    code = library()
    if code is None:
        return plain.differing(target, reference, most)
    rows, columns = target.cells
    marks = np.empty((rows, columns), np.bool_)
    code.carfilter_motion_differing(
        _level(target), _level(reference), rows, columns, most, _at(marks)
    )
    return marks


def search(
    target: Level, reference: Level, marks: Marks, guesses: list[Vectors]
) -> tuple[Vectors, Errors]:
    """Return the vector of each cell of a level, and how far its patch then differs.

    Args:
        marks: where it is searched; elsewhere nothing moves, or differs.
        guesses: up to two of each vector besides no motion; the best is where it starts.
    """
    code = library()
    if code is None:
        return plain.search(target, reference, marks, guesses)
    rows, columns = target.cells
    vectors = np.empty((rows, columns, 2), np.float32)
    errors = np.empty((rows, columns, 4, 4), np.uint16)
    marks = np.ascontiguousarray(marks)
    first, second = (*guesses, None, None)[:2]
    told = _Search(rows, columns, ITERATIONS, STIFFNESS)
    code.carfilter_motion_search(
        _level(target), _level(reference), ctypes.byref(told),
        _at(marks), _at(first), _at(second), _at(vectors), _at(errors),
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


def move(
    picture: Any, other: Any, field: Field, filters: Filters, depth: int, less: int
) -> tuple[Any, Marks]:
    """Return another picture [H, W], its blocks moved where that makes it like the picture.

    That is where the 3x3 blocks around, moved, differ by less than 4/5 of what they differed by,
    less `less`/5. And which blocks are moved.
    """
    code, most = library(), (1 << depth) - 1
    if code is None:
        return plain.move(picture, other, field, filters, most, less)
    picture, other, field = (np.ascontiguousarray(one) for one in (picture, other, field))
    moving = field.view(np.int32)[..., 0] != 0
    given = (picture, other, field, moving, grown(moving), filters)
    of = _Move(*(one.ctypes.data for one in given), *other.shape, field.shape[1], most, less)
    moved, sums = np.empty_like(other), np.empty((2, *moving.shape), np.int32)
    run = getattr(code, f"carfilter_motion_follow{8 * other.itemsize}")
    run(ctypes.byref(of), _at(sums), _at(moved))
    return moved, moving
