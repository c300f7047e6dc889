"""What the CPU does beside a network on a card: with one that costs nothing, the time of a frame.

Pictures are settled, get their references, are copied into a batch's buffers as far as the card
lacks them; which macroblocks changed goes along; finished pictures come back. What the card does of
it is left out: its results are copies.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from carfilter.pictures import Blocks, Luma, Picture, uniform_qp
from carfilter.restore.batches import batches, default_batch
from carfilter.restore.planes import Linked, Plane
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.reuse import Box
from carfilter.restore.ring import Ring
from carfilter.restore.slots import Slot
from carfilter.restore.weights import load_weights

from .rows import Row, bar, size_name
from .timing import seconds_of

_MOST_MS = 6.0
_CHANGED = 0.3  # share of the macroblocks that a picture changes


class _Free:
    """An engine whose network and card cost nothing."""

    precision, tile, halo, rounds_alike, on_cpu = "fp16", 0, 0, True, False
    ahead, busy_seconds, is_compiling = 0, 0.0, False

    def __init__(self, references: int, size: tuple[int, int]) -> None:
        self.batch_size, self._references = default_batch("cuda", size), references
        self._slot: Slot | None = None

    def describe(self, depth: int = 8) -> str:  # noqa: ARG002 (it computes nothing)
        return "nothing"

    def working(self) -> AbstractContextManager[object]:
        return nullcontext()

    def planes(self) -> "_Free":
        return self

    def start_box(self, picture: Picture, box: Box) -> Callable[[], Luma]:
        raise NotImplementedError

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        for batch in batches(pictures, lambda: self.batch_size):
            cpu = torch.device("cpu")
            if self._slot is None:
                count = self.batch_size * (1 + self._references) + 8
                ring = Ring(cpu, count, batch[0].luma.shape, torch.uint8)
                self._slot = Slot(cpu, batch, self.batch_size, self._references, ring)
            slot = self._slot
            slot.fill(batch, with_qp=True)
            slot.store(slot.inputs().luma.clone())
            yield from slot.results()

    def kept(self, plane: Plane, last: Plane, changed: Blocks) -> Plane:  # noqa: ARG002
        torch.from_numpy(changed).clone()  # to where the bus takes it from
        return plane

    def links(self, *_: object) -> None:
        return None

    def average(
        self,
        pictures: Sequence[Linked],
        amounts: Sequence[float],
        past: Any,  # noqa: ARG002
    ) -> list[Plane]:
        return [one.luma for one in pictures[: len(amounts)]]

    def nothing(self, shape: tuple[int, ...]) -> Any:  # noqa: ARG002
        return None

    def fetched(self, planes: Sequence[Plane]) -> list[Luma]:
        return list(torch.stack(tuple(planes)).numpy()) if planes else []


def measure(size: tuple[int, int], frames: int) -> list[Row]:
    """Time `best` on a fixed camera, without decoding and encoding."""
    shown = _camera(size, frames)
    restorer = Restorer(load_weights("best"), RestoreOptions("cpu"), size)
    free: Any = _Free(restorer.references, size)
    restorer.engine = free
    restorer._reuse._whole, restorer._reuse._part = free.restore, None

    def restore() -> None:
        deque(restorer.restore(shown), maxlen=0)

    restore()
    ms = min(seconds_of(restore) for _ in range(3)) * 1e3 / frames
    what = f"best, {size_name(size)}, a fixed camera: ms a frame, the network left out"
    row = {"part": "beside", "size": size_name(size), "frames": frames, "ms_per_frame": ms}
    return [row, bar(what, ms, _MOST_MS, most=True)]


def _camera(size: tuple[int, int], frames: int) -> list[Picture]:
    """A still scene of which some macroblocks are coded anew in each picture, at a coarse QP."""
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, size, dtype=np.uint8)
    qp, pictures = uniform_qp(size, 33), []
    for i in range(frames):
        luma = luma.copy()
        for top, left in np.argwhere(rng.random(qp.shape) < _CHANGED) * 16:
            luma[top : top + 16, left : left + 16] ^= 1
        pictures.append(Picture(luma, qp=qp, frame_type=1 if i % 25 == 0 else 2))
    return pictures
