"""`fast` and `best` in int8 on CPUs: up to two and a half times as fast as by torch.

rows.c is compiled for several kinds of CPU when carfilter is installed, where there is a
compiler. It runs all layers over a few rows at a time, which then never leave the core's cache.
Without it, or on another CPU, carfilter.restore.int8.convolutions computes the same.
"""

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.pictures import MACROBLOCK
from carfilter.restore.int8.convolutions import Int8Fast, drawn_inputs, padded, qp_codes
from carfilter.restore.int8.kinds import Kind, usable_kinds
from carfilter.restore.int8.packing import CHANNELS, totals
from carfilter.restore.slots import Inputs

_FOLDER = Path(__file__).parent
_MOST_LAYERS, _MOST_INPUTS = 32, 40
_MOST_APART = 0.02  # of samples, by one level, in the self-test
_BAND = 32  # rows of cells at least that a thread restores
_NUMBERS = ("layers", "maps", "inputs", "contrast", "head_bytes", "body_bytes")
_POINTERS = ("weights", "offset", "scale", "bias", "rescale", "gates")


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in _NUMBERS),
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
def _library(kind: Kind) -> ctypes.CDLL | None:
    """Load what was compiled for a kind of CPU, once; None where it is not to be had."""
    try:
        library = ctypes.CDLL(str(_FOLDER / f"{kind.name}.so"))
    except OSError:  # not built, or for another system
        return None
    library.carfilter_rows_restore.argtypes = (
        ctypes.POINTER(_Network), ctypes.POINTER(_Picture), ctypes.c_int, ctypes.c_int,
    )  # fmt: skip
    return library if library.carfilter_rows_start() == 0 else None


def with_rows(twin: Int8Fast) -> "Int8Fast | RowsTwin":
    """Return the twin through rows.c, or as it is where that is not to be had or not right."""
    if not _fits(twin):
        return twin
    for kind in usable_kinds():
        library = _library(kind)
        if library is not None and _agrees(quick := RowsTwin(twin, kind, library), twin):
            return quick
    return twin


def _agrees(quick: "RowsTwin", twin: Int8Fast) -> bool:
    given = drawn_inputs(twin.references)
    apart = quick.restored(given, 128.0).to(torch.int16) - twin.restored(given, 128.0)
    # None with the oneDNN of today; another one may round a half of some layer otherwise.
    return bool(apart.abs().max() <= 1) and float(apart.ne(0).float().mean()) <= _MOST_APART


def _fits(twin: Int8Fast) -> bool:
    head = twin.head.weight
    return (
        twin.factor == 2
        and len(head) == CHANNELS
        and head.shape[1] <= _MOST_INPUTS
        and len(twin.body) + 2 <= _MOST_LAYERS
    )


class RowsTwin:
    """The same as an int8 twin of torch's convolutions, bit by bit."""

    rounds_alike = True

    def __init__(self, twin: Int8Fast, kind: Kind, library: ctypes.CDLL) -> None:
        self.engine, self._library = f"int8 on {kind.label}", library
        self._factor, self._gates = twin.factor, twin.gates
        self._maps = 1 + twin.references
        inputs = twin.head.weight.shape[1]
        inputs += -inputs % 4  # bytes of a cell: products take four at once
        layers = [twin.head, *twin.body, twin.tail]
        wide = [F.pad(line, (0, CHANNELS - len(line))) for line in (
            *(layer.sum_scale for layer in layers), *(layer.added for layer in layers),
        )]  # fmt: skip
        self._scale, self._bias = torch.stack(wide).chunk(2)
        self._rescale = 1 / torch.tensor([layer.out_scale or 1.0 for layer in layers])
        taken = kind.packing.taken  # from each input
        self._offset = taken * torch.stack([totals(layer.weight) for layer in layers])
        self._offset[0] -= twin.head.zero * totals(twin.head.weight)
        head = kind.packing.head(twin.head.weight, inputs)
        body = [kind.packing.body(layer.weight) for layer in twin.body]
        self._weights = torch.cat([head, *body, kind.packing.tail(twin.tail.weight)])
        self._network = _Network(
            layers=len(layers), maps=self._maps, inputs=inputs, contrast=twin.contrast,
            head_bytes=len(head), body_bytes=len(body[0]),
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
        if self._library.carfilter_rows_restore(self._network, picture, top, bottom):
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
