"""Weights of the int8 networks in the order in which rows.c takes them.

All take int8 [out, in, 3, 3] of as many channels as a compiled rows.c has, and return flat bytes. A
kernel's row is one run of bytes there: the inputs of three neighbouring positions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_TAIL = 12  # outputs: three columns of its kernel x four samples of a cell

Bytes = npt.NDArray[np.int8]


class Dots:
    """For dots.h: groups of four inputs, an output after another."""

    channels = (32, 48)  # of the networks that are compiled
    taken = 0  # from each input before its product

    def head(self, weight: Bytes, inputs: int) -> Bytes:
        """Of a layer whose positions take `inputs` bytes."""
        return self._packed(_by_row(weight, inputs))

    def body(self, weight: Bytes) -> Bytes:
        """Of a layer between two others."""
        return self._packed(_by_row(weight, weight.shape[1]))

    def tail(self, weight: Bytes) -> Bytes:
        """Of the last layer: each column of its kernel is an output of its own."""
        columns = weight.transpose(2, 1, 3, 0).reshape(3, -1, _TAIL)
        return self._packed(np.pad(columns, ((0, 0), (0, 0), (0, 16 - _TAIL))))

    def _packed(self, rows: Bytes) -> Bytes:
        """int8 [3, bytes, out] to flat bytes."""
        return rows.reshape(3, -1, 4, rows.shape[-1]).swapaxes(2, 3).reshape(-1)


class SignedDots(Dots):
    """For products of signed bytes alone, see neon.h."""

    taken = 128


class Pairs(Dots):
    """For CPUs on which products of bytes saturate: two numbers of 16 bits in place of four bytes.

    Layers between two others are those of winograd.h.
    """

    _POINTS = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # 24 x G

    def body(self, weight: Bytes) -> Bytes:
        """Kernel rows x points x pairs of inputs x outputs."""
        points = np.array(self._POINTS, np.int16)
        at_points = np.einsum("oirc,pc->rpio", weight.astype(np.int16), points)
        return _as_bytes(at_points.reshape(3, len(points), -1, 2, len(weight)).swapaxes(3, 4))

    def _packed(self, rows: Bytes) -> Bytes:
        # Of each four the inputs 0 and 2 of eight outputs, then 1 and 3: as they are masked out.
        split = rows.reshape(3, -1, 2, 2, rows.shape[-1] // 8, 8).transpose(0, 1, 4, 3, 5, 2)
        return _as_bytes(split.astype(np.int16))


class Tiles:
    """For tiles.h: 64 inputs of 16 outputs in 1,024 bytes, in which four inputs lie together.

    A position takes 32 bytes of as many channels, and 64 of 48, in the order that the packs of
    tiles.h leave: quarters of four channels of each group of 16, and then zeros.
    """

    channels = (32, 48)
    taken = 0

    def head(self, weight: Bytes, inputs: int) -> Bytes:
        """Kernel rows x 64 bytes of three neighbouring positions x groups of outputs."""
        return self._packed(_by_row(weight, inputs))

    def body(self, weight: Bytes) -> Bytes:
        """The same of a layer between two others."""
        return self._packed(self._placed(weight).reshape(3, -1, len(weight)))

    def tail(self, weight: Bytes) -> Bytes:
        """A tile for each kernel row, whose outputs are columns x channels."""
        columns = _filled(self._placed(weight), axis=2)
        return columns.reshape(3, 3, 16, 4, 4).transpose(0, 2, 1, 4, 3).reshape(-1)

    def _placed(self, weight: Bytes) -> Bytes:
        """int8 [out, C, 3, 3] to [3, 3, bytes of a position, out]."""
        channels = np.arange(weight.shape[1])
        size = 32 if len(channels) == 32 else 64
        placed = np.zeros((3, 3, size, len(weight)), np.int8)
        places = size // 4 * (channels % 16 // 4) + 4 * (channels // 16) + channels % 4
        placed[:, :, places] = weight.transpose(2, 3, 1, 0)
        return placed

    def _packed(self, rows: Bytes) -> Bytes:
        """int8 [3, bytes, out] to flat tiles."""
        split = _filled(rows, axis=1).reshape(3, -1, 16, 4, rows.shape[-1] // 16, 16)
        return split.transpose(0, 1, 4, 2, 5, 3).reshape(-1)


def _filled(weights: Bytes, axis: int) -> Bytes:
    """Return weights of more inputs that are zero, so that they fill tiles."""
    more = -weights.shape[axis] % 64
    return np.pad(weights, [(0, more if i == axis else 0) for i in range(weights.ndim)])


def widened(weight: Bytes, *, outputs: int, inputs: int) -> Bytes:
    """Return int8 [out, in, 3, 3] as of so many channels; those that are added are zero."""
    out, own = weight.shape[:2]
    return np.pad(weight, ((0, outputs - out), (0, inputs - own), (0, 0), (0, 0)))


def totals(weight: Bytes) -> npt.NDArray[np.int32]:
    """Return the sum of what makes each sum of a layer, int32 [out]."""
    return np.asarray(weight.sum((1, 2, 3), dtype=np.int32))


def tail_totals(weight: Bytes) -> npt.NDArray[np.int32]:
    """Return that of the last layer, of each column of its kernel: int32 [in], zeros fill up."""
    sums = weight.sum((1, 2), dtype=np.int32).T.ravel()
    return np.pad(sums, (0, weight.shape[1] - _TAIL))


def _by_row(weight: Bytes, inputs: int) -> Bytes:
    """int8 [out, C, 3, 3] to [3, 3 x inputs, out]; what a position has more than C is zero."""
    more = ((0, 0), (0, inputs - weight.shape[1]), (0, 0), (0, 0))
    return np.pad(weight, more).transpose(2, 3, 1, 0).reshape(3, 3 * inputs, len(weight))


def _as_bytes(numbers: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(numbers).reshape(-1).view(np.int8)
