"""What takes time in motion: int8/motion.c and move.c where compiled, plain.py elsewhere.

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
    CELL,
    ITERATIONS,
    NOISE,
    STIFFNESS,
    Field,
    Filters,
    Marks,
    Pyramid,
)

_MOST = round(NOISE * CELL * CELL)


class _Estimate(ctypes.Structure):
    """How pictures are searched.

    height, width: of the pictures. levels: of their pyramids.
    most: levels that a cell may differ by in sum and not be searched. iterations: at most.
    stiffness: see arrays.STIFFNESS.
    """

    _fields_ = (
        *((n, ctypes.c_int32) for n in ("height", "width", "levels", "most", "iterations")),
        ("stiffness", ctypes.c_float),
    )


class _Move(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_void_p) for n in ("picture", "reference", "field", "filters")),
        *((n, ctypes.c_int32) for n in ("height", "width", "most")),
    )


@cache
def library() -> Any:
    """Return the library with motion.c and move.c, or None where there is none for this CPU."""
    libraries = map(load_library, usable_kinds())
    found = next((one for one in libraries if one is not None), None)
    if found is None or not hasattr(found, "carfilter_motion_compose"):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    found.carfilter_motion_pyramid.argtypes = (
        *(pointer, number, number, ctypes.c_int64),
        *(number, pointer),
    )
    found.carfilter_motion_pyramid.restype = None
    found.carfilter_motion_field.argtypes = (pointer,) * 5
    for bits in (8, 16):
        getattr(found, f"carfilter_motion_follow{bits}").argtypes = (pointer,) * 3
    found.carfilter_motion_compose.argtypes = pointer, pointer, number, number, pointer
    found.carfilter_motion_compose.restype = None
    return found


def pyramid(pixels: npt.NDArray[np.uint8]) -> Pyramid:
    """Return the pyramid of a picture [H, W], whose rows may lie apart."""
    code, (height, width) = library(), pixels.shape
    made = Pyramid((height, width))
    if code is None:
        plain.fill(made, pixels)
    else:
        code.carfilter_motion_pyramid(
            pixels.ctypes.data, height, width, pixels.strides[0],
            len(made.sizes), made.pixels.ctypes.data,
        )  # fmt: skip
    return made


def estimate(
    picture: Pyramid,
    other: Pyramid,
    guess: Field | None = None,
    stiffness: float = STIFFNESS,
    iterations: int = ITERATIONS,
) -> Field | None:
    """Return where each block of a picture lies in another one of its size.

    Where the two are alike as they are, nothing is searched; None where they are so everywhere.

    Args:
        guess: where each is looked for, besides where it is and where the coarser level says.
        stiffness, iterations: see arrays.STIFFNESS and ITERATIONS.
    """
    code = library()
    if code is None:
        return plain.estimate(picture, other, plain.Search(_MOST, iterations, stiffness), guess)
    field: Field = np.empty((*picture.blocks, 2), np.int16)
    told = _Estimate(*picture.shape, len(picture.sizes), _MOST, iterations, stiffness)
    at = None if guess is None else np.ascontiguousarray(guess).ctypes.data
    pixels = picture.pixels.ctypes.data, other.pixels.ctypes.data
    found = code.carfilter_motion_field(*pixels, ctypes.byref(told), at, field.ctypes.data)
    _check(found)
    return field if found else None


def move(
    picture: Any, other: Any, field: Field, filters: Filters, depth: int
) -> tuple[Any, Marks] | None:
    """Return another picture [H, W], its blocks moved where that makes it like the picture.

    That is where the 3x3 blocks around, moved, differ by less than 4/5 of what they differed by.
    And which blocks are moved. None where none is.
    """
    code, most = library(), (1 << depth) - 1
    if code is None:
        moved, moving = plain.move(picture, other, field, filters, most)
        return (moved, moving) if moving.any() else None
    picture, other, field = (np.ascontiguousarray(one) for one in (picture, other, field))
    given = (one.ctypes.data for one in (picture, other, field, filters))
    told = _Move(*given, *other.shape, most)
    moved, moving = np.empty_like(other), np.empty(field.shape[:2], np.bool_)
    run = getattr(code, f"carfilter_motion_follow{8 * other.itemsize}")
    found = run(ctypes.byref(told), moving.ctypes.data, moved.ctypes.data)
    _check(found)
    return (moved, moving) if found else None


def compose(first: Field, second: Field) -> Field:
    """Return the motion along one field and then, from where it leads, along another."""
    code = library()
    if code is None:
        return plain.compose(first, second)
    first, second = (np.ascontiguousarray(field) for field in (first, second))
    both = np.empty_like(first)
    given = first.ctypes.data, second.ctypes.data, *first.shape[:2], both.ctypes.data
    code.carfilter_motion_compose(*given)
    return both


def _check(found: int) -> None:
    if found < 0:
        raise MemoryError("motion between pictures found no memory to work in")
