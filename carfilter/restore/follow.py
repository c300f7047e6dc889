"""Restored pictures of what moves, averaged with those before and after along the motion.

What is coded anew in each picture has other errors in each, which average out, as they do where a
camera keeps still (carfilter.restore.steady). Only blocks that are clearly more alike once they are
moved take part, so that what keeps still is left to that; and only as far as a pixel is like the
neighbours', by a measure that grows with the QP: of good video more would be lost than won. Two
neighbours give nearly all that there is to win, and nothing is moved more than once. Of the past
alone there is one, which goes in as it came out, so that a little of those before it does too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from carfilter.restore.motion.arrays import Field
from carfilter.restore.planes import Beside, CpuPlanes, Plane, Planes
from carfilter.restore.steady import Restored

_SHARE = 1.0  # of a neighbour that is equal, to the picture itself
# Levels, as in links(), by which a neighbour differs that goes in with 1/e of that share: none up
# to a mean QP, and so much more with each step from there.
_GOOD_QP, _LEVEL = 29, 0.7


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
    return planes.along(picture.luma, beside, picture.depth, level, _SHARE, strength)


def _moved(
    planes: Planes, picture: Restored, other: Plane | None, field: Field | None
) -> Beside | None:
    """Return a neighbour moved to where the picture shows the same."""
    if other is None or field is None or other.shape != picture.luma.shape:
        return None
    moved, moving = planes.moved(picture.luma, other, field, picture.depth)
    return None if moving is None else Beside(moved, moving)
