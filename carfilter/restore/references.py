"""The window of a multi-frame network: each picture goes on with the pictures that help it.

Of the past only what the window rule can ask for is kept; of the future as much as `lookahead`
and the bound in bytes allow. A scene cut or a change of size empties the memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from carfilter.pictures import Picture
from carfilter.restore.window import KEY, NEAR, Coding, choose

LOOKAHEAD_BYTES = 512 << 20
_THUMB = 8  # every so many-th line and sample is compared to tell a cut
_CUT_LEVELS = 32.0  # mean difference of two pictures, at 8 bits, that share no scene


@dataclass(frozen=True, slots=True)
class _Seen:
    picture: Picture
    coding: Coding


def with_references(
    pictures: Iterable[Picture], lookahead: int, most_bytes: int = LOOKAHEAD_BYTES
) -> Iterator[Picture]:
    """Yield the pictures with `references` in the slots of window.choose().

    Args:
        lookahead: pictures to wait for at most; 0 looks at the past alone.
        most_bytes: of luma that waits; what does not fit is done without.
    """
    past: list[_Seen] = []
    waiting: deque[_Seen] = deque()
    for picture in pictures:
        if waiting or past:
            before = waiting[-1] if waiting else past[-1]
            if _is_cut(before.picture, picture):
                yield from _emit(past, waiting, len(waiting))
                past.clear()
        waiting.append(_Seen(picture, _coding(picture)))
        yield from _emit(past, waiting, _ready(waiting, lookahead, most_bytes))
    yield from _emit(past, waiting, len(waiting))


def _emit(past: list[_Seen], waiting: deque[_Seen], count: int) -> Iterator[Picture]:
    for _ in range(count):
        known = [*past, *waiting]
        chosen = choose([seen.coding for seen in known], len(past))
        seen = waiting.popleft()
        # Past pictures go without their own references, or none would ever be let go.
        past.append(seen)
        _forget(past)
        yield replace(
            seen.picture,
            references=tuple(None if at is None else known[at].picture for at in chosen),
        )


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
