"""`fast` and `best` in int8 on Intel's matrix units (AMX): twice to three times as fast as oneDNN.

int8_amx.c is compiled when carfilter is installed, where there is a compiler. It runs all layers
over a few rows at a time, which then never leave the core's cache, and holds five tiles instead of
eight: a core whose other hyperthread uses tiles too has none to spare for more. Without it, or on
another CPU, carfilter.int8 computes the same.
"""

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.devices import has_amx
from carfilter.int8 import Int8Fast, drawn_inputs, padded, qp_codes
from carfilter.pictures import MACROBLOCK
from carfilter.slots import Inputs

_LIBRARY = Path(__file__).with_name("int8_amx.so")
_CHANNELS, _CELL, _TILE_BYTES = 48, 64, 64  # channels of a position; bytes with its zeros
_MOST_LAYERS, _MOST_INPUTS = 32, 40
_MOST_APART = 0.02  # of samples, by one level, in the self-test
_BAND = 32  # rows of cells at least that a thread restores
_POINTERS = ("weights", "offset", "scale", "bias", "rescale", "gates")


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "maps", "inputs", "contrast")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("skip", ctypes.c_float),
    )


class _Picture(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("luma", "references", "qp", "restored")),
        *((name, ctypes.c_int64) for name in ("luma_row", "reference_row", "reference_plane")),
        *((name, ctypes.c_int64) for name in ("qp_row", "qp_plane", "restored_row")),
        *((name, ctypes.c_int32) for name in ("height", "width")),
        ("amount", ctypes.c_float),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """Load what was compiled, once; None where it is not to be had or not to be used."""
    if not has_amx() or not _LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError:  # built for another system
        return None
    library.carfilter_amx_restore.argtypes = (
        ctypes.POINTER(_Network), ctypes.POINTER(_Picture), ctypes.c_int, ctypes.c_int,
    )  # fmt: skip
    return library if library.carfilter_amx_start() == 0 else None


def with_matrix_units(twin: Int8Fast) -> "Int8Fast | AmxTwin":
    """Return the twin on matrix units, or as it is where they are not to be had or not right."""
    if _library() is None or not _fits(twin):
        return twin
    quick = AmxTwin(twin)
    given = drawn_inputs(twin.references)
    apart = quick.restored(given, 128.0).to(torch.int16) - twin.restored(given, 128.0)
    # None with the oneDNN of today; another one may round a half of some layer otherwise.
    right = bool(apart.abs().max() <= 1) and float(apart.ne(0).float().mean()) <= _MOST_APART
    return quick if right else twin


def _fits(twin: Int8Fast) -> bool:
    head = twin.head.weight
    return (
        twin.factor == 2
        and len(head) == _CHANNELS
        and head.shape[1] <= _MOST_INPUTS
        and len(twin.body) + 2 <= _MOST_LAYERS
    )


