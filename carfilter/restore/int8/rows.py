"""`fast` and `best` in int8 on CPUs, without torch and up to two and a half times as fast as by it.

rows.c is compiled for several kinds of CPU when carfilter is installed, where there is a
compiler. It runs all layers over a few rows at a time, which then never leave the core's cache.
Without it, or on another CPU, carfilter.restore.int8.convolutions computes the same.
"""

import ctypes
import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.pictures import Luma, Picture, QpMap
from carfilter.restore.int8.kinds import Kind, usable_kinds
from carfilter.restore.int8.library import load_library
from carfilter.restore.int8.packing import tail_totals, totals, widened
from carfilter.restore.int8.quantised import (
    INPUT_ZERO,
    Floats,
    Quantised,
    drawn,
    fingerprint,
    qp_codes,
)

_MOST_LAYERS, _MOST_INPUTS, _MOST_MAPS = 32, 40, 8
_MOST_CHANNELS = 48
_SAMPLES = 4  # of a cell
_LINE = 64  # bytes
_BAND = 32  # rows of cells at least that a thread restores
_NUMBERS = ("layers", "maps", "inputs", "contrast", "head_bytes", "body_bytes")
_POINTERS = ("weights", "offset", "equal", "scale", "bias", "rescale", "gates", "codes")


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("skip", ctypes.c_float),
    )


class _Picture(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p * _MOST_MAPS) for name in ("luma", "qp")),
        *((name, ctypes.c_int64 * _MOST_MAPS) for name in ("luma_row", "qp_row")),
        ("restored", ctypes.c_void_p),
        ("restored_row", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("height", "width")),
        ("amount", ctypes.c_float),
    )


# Restores the rows of cells from one to another of a picture; 0, or -1 without memory.
Compiled = Callable[[_Network, _Picture, int, int], int]


@cache
def compiled_rows(kind: Kind, channels: int) -> Compiled | None:
    """Return what was compiled for a kind of CPU and as many channels; None where it is not."""
    library = load_library(kind)
    if library is None or not _is_of_this_version(library, channels):
        return None
    restore = library[f"carfilter_rows_restore_{channels}"]
    restore.argtypes = (
        ctypes.POINTER(_Network), ctypes.POINTER(_Picture), ctypes.c_int, ctypes.c_int,
    )  # fmt: skip
    return restore if library[f"carfilter_rows_start_{channels}"]() == 0 else None


def _is_of_this_version(library: ctypes.CDLL, channels: int) -> bool:
    """Tell what an older rows.c made and no installation has replaced since."""
    sizes = ctypes.sizeof(_Network) << 16 | ctypes.sizeof(_Picture)
    try:
        return bool(library[f"carfilter_rows_sizes_{channels}"]() == sizes)
    except AttributeError:
        return False


def open_rows(network: Quantised) -> "Rows | None":
    """Return a network through rows.c; None where that is not to be had, or not right."""
    if not _fits(network):
        return None
    for kind in usable_kinds():
        compiled = compiled_rows(kind, channels_of(network, kind))
        if compiled is not None and (rows := Rows(network, kind, compiled)).is_right():
            return rows
    return None


def channels_of(network: Quantised, kind: Kind) -> int:
    """Return the least number of channels that is compiled for a kind and holds the network's."""
    return min(most for most in kind.packing.channels if most >= network.channels)


def compiled_kind() -> Kind | None:
    """Return the fastest kind of CPU that this one is and that something was compiled for."""
    return next((kind for kind in usable_kinds() if compiled_rows(kind, _MOST_CHANNELS)), None)


def _fits(network: Quantised) -> bool:
    return (
        network.factor == 2
        and network.channels <= _MOST_CHANNELS
        and 1 + network.references <= _MOST_MAPS
        and network.layers[0].weight.shape[1] <= _MOST_INPUTS
        and 3 <= len(network.layers) <= _MOST_LAYERS
    )


