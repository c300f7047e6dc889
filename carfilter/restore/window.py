"""Which other frames help to restore a frame: the key frames around it and its neighbours.

A fixed camera codes the same scene again and again, each key frame better than the frames between
and with quantisation noise of its own. Training and filtering choose references by the one rule
of this module; it knows frame types, QPs and positions, not pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

REFERENCES = 6
"""Slots: key frames before (nearest, second), key frames after (likewise), previous, next."""

PAST_SLOTS = (0, 1, 4)
KEY = 1  # frame type I
NEAR = 8  # frames in which a better-coded one may stand in for a key frame that is not there
_CLEARLY = 2.0  # QP steps by which it has to be better
_TYPE_RANKS = {1: 0.0, 2: 3.0, 3: 6.0}  # stands for the QP where the decoder exports none


@dataclass(frozen=True, slots=True)
class Coding:
    """How a frame was coded, as far as the decoder said."""

    frame_type: int  # 1, 2, 3 are I, P, B; 0 is unknown
    mean_qp: float | None = None

    @property
    def rank(self) -> float | None:
        """Lower is better; comparable between frames of one stream only."""
        return _TYPE_RANKS.get(self.frame_type) if self.mean_qp is None else self.mean_qp


def choose(codings: Sequence[Coding], at: int) -> list[int | None]:
    """Return the index of the frame in each of the REFERENCES slots for frame `at`, or None.

    Args:
        codings: of the frames to choose from, in presentation order; what is not to be used, since
            it lies beyond the look-ahead or another scene, is not among them.
    """
    before = _anchors(codings, at, range(at - 1, -1, -1))
    after = _anchors(codings, at, range(at + 1, len(codings)))
    previous = at - 1 if at > 0 else None
    following = at + 1 if at + 1 < len(codings) else None
    return [*before, *after, previous, following]


def _anchors(codings: Sequence[Coding], at: int, order: range) -> list[int | None]:
    """Return two frames along `order`: key frames, else near ones that are coded clearly better."""
    keys = _first_two(index for index in order if codings[index].frame_type == KEY)
    own = codings[at].rank
    if len(keys) < 2 and own is not None:
        near = (index for index in order[1:NEAR] if _is_better(codings[index], own))
        keys += _first_two(index for index in near if index not in keys)
    return [*keys[:2], *[None] * (2 - len(keys[:2]))]


def _is_better(coding: Coding, own: float) -> bool:
    return coding.rank is not None and coding.rank <= own - _CLEARLY


def _first_two(indices: Iterator[int]) -> list[int]:
    return list(islice(indices, 2))
