"""The window of a multi-frame network: each picture goes on with the pictures that help it.

They go along moved to where the picture shows the same (carfilter.restore.motion), or with how they
are to be moved, where that is done on a card. Of the past only
what the window rule can ask for is kept; of the future as much as `lookahead` and the bound in
bytes allow. A scene cut or a change of size empties the memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from carfilter.pictures import Picture
from carfilter.restore.motion.scene import Scene
from carfilter.restore.window import KEY, NEAR, Coding, choose

LOOKAHEAD_BYTES = 512 << 20
_THUMB = 8  # every so many-th line and sample is compared to tell a cut
_CUT_LEVELS = 32.0  # mean difference of two pictures, at 8 bits, that share no scene


@dataclass(frozen=True, slots=True)
class _Seen:
    picture: Picture
    coding: Coding
    number: int  # in the scene


def with_references(
    pictures: Iterable[Picture],
    lookahead: int,
    most_bytes: int = LOOKAHEAD_BYTES,
    *,
    moves: bool = True,
) -> Iterator[Picture]:
    """Yield the pictures with `references` in the slots of window.choose().

    Args:
        lookahead: pictures to wait for at most; 0 looks at the past alone.
        most_bytes: of luma that waits; what does not fit is done without.
        moves: references; else they have to be, `along` a field.
    """
    window = _Window(moves)
    for picture in pictures:
        if window.last is not None and _is_cut(window.last, picture):
            yield from window.emit(len(window.waiting))
            window = _Window(moves)
        window.add(picture)
        yield from window.emit(_ready(window.waiting, lookahead, most_bytes))
    yield from window.emit(len(window.waiting))


class _Window:
    """The pictures of one scene that are still of use, and their motion."""

    def __init__(self, moves: bool) -> None:
        self._moves = moves
        self.past: list[_Seen] = []
        self.waiting: deque[_Seen] = deque()
        self.last: Picture | None = None
        self._scene, self._count = Scene(), 0

    def add(self, picture: Picture) -> None:
        """Let a picture wait."""
        coding = _coding(picture)
        self.waiting.append(_Seen(picture, coding, self._count))
        qp = None if picture.qp_assumed else coding.mean_qp
        self._scene.add(self._count, picture.luma, picture.depth, qp)
        self._count += 1
        self.last = picture

    def emit(self, count: int) -> Iterator[Picture]:
        """Yield the pictures that wait longest, with their references."""
        for _ in range(count):
            known = [*self.past, *self.waiting]
            chosen = choose([seen.coding for seen in known], len(self.past))
            seen = self.waiting.popleft()
            references = tuple(
                None if at is None else self._moved(seen, known[at]) for at in chosen
            )
            # Past pictures go without their own references, or none would ever be let go.
            self.past.append(seen)
            _forget(self.past)
            motion = self._scene.around(seen.number) if _moves(seen.picture) else (None, None)
            yield replace(seen.picture, references=references, motion=motion)
            self._scene.forget([one.number for one in (*self.past, *self.waiting)], seen.number)

    def _moved(self, seen: _Seen, other: _Seen) -> Picture:
        """Return a reference moved to where the picture shows the same."""
        reference = other.picture
        if not _moves(seen.picture) or reference.interlaced:
            return reference
        if not self._moves:
            return replace(reference, along=self._scene.field(seen.number, other.number))
        return replace(reference, luma=self._scene.moved(seen.number, other.number))


def _moves(picture: Picture) -> bool:
    # The lines of an interlaced picture belong to two moments; what did not change at all keeps
    # its result and is not looked at.
    unchanged = picture.changed is not None and not picture.changed.any()
    return not (unchanged or picture.interlaced)


def _ready(waiting: deque[_Seen], lookahead: int, most_bytes: int) -> int:
    """Return how many of the waiting need not, or must not, wait for more."""
    size = waiting[-1].picture.luma.nbytes
    over = max(len(waiting) - min(lookahead, most_bytes // max(size, 1)), 0)
    keys = [at for at, seen in enumerate(waiting) if seen.coding.frame_type == KEY]
    # With two key frames ahead, and something ahead at all, a picture has all it can use.
    settled = keys[-2] if len(keys) >= 2 else 0
    return min(max(over, settled), len(waiting))


def _forget(past: list[_Seen]) -> None:
    """Keep the last two key frames and the last few pictures."""
    keys = [at for at, seen in enumerate(past) if seen.coding.frame_type == KEY][-2:]
    past[:] = [seen for at, seen in enumerate(past) if at in keys or at >= len(past) - NEAR]


def _coding(picture: Picture) -> Coding:
    return Coding(picture.frame_type, None if picture.qp is None else float(picture.qp.mean()))


def _is_cut(before: Picture, picture: Picture) -> bool:
    if before.luma.shape != picture.luma.shape or before.depth != picture.depth:
        return True
    first, second = (seen.luma[::_THUMB, ::_THUMB].astype(np.int32) for seen in (before, picture))
    return float(np.abs(first - second).mean()) > _CUT_LEVELS * (1 << (picture.depth - 8))
