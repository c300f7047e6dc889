"""Motion between the pictures of a scene, each pair once, and pictures moved along it."""

from collections.abc import Sequence

from carfilter.pictures import Luma, Motion
from carfilter.restore.motion.arrays import STIFFNESS, Field, Pyramid
from carfilter.restore.motion.flow import composed, pyramid
from carfilter.restore.motion.kernels import estimate
from carfilter.restore.motion.move import moved_where_better

# Pyramids that are kept, the ones used last. Those of all that wait would take two fifths of the
# memory of their luma; to make one of 1920x1080 again takes 0.2 ms (one core of an AMD Zen 3).
_PYRAMIDS = 6
# Of good video a vector may follow what it finds; the coarser the QP, the more of that is coding
# noise, which matched with noise adds up. A step of the quantiser doubles with every 6 QP.
_MIDDLE_QP, _WITH_SIX = 35.0, 3.0
_REFINED = 2  # iterations, where the motion of the pictures between says where to look


class Scene:
    """The pictures of one scene, by their number in it, and the motion between them.

    Motion between neighbours is estimated; between pictures further off too, where that of the
    pictures between, composed, says where to look.
    """

    def __init__(self) -> None:
        self._lumas: dict[int, Luma] = {}
        self._qps: dict[int, float | None] = {}
        self._pyramids: dict[int, Pyramid] = {}
        self._depth = 8
        self._fields: dict[tuple[int, int], Field | None] = {}

    def add(self, number: int, luma: Luma, depth: int, qp: float | None = None) -> None:
        """Take up a picture [H, W], and its mean QP if that is known."""
        self._lumas[number], self._depth, self._qps[number] = luma, depth, qp

    def forget(self, kept: Sequence[int], done: int) -> None:
        """Drop all but some pictures, and what is known of those up to `done` and of no more use.

        What comes after them asks for motion from itself alone. Of theirs it needs that to the
        picture before each, that to any other from the nearest of them, and the last one's ahead.
        """
        known = set(kept)
        self._lumas = {n: luma for n, luma in self._lumas.items() if n in known}
        self._qps = {n: qp for n, qp in self._qps.items() if n in known}
        # By rising `at`, so that the last one stays.
        nearest = {other: at for at, other in sorted(self._fields) if other < at <= done}
        self._fields = {
            (at, other): field
            for (at, other), field in self._fields.items()
            if known.issuperset((at, other))
            and (at >= done or at - other == 1 or nearest.get(other) == at)
        }

    def moved(self, number: int, other: int) -> Luma:
        """Return another picture moved to where this one shows the same."""
        field = self.field(number, other)
        lumas = self._lumas[number], self._lumas[other]
        return moved_where_better(*lumas, field, self._depth)[0]

    def around(self, number: int) -> Motion:
        """Return where the blocks of a picture lie in the one before and the one after."""
        beside = [other if other in self._lumas else None for other in (number - 1, number + 1)]
        before, after = (None if one is None else self.field(number, one) for one in beside)
        return before, after

    def field(self, number: int, other: int) -> Field | None:
        """Return where each block of a picture lies in another one; None: all at its place."""
        step = 1 if other > number else -1
        begin = number
        while (begin, other) not in self._fields and begin + step != other:
            if begin + step not in self._lumas:
                break
            begin += step
        # From the nearest pair that is known, or is one of neighbours, to the one that is wanted.
        for at in range(begin, number - step, -step):
            if (at, other) not in self._fields:
                self._fields[at, other] = self._estimated(at, other, at + step)
        return self._fields[number, other]

    def _estimated(self, number: int, other: int, between: int) -> Field | None:
        pyramids = self._pyramid(number), self._pyramid(other)
        stiffness = self._stiffness(number, other)
        if between == other:
            step = between - number
            guess = self._fields.get((number - 1, number - 1 + step))
            return estimate(*pyramids, guess, stiffness)
        if (between, other) not in self._fields:
            return estimate(*pyramids, None, stiffness)
        guess = composed(self.field(number, between), self._fields[between, other])
        return estimate(*pyramids, guess, stiffness, _REFINED)

    def _stiffness(self, number: int, other: int) -> float:
        """Return how a vector is held between two pictures, by their mean QP."""
        first, second = self._qps[number], self._qps[other]
        if first is None or second is None:
            return STIFFNESS
        return float(STIFFNESS * _WITH_SIX ** (((first + second) / 2 - _MIDDLE_QP) / 6))

    def _pyramid(self, number: int) -> Pyramid:
        made = self._pyramids.pop(number, None) or pyramid(self._lumas[number], self._depth)
        self._pyramids[number] = made  # the last one is the one that was used last
        if len(self._pyramids) > _PYRAMIDS:
            del self._pyramids[next(iter(self._pyramids))]
        return made
