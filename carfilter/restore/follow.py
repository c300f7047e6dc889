"""Restored pictures of what moves, averaged with those before and after along the motion.

What is coded anew in each picture has other errors in each, which average out, as they do where a
camera keeps still (carfilter.restore.steady). Only blocks that are clearly more alike once they are
moved take part, so that what keeps still is left to that; and only as far as a pixel is like the
neighbours', by a measure that grows with the QP: of good video more would be lost than won. Two
neighbours give nearly all that there is to win, and nothing is moved more than once. Of the past
alone there is one, which goes in as it came out, so that a little of those before it does too.
"""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carfilter.restore.motion.arrays import Field
from carfilter.restore.planes import (
    CpuPlanes,
    Linked,
    Plane,
    Planes,
    compiled,
    in_rows,
    share_table,
)
from carfilter.restore.steady import Restored

_SHARE = 1.0  # of a neighbour that is equal, to the picture itself
# Levels, as in links(), by which a neighbour differs that goes in with 1/e of that share: none up
# to a mean QP, and so much more with each step from there.
_GOOD_QP, _LEVEL = 29, 0.7


class _Along(ctypes.Structure):
    _fields_ = (
        ("luma", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 2),
        ("marks", ctypes.c_void_p * 2),
        *((n, ctypes.c_void_p) for n in ("table", "average")),
        ("luma_row", ctypes.c_int64),
        *((n, ctypes.c_int32) for n in ("height", "width", "most")),
        ("amount", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class Beside:
    """A neighbour of a picture, moved to where that shows the same, and its blocks that are."""

    luma: Plane
    moving: Any  # Marks on a CPU


def followed(
    pictures: Iterable[Restored],
    lookahead: int,
    strength: float = 1.0,
    planes: Planes | None = None,
) -> Iterator[Restored]:
    """Yield the pictures, what moves in them averaged with the pictures beside them.

    Args:
        lookahead: 0 averages with the past alone; else one picture is waited for.
        strength: 0..1, how much of the way to the average a picture goes.
        planes: works on them; None is this CPU.
    """
    planes = planes or CpuPlanes()
    earlier: Plane | None = None
    waiting: Restored | None = None
    last: Plane | None = None  # that came out
    for picture in pictures:
        if waiting is not None:
            last = _averaged(planes, waiting, (earlier, picture.luma), strength, last)
            yield replace(waiting, luma=last)
            earlier = waiting.luma
        if lookahead:
            waiting = picture
        else:
            earlier = last = _averaged(planes, picture, (earlier, None), strength, last)
            yield replace(picture, luma=last)
    if waiting is not None:
        last = _averaged(planes, waiting, (earlier, None), strength, last)
        yield replace(waiting, luma=last)


def _averaged(
    planes: Planes,
    picture: Restored,
    neighbours: tuple[Plane | None, Plane | None],
    strength: float,
    last: Plane | None,
) -> Plane:
    if picture.still == 1.0 and last is not None:
        return last  # a picture that is shown again stays the same
    level = _LEVEL * (0 if picture.qp is None else round(picture.qp) - _GOOD_QP)
    if level <= 0:
        return picture.luma
    beside = [
        _moved(planes, picture, other, field)
        for other, field in zip(neighbours, picture.motion, strict=True)
    ]
    if not any(beside):
        return picture.luma
    level *= 1 << (picture.depth - 8)
    return along(planes, picture.luma, beside, picture.depth, level, strength)


def _moved(
    planes: Planes, picture: Restored, other: Plane | None, field: Field | None
) -> Beside | None:
    """Return a neighbour moved to where the picture shows the same."""
    if other is None or field is None or other.shape != picture.luma.shape:
        return None
    moved, moving = planes.moved(picture.luma, other, field, picture.depth)
    return None if moving is None else Beside(moved, moving)


def along(
    planes: Planes,
    luma: Plane,
    beside: Sequence[Beside | None],
    depth: int,
    level: float,
    amount: float,
) -> Plane:
    """Return a picture [H, W] averaged with the one before and the one after it.

    Args:
        depth: bits of a sample.
        level: see planes.links().
        amount: how much of the way to the average it goes, 0..1.
    """
    library = compiled() if isinstance(luma, np.ndarray) else None
    if library is None or not in_rows(luma):
        before, after = (
            None
            if one is None
            else Linked(one.luma, planes.links(one.luma, luma, depth, level, _SHARE, one.moving))
            for one in beside
        )
        return _between(planes, luma, before, after, amount)
    table, average = share_table(depth, level, _SHARE), np.empty(luma.shape, luma.dtype)
    lumas = [None if one is None else np.ascontiguousarray(one.luma) for one in beside]
    marks = [None if one is None else np.ascontiguousarray(one.moving) for one in beside]
    two = ctypes.c_void_p * 2
    given = _Along(
        luma=luma.ctypes.data, luma_row=luma.strides[0] // luma.itemsize,
        others=two(*(None if one is None else one.ctypes.data for one in lumas)),
        marks=two(*(None if one is None else one.ctypes.data for one in marks)),
        table=table.ctypes.data, average=average.ctypes.data, most=len(table) - 1,
        height=luma.shape[0], width=luma.shape[1], amount=amount,
    )  # fmt: skip
    getattr(library, f"carfilter_planes_along_{8 * luma.itemsize}")(ctypes.byref(given))
    return average


def _between(
    planes: Planes, luma: Plane, before: Linked | None, after: Linked | None, amount: float
) -> Plane:
    run = [Linked(luma, None if before is None else before.link)]
    if before is not None:
        run.insert(0, Linked(before.luma, None))
    if after is not None:
        run.append(after)
    amounts = [0.0] * (before is not None) + [amount]
    return planes.average(run, amounts, None)[-1]
