"""Decoded pictures on a card, each of which crosses the bus once however many others it helps."""

import weakref
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from carfilter.pictures import Luma


class Ring:
    """The latest planes [H, W] that were brought to a device; the least used makes room.

    Where a plane lies is known on the host as soon as it is asked for; it has to be brought there
    in the order in which it was asked for.

    Args:
        count: of planes; at least as many as are asked for before they are used.
        dtype: uint8, or int16 that carries uint16.
    """

    def __init__(
        self, device: torch.device, count: int, shape: Sequence[int], dtype: torch.dtype
    ) -> None:
        self.planes: Tensor = torch.empty((count, *shape), dtype=dtype, device=device)
        self._free = list(range(count))
        # By the identity of the array, which nobody else can have while it lives.
        self._places: OrderedDict[int, tuple[weakref.ref[Luma], int]] = OrderedDict()

    def fits(self, count: int, shape: Sequence[int], dtype: torch.dtype) -> bool:
        """Say whether so many planes of that kind have room."""
        planes = self.planes
        return len(planes) >= count and planes.shape[1:] == shape and planes.dtype == dtype

    def place(self, luma: Luma) -> tuple[int, bool]:
        """Return where a plane lies, and whether it has yet to be brought there."""
        known = self._places.pop(id(luma), None)
        if known is not None:
            at, is_here = known[1], known[0]() is luma
        else:
            is_here = False
            at = self._free.pop() if self._free else self._places.popitem(last=False)[1][1]
        self._places[id(luma)] = weakref.ref(luma), at
        return at, not is_here
