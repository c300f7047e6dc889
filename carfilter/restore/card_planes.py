"""Pictures averaged over time on CUDA, with the look-ahead that waits kept there.

The same as carfilter.restore.planes does on a CPU, within one grey level. Each picture crosses the
bus once to come and once, averaged, to go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from carfilter.errors import DeviceError
from carfilter.pictures import Luma
from carfilter.restore.failures import in_a_line, is_device_failure, is_out_of_memory
from carfilter.restore.hand import hand
from carfilter.restore.planes import KERNEL, Linked
from carfilter.restore.samples import as_float

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Link:
    """What links() gives: a picture on the card, and what goes on to it from the one before."""

    luma: Tensor  # uint8, or int16 that carries uint16, [H, W]
    share: Tensor  # float32 [H, W]


class CardPlanes:
    """Averaging on a card; see carfilter.restore.planes.Averaging."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        make: Any = torch.cuda.Stream  # torch does not type its constructor
        self._stream = make(device)
        self._last: tuple[Luma, Tensor] | None = None  # the picture that was linked last

    def links(self, before: Luma, luma: Luma, depth: int, level: float, decay: float) -> _Link:  # noqa: ARG002 (the table of a CPU needs the depth)
        """See planes.links(); starts it, and waits for nothing."""
        known = self._last is not None and self._last[0] is before
        given = [luma] if known else [luma, before]
        pinned = [_pinned(one) for one in given]

        def start() -> _Link:
            with torch.cuda.stream(self._stream):
                here, *other = (one.to(self._device, non_blocking=True) for one in pinned)
                earlier = other[0] if other or self._last is None else self._last[1]
                return _Link(here, _likeness(earlier, here, level) * decay)

        link = self._do(start)
        self._last = luma, link.luma
        return link

    def average(self, pictures: Sequence[Linked], amounts: Sequence[float], past: Tensor) -> Any:
        """See planes.average(); `past` is what nothing() gave."""
        unlinked = {i: _pinned(one.luma) for i, one in enumerate(pictures) if one.link is None}
        kind = torch.uint8 if pictures[0].luma.itemsize == 1 else torch.int16
        host = torch.empty((len(amounts), *past.shape[1:]), dtype=kind, pin_memory=True)
        new_event: Any = torch.cuda.Event
        done = new_event()

        def start() -> None:
            with torch.cuda.stream(self._stream):
                there = {i: one.to(self._device, non_blocking=True) for i, one in unlinked.items()}
                links: list[Any] = [one.link for one in pictures]
                lumas = [
                    as_float(there[i] if one is None else one.luma) for i, one in enumerate(links)
                ]
                shares = [None if one is None else one.share for one in links]
                made = _averages(lumas, shares, amounts, past)
                host.copy_(torch.stack(made).to(torch.int32).to(kind), non_blocking=True)
                done.record(self._stream)

        self._do(start)
        self._do_here(done.synchronize)
        dtype: Any = pictures[0].luma.dtype
        return [plane.numpy().view(dtype) for plane in host]

    def nothing(self, shape: tuple[int, ...]) -> Tensor:
        """Return the past of a picture that has none."""

        def start() -> Tensor:
            with torch.cuda.stream(self._stream):
                return torch.zeros((2, *shape), device=self._device)

        return self._do(start)

    def _do(self, work: Callable[[], T]) -> T:
        return self._do_here(lambda: hand().do(torch.inference_mode()(work)))

    def _do_here(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise DeviceError(
                    f"out of memory on {self._device} while averaging over time; give a smaller"
                    " --lookahead or --batch, or use --device cpu"
                ) from error
            if is_device_failure(error):
                raise DeviceError(
                    f"{self._device} has failed ({in_a_line(error)}); look at it with nvidia-smi"
                    " and in the system's log, or use --device cpu"
                ) from error
            raise


def _pinned(luma: Luma) -> Tensor:
    plane: Any = np.ascontiguousarray(luma)
    return torch.from_numpy(plane.view(np.uint8 if plane.itemsize == 1 else np.int16)).pin_memory()


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