class AmxTwin:
    """The same as an int8 twin of torch's convolutions, bit by bit."""

    engine = "int8 on AMX"
    rounds_alike = True

    def __init__(self, twin: Int8Fast) -> None:
        self._factor, self._gates = twin.factor, twin.gates
        self._maps = 1 + twin.references
        inputs = twin.head.weight.shape[1]
        inputs += -inputs % 4  # bytes of a cell, as tiles take them
        layers = [twin.head, *twin.body, twin.tail]
        wide = [F.pad(line, (0, _CHANNELS - len(line))) for line in (
            *(layer.sum_scale for layer in layers), *(layer.added for layer in layers),
        )]  # fmt: skip
        self._scale, self._bias = torch.stack(wide).chunk(2)
        self._rescale = 1 / torch.tensor([layer.out_scale or 1.0 for layer in layers])
        self._offset = twin.head.weight.to(torch.int32).sum((1, 2, 3), dtype=torch.int32)
        self._offset *= -twin.head.zero
        self._weights = torch.cat([
            _packed_head(twin.head.weight, inputs),
            *(_packed_body(layer.weight) for layer in twin.body),
            _packed_tail(twin.tail.weight),
        ])  # fmt: skip
        self._network = _Network(
            layers=len(layers), maps=self._maps, inputs=inputs, contrast=twin.contrast,
            weights=self._weights.data_ptr(), offset=self._offset.data_ptr(),
            scale=self._scale.data_ptr(), bias=self._bias.data_ptr(),
            rescale=self._rescale.data_ptr(), gates=self._gates.data_ptr(), skip=twin.skip_scale,
        )  # fmt: skip

    def restored(self, inputs: Inputs, amount: float) -> Tensor:
        """See Int8Fast. As many threads as torch has at the moment share each picture's rows."""
        height, width = inputs.luma.shape[-2:]
        luma = padded(inputs.luma, self._factor)
        references = inputs.references
        if references is not None:
            references = padded(references, self._factor)
        codes, restored = self._codes(inputs), torch.empty(luma.shape, dtype=torch.uint8)
        pictures = [
            _picture(own, None if references is None else references[i], codes[i], out, amount)
            for i, (own, out) in enumerate(zip(luma, restored, strict=True))
        ]
        rows = luma.shape[1] // self._factor
        count = max(1, min(torch.get_num_threads(), rows // _BAND))
        ends = [rows * i // count for i in range(count + 1)]
        jobs = [(picture, *band) for picture in pictures for band in itertools.pairwise(ends)]
        if count == 1:
            for job in jobs:
                self._restore(*job)
        else:
            with ThreadPoolExecutor(count, "carfilter-rows") as pool:
                list(pool.map(self._restore, *zip(*jobs, strict=True)))
        return restored[:, :height, :width].contiguous()

    def _codes(self, inputs: Inputs) -> Tensor:
        """Return the QP codes of frame and references, uint8 [N, maps, h, w]."""
        if inputs.qp is None:
            height, width = (-(-side // MACROBLOCK) for side in inputs.luma.shape[-2:])
            return torch.zeros(len(inputs), self._maps, height, width, dtype=torch.uint8)
        own = inputs.qp[:, None]
        others = inputs.reference_qp if inputs.references is not None else None
        if others is None:
            others = own.expand(-1, self._maps - 1, -1, -1)
        return qp_codes(torch.cat((own, others), 1))

    def _restore(self, picture: _Picture, top: int, bottom: int) -> None:
        """Fill rows of cells of the restored picture; other threads go on meanwhile."""
        library = _library()
        assert library is not None
        if library.carfilter_amx_restore(self._network, picture, top, bottom):
            raise MemoryError("no memory for the rows of a picture")


def _picture(
    luma: Tensor, references: Tensor | None, codes: Tensor, restored: Tensor, amount: float
) -> _Picture:
    """Point at luma [H, W], references [R, H, W] and codes [maps, h, w]; rows may lie apart."""
    picture = _Picture(
        luma=luma.data_ptr(), luma_row=luma.stride(0),
        qp=codes.data_ptr(), qp_plane=codes.stride(0), qp_row=codes.stride(1),
        restored=restored.data_ptr(), restored_row=restored.stride(0),
        height=luma.shape[0] // 2, width=luma.shape[1] // 2, amount=amount,
    )  # fmt: skip
    if references is not None:
        picture.references = references.data_ptr()
        picture.reference_plane, picture.reference_row = references.stride()[:2]
    return picture


# A position's channels lie as the packs of int8_amx.c leave them: quarters of four channels of each
# group of 16, then four zeros.
_PLACES = [16 * (c % 16 // 4) + 4 * (c // 16) + c % 4 for c in range(_CHANNELS)]


def _packed_head(weight: Tensor, inputs: int) -> Tensor:
    """int8 [48, C, 3, 3] to tiles: kernel rows x 64 bytes of three neighbouring cells x groups."""
    by_row = F.pad(weight, (0, 0, 0, 0, 0, inputs - weight.shape[1])).permute(2, 3, 1, 0)
    flat = by_row.reshape(3, 3 * inputs, _CHANNELS)
    flat = F.pad(flat, (0, 0, 0, -flat.shape[1] % _TILE_BYTES))
    return _tiles(flat.reshape(3, -1, _TILE_BYTES, _CHANNELS))


def _packed_body(weight: Tensor) -> Tensor:
    """int8 [48, 48, 3, 3] to tiles: kernel rows x columns x groups."""
    return _tiles(_placed(weight))


def _placed(weight: Tensor) -> Tensor:
    """int8 [out, 48, 3, 3] to [3, 3, 64, out], its channels where int8_amx.c leaves them."""
    placed = weight.new_zeros(3, 3, _CELL, len(weight))
    placed[:, :, _PLACES] = weight.permute(2, 3, 1, 0)
    return placed


def _tiles(rows: Tensor) -> Tensor:
    """int8 [3, taps, 64, 48] to flat tiles of 16 outputs, in which four inputs lie together."""
    split = rows.reshape(3, -1, _TILE_BYTES // 4, 4, _CHANNELS // 16, 16)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(-1)


def _packed_tail(weight: Tensor) -> Tensor:
    """int8 [4, 48, 3, 3] to one tile a kernel row, whose outputs are columns x channels."""
    split = _placed(weight).reshape(3, 3, _CELL // 4, 4, 4)
    return split.permute(0, 2, 1, 4, 3).reshape(-1)