class Rows:
    """A network through rows.c: what torch's convolutions give, bit by bit."""

    def __init__(self, network: Quantised, kind: Kind, compiled: Compiled) -> None:
        self.label, self._compiled = f"int8 on {kind.label}", compiled
        self.references, self.halo = network.references, network.halo
        self._drawn = network.drawn
        layers, channels = network.layers, channels_of(network, kind)
        head = widened(layers[0].weight, outputs=channels, inputs=layers[0].weight.shape[1])
        body = [widened(one.weight, outputs=channels, inputs=channels) for one in layers[1:-1]]
        tail = widened(layers[-1].weight, outputs=len(layers[-1].weight), inputs=channels)
        inputs = head.shape[1] + -head.shape[1] % 4  # bytes of a cell: products take four at once
        packed = [kind.packing.head(head, inputs), *map(kind.packing.body, body)]
        packed.append(kind.packing.tail(tail))
        # What is taken from each input before its product comes back to the sum.
        sums = [*map(totals, (head, *body)), tail_totals(tail)]
        offset = kind.packing.taken * np.stack(sums)
        offset[0] -= INPUT_ZERO * totals(head)
        maps = np.split(head[:, : _SAMPLES * (1 + network.references)], 1 + network.references, 1)
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "weights": _from_a_line_on(np.concatenate(packed)),
            "offset": offset,
            "equal": (INPUT_ZERO - kind.packing.taken) * np.stack([*map(totals, maps)]),
            "scale": _wide([layer.sum_scale for layer in layers], channels),
            "bias": _wide([layer.bias for layer in layers], channels),
            "rescale": 1 / np.array([layer.out_scale or 1.0 for layer in layers], np.float32),
            "gates": np.ascontiguousarray(network.gates),
            "codes": qp_codes(),
        }
        self._network = _Network(
            layers=len(layers), maps=1 + network.references, inputs=inputs,
            contrast=network.contrast, head_bytes=len(packed[0]), body_bytes=len(packed[1]),
            skip=layers[0].out_scale,
            **{name: array.ctypes.data for name, array in self._arrays.items()},
        )  # fmt: skip

    def is_right(self) -> bool:
        """Say whether a drawn picture gives what it must: what is wrong must not touch footage."""
        restored = self.begin(drawn(self.references), 128.0)
        restored.rows(0, restored.height)
        return fingerprint(restored.luma) == self._drawn

    def begin(self, picture: Picture, amount: float) -> "Restoring":
        """Return a picture of 8 bits that is to be restored.

        Args:
            amount: grey levels of a correction of one.
        """
        return Restoring(self._compiled, self._network, picture, amount)


def _from_a_line_on(packed: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return a copy whose vectors lie in one line of the cache each."""
    memory = np.empty(len(packed) + _LINE, np.int8)
    start = -memory.ctypes.data % _LINE
    memory[start : start + len(packed)] = packed
    return memory[start : start + len(packed)]


def _wide(lines: list[Floats], channels: int) -> Floats:
    """Return [lines, channels]; zeros fill up."""
    return np.stack([np.pad(line, (0, channels - len(line))) for line in lines])


class Restoring:
    """A picture that is being restored, some rows at a time, by any threads.

    A reference that is missing is the picture itself. No plane is copied but those of odd sides.

    Attributes:
        height: rows of cells.
    """

    def __init__(
        self, compiled: Compiled, network: _Network, picture: Picture, amount: float
    ) -> None:
        self._compiled, self._network = compiled, network
        seen: list[Picture] = [picture]
        seen += (picture if one is None else one for one in picture.references)
        seen += [picture] * (network.maps - len(seen))
        shape = picture.luma.shape
        self._lumas = [_in_whole_cells(one.luma) for one in seen]
        self._qps = [_in_one_piece(one.qp) for one in seen]
        rows, columns = self._lumas[0].shape
        self._restored = np.empty((rows, columns), np.uint8)
        self.luma = self._restored[: shape[0], : shape[1]]  # the result
        self.height = rows // 2
        self._picture = c = _Picture(
            restored=self._restored.ctypes.data, restored_row=columns,
            height=self.height, width=columns // 2, amount=amount,
        )  # fmt: skip
        for i, (luma, qp) in enumerate(zip(self._lumas, self._qps, strict=True)):
            c.luma[i], c.luma_row[i] = luma.ctypes.data, luma.strides[0]
            if qp is not None:
                c.qp[i], c.qp_row[i] = qp.ctypes.data, qp.shape[1]

    def bands(self, most: int) -> list[tuple[int, int]]:
        """Return rows of cells for so many threads; fewer, where they would be narrow."""
        count = max(1, min(most, self.height // _BAND))
        return list(itertools.pairwise(self.height * i // count for i in range(count + 1)))

    def rows(self, top: int, bottom: int) -> None:
        """Restore rows of cells; other threads go on meanwhile.

        Raises:
            MemoryError: there is none for what lies between the layers.
        """
        if self._compiled(self._network, self._picture, top, bottom):
            raise MemoryError("no memory for the rows of a picture")


def _in_one_piece(qp: QpMap | None) -> QpMap | None:
    return None if qp is None else np.ascontiguousarray(qp, np.int16)


def _in_whole_cells(luma: Luma) -> Luma:
    """Return luma whose rows lie in one piece, its edges replicated up to whole cells."""
    height, width = luma.shape
    whole: Any = luma
    if height % 2 or width % 2:
        whole = np.pad(luma, ((0, height % 2), (0, width % 2)), mode="edge")
    rows: Luma = whole if whole.strides[1] == 1 else np.ascontiguousarray(whole)
    return rows
