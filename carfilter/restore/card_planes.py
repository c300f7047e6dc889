"""What is done with restored planes on CUDA, where the network left them.

The same as carfilter.restore.planes does on a CPU, within one grey level. All of it goes on in the
stream of the network, so that what is made for one step is there for the next, and its memory is
given to others no sooner than the steps before have ended; which thread starts a step does not
matter. Of the pictures only finished ones cross the bus.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from carfilter.errors import DeviceError
from carfilter.pictures import MACROBLOCK, Blocks, Luma
from carfilter.restore.failures import in_a_line, is_device_failure, is_out_of_memory
from carfilter.restore.motion import card
from carfilter.restore.motion.arrays import BLOCK, Field
from carfilter.restore.planes import KERNEL, Linked
from carfilter.restore.samples import as_float
from carfilter.restore.slots import streams

T = TypeVar("T")


class CardPlanes:
    """Planes on a card: uint8, or int16 that carries uint16, [H, W]; see planes.Planes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _, self._stream, self._download_stream = streams(device)

    def kept(self, plane: Tensor, last: Tensor, changed: Blocks) -> Tensor:
        """See planes.kept()."""
        if plane is last or changed.all():
            return plane
        marks = torch.from_numpy(changed).pin_memory()

        def start() -> Tensor:
            wide = card.spread(self._brought(marks), MACROBLOCK, plane.shape)
            return torch.where(wide, plane, last)

        return self._do(start)

    def weave(self, upper: Tensor, lower: Tensor) -> Tensor:
        """See carfilter.pictures.weave()."""
        return self._do(lambda: torch.stack((upper, lower), 1).flatten(0, 1))

    def moved(self, luma: Tensor, other: Tensor, field: Field, depth: int) -> tuple[Tensor, Tensor]:
        """See move.moved_where_better(); whether any block is moved is not waited for."""
        pinned = torch.from_numpy(field).pin_memory()

        def start() -> tuple[Tensor, Tensor]:
            return card.move(luma, other, self._brought(pinned), depth)

        return self._do(start)

    def links(
        self,
        before: Tensor,
        luma: Tensor,
        depth: int,  # noqa: ARG002 (the table of a CPU needs it)
        level: float,
        decay: float,
        where: Tensor | None = None,
    ) -> Tensor:
        """See planes.links(): float32 [H, W]."""

        def start() -> Tensor:
            shares = _likeness(before, luma, level) * decay
            return shares if where is None else shares * card.spread(where, BLOCK, luma.shape)

        return self._do(start)

    def average(
        self, pictures: Sequence[Linked], amounts: Sequence[float], past: Tensor | None
    ) -> list[Tensor]:
        """See planes.average(); `past` is what nothing() gave, or None."""

        def start() -> list[Tensor]:
            lumas = [as_float(one.luma) for one in pictures]
            before = lumas[0].new_zeros((2, *lumas[0].shape)) if past is None else past
            made = _averages(lumas, [one.link for one in pictures], amounts, before)
            return [one.to(torch.int32).to(pictures[0].luma.dtype) for one in made]

        return self._do(start)

    def nothing(self, shape: tuple[int, ...]) -> Tensor:
        """Return the past of a picture that has none."""
        return self._do(lambda: torch.zeros((2, *shape), device=self._device))

    def fetched(self, planes: Sequence[Tensor]) -> list[Luma]:
        """Return planes on the host, which they reach while the network goes on."""
        if not planes:
            return []
        first = planes[0]
        host = torch.empty((len(planes), *first.shape), dtype=first.dtype, pin_memory=True)
        new_event: Any = torch.cuda.Event  # torch does not type its constructor
        made, done = new_event(), new_event()

        def start() -> None:
            made.record(self._stream)
            with torch.cuda.stream(self._download_stream):
                self._download_stream.wait_event(made)
                for row, plane in zip(host, planes, strict=True):
                    row.copy_(plane, non_blocking=True)
                done.record(self._download_stream)

        self._do(start)
        self._told(done.synchronize)
        kind: Any = np.uint8 if first.dtype == torch.uint8 else np.uint16
        return [plane.numpy().view(kind) for plane in host]

    def _brought(self, pinned: Tensor) -> Tensor:
        return pinned.to(self._device, non_blocking=True)

    def _do(self, work: Callable[[], T]) -> T:
        """Start something in the network's stream; say in a sentence what a card's errors mean."""

        def start() -> T:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                return work()

        return self._told(start)

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise DeviceError(
                    f"out of memory on {self._device} while averaging over time; use --device cpu,"
                    " or give carfilter a smaller --lookahead or --batch"
                ) from error
            if is_device_failure(error):
                raise DeviceError(
                    f"{self._device} has failed ({in_a_line(error)}); look at it with nvidia-smi"
                    " and in the system's log, or use --device cpu"
                ) from error
            raise


def _likeness(before: Tensor, luma: Tensor, level: float) -> Tensor:
    apart = (as_float(luma) - as_float(before)).abs_()[None, None]
    around = torch.nn.functional.pad(apart, (1, 1, 1, 1), mode="replicate")[0, 0]
    rows = around[:-2] + 2 * around[1:-1] + around[2:]
    sums = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    return torch.exp(sums * (-1 / (KERNEL * level)))


def _averages(
    lumas: Sequence[Tensor],
    shares: Sequence[Tensor | None],
    amounts: Sequence[float],
    past: Tensor,
) -> list[Tensor]:
    later = torch.zeros_like(past)
    after: list[Tensor] = []
    for i in reversed(range(len(lumas))):
        if i < len(amounts):
            after.append(later.clone())
        share = shares[i]
        if share is None:
            later.zero_()
        else:
            later[0] += lumas[i]
            later[1] += 1
            later *= share
    made = []
    for luma, share, amount in zip(lumas, shares, amounts, strict=False):
        future = after.pop()
        past.mul_(0 if share is None else share)
        past[0] += luma
        past[1] += 1
        future += past
        made.append(torch.lerp(luma, future[0] / future[1], amount).round_())
    return made
