"""`fast` and `best` in int8 on CPUs, through torch's own oneDNN convolutions: five times as fast.

carfilter.restore.int8.rows computes the same, and faster, where it was built.

uint8 luma goes straight in, ReLU layers stay uint8, the last layer returns to fp32 and is added to
the picture. Weights have a scale per output channel; activations one per layer, from calibration.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.pictures import MACROBLOCK
from carfilter.restore.devices import has_amx
from carfilter.restore.int8.quantised import QP_CODE_UNKNOWN, Layer, Quantised, qp_codes
from carfilter.restore.samples import add
from carfilter.restore.slots import Inputs

_SIZE = 64  # sides of the pictures that torch packs weights for; it takes others as well
_STRIP = 176  # cells at most are convolved side by side on a CPU with AMX
_ROWS = 32  # of cells are put together at a time
_NO_DIFFERENCE = 128  # the code of a reference's sample that equals the frame's
_ONE, _NO_SCALARS = [1, 1], []  # type: ignore[var-annotated]


@cache
def torch_has_int8() -> bool:
    """Say whether this torch has the operators and this CPU the instructions to gain by them."""
    ops = ("qconv_prepack", "qconv2d_pointwise")
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX") and all(hasattr(torch.ops.onednn, op) for op in ops)


class Convolution:
    """One packed int8 convolution: uint8 in; uint8 with ReLU, or fp32, out.

    Args:
        exact: by sums of floats, which are right on any CPU, whatever torch has for int8.
    """

    def __init__(self, layer: Layer, *, exact: bool) -> None:
        self.weight = torch.from_numpy(layer.weight.copy())  # [out, in, 3, 3]
        self.weight_scale = torch.from_numpy(layer.weight_scale.copy())
        self.weight_zero = torch.zeros(len(self.weight), dtype=torch.int64)
        self.scale, self.zero, self.out_scale = layer.scale, layer.zero, layer.out_scale
        self.sum_scale = torch.from_numpy(layer.sum_scale)
        self.bias = torch.from_numpy(layer.bias.copy())
        self.exact = exact
        if exact:
            return
        shape = [1, self.weight.shape[1], _SIZE, _SIZE]
        self.packed = torch.ops.onednn.qconv_prepack(
            self.weight, self.weight_scale, self.scale, self.zero, _ONE, _ONE, _ONE, 1, shape
        )

    def _front(self, x: Tensor) -> tuple[Any, ...]:
        return (x, self.scale, self.zero, self.packed, self.weight_scale, self.weight_zero)

    def __call__(self, x: Tensor) -> Tensor:
        if self.exact:
            return self._finished(self.sums(x))
        as_float = self.out_scale is None
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *self._front(x), self.bias, _ONE, _ONE, _ONE, 1,
            1.0 if as_float else self.out_scale, 0, torch.float32 if as_float else torch.uint8,
            "none" if as_float else "relu", _NO_SCALARS, "",
        )  # fmt: skip
        return result

    def add_and_relu(self, x: Tensor, skip: Tensor, skip_scale: float) -> Tensor:
        """Return relu(convolution + skip); the buffer of `skip` is used up."""
        if self.exact:
            # In double, which rounds once, as a fused multiply-add does.
            scale = torch.tensor(skip_scale, dtype=torch.float32).double()
            return self._finished((self.sums(x) + skip.double() * scale).float())
        result: Tensor = torch.ops.onednn.qconv2d_pointwise.binary(
            *self._front(x), skip, self.bias, _ONE, _ONE, _ONE, 1,
            self.out_scale, 0, torch.uint8, skip_scale, 0, "sum", 1.0, "relu", _NO_SCALARS, "",
        )  # fmt: skip
        return result

    def sums(self, x: Tensor) -> Tensor:
        """What the layer gives before its ReLU, float32.

        Sums of products stay below 2^24, so that float32 holds them exactly, in whatever order.
        """
        shape = (-1, 1, 1)
        sums = F.conv2d(x.float() - self.zero, self.weight.float(), padding=1)
        return sums * self.sum_scale.view(shape) + self.bias.view(shape)

    def _finished(self, values: Tensor) -> Tensor:
        if self.out_scale is None:
            return values
        return (values * (1 / torch.tensor(self.out_scale))).round().clamp(0, 255).to(torch.uint8)


@cache
def torch_is_exact() -> bool:
    """Say whether torch's int8 convolutions are there and right: without VNNI they saturate.

    There products are added in pairs in 16 bits, which large ones overflow.
    https://uxlfoundation.github.io/oneDNN/dev_guide_int8_computations.html
    """
    if not torch_has_int8():
        return False
    ones = np.ones(48, np.float32)
    layer = Layer(np.full((48, 48, 3, 3), 127, np.int8), ones, 0 * ones, 1.0, 0, None)
    tried = Convolution(layer, exact=False)
    most = torch.full((1, 48, 8, 8), 255, dtype=torch.uint8)
    given = most.contiguous(memory_format=torch.channels_last)
    return torch.allclose(tried(given), tried.sums(given))


class Int8Fast:
    """`fast` or `best` in int8, by torch.

    Args:
        exact: by sums of floats, for CPUs on which torch's int8 saturates: slow, and right.
    """

    rounds_alike = False  # whatever part of a picture is computed

    def __init__(self, network: Quantised, *, exact: bool | None = None) -> None:
        exact = not torch_is_exact() if exact is None else exact
        self.factor, self.references = network.factor, network.references
        self.contrast, self.spare = network.contrast, network.spare
        self.halo = network.halo // self.factor  # in cells
        self.strips = has_amx()
        layers = [Convolution(layer, exact=exact) for layer in network.layers]
        self.head, *self.body, self.tail = layers
        self.skip_scale = network.layers[0].out_scale or 1.0
        self.gates = torch.from_numpy(network.gates.copy())  # by QP code
        self.codes = torch.from_numpy(np.append(qp_codes(), np.uint8(QP_CODE_UNKNOWN)))

    def __call__(self, inputs: Inputs) -> Tensor:
        """uint8 luma [N, H, W] in; correction, float32 [N, H, W], out.

        The correction is in units of 128 grey levels, like that of the float network.
        """
        height, width = inputs.luma.shape[-2:]
        cells = _cells(padded(inputs.luma, self.factor), self.factor)
        plane = self._plane(inputs.qp, cells)
        correction = self._in_strips(self._first(cells, plane, inputs))
        if inputs.qp is not None and self._fades(inputs.qp):
            correction.mul_(self.gates[plane.to(torch.int64)])
        return _planes(correction, self.factor)[:, :height, :width]

    def restored(self, inputs: Inputs, amount: float) -> Tensor:
        """Restored luma, uint8 [N, H, W]; amount: grey levels of a correction of one."""
        return add(inputs.luma, self(inputs), amount, 255.0)

    def _in_strips(self, first: Tensor) -> Tensor:
        """Run the layers over upright strips that overlap by what the layers see: the same result.

        For rows of more than about 250 cells oneDNN (3.12) takes an AMX kernel that is slower by a
        fifth and rounds otherwise.
        """
        width, overlap = first.shape[-1], 2 * self.halo
        if not self.strips or width <= _STRIP:
            return self._layers(first)
        count = -(-(width - overlap) // (_STRIP - overlap))
        side = -(-(width + (count - 1) * overlap) // (8 * count)) * 8
        parts, done = [], 0
        for i in range(count):
            start = (width - side) * i // (count - 1)
            strip = first[..., start : start + side]
            part = self._layers(strip.contiguous(memory_format=torch.channels_last))
            stop = width if i == count - 1 else start + side - self.halo
            parts.append(part[..., done - start : stop - start])
            done = stop
        return torch.cat(parts, -1)

    def _layers(self, x: Tensor) -> Tensor:
        """uint8 [N, C, h, w] of the first layer's channels to the last's, float32."""
        x = head = self.head(x)
        for layer in self.body[:-1]:
            x = layer(x)
        return self.tail(self.body[-1].add_and_relu(x, head, self.skip_scale))

    def _fades(self, qp: Tensor) -> bool:
        """Say whether any macroblock is coded so finely that its correction is to be smaller."""
        return bool((self.gates[self._codes(qp).to(torch.int64)] < 1).any())

    def _codes(self, qp: Tensor) -> Tensor:
        """int8 QP of any shape, -1 for unknown, to the codes of the first layer."""
        return self.codes[qp.to(torch.int64)]

    def _plane(self, qp: Tensor | None, cells: Tensor) -> Tensor:
        """int8 [N, h, w] or [N, R, h, w] per macroblock to codes, uint8 [N, 1 or R, H/2, W/2]."""
        if qp is None:
            return torch.full_like(cells[:, :1], QP_CODE_UNKNOWN)
        codes, unit = self._codes(qp[:, None] if qp.ndim == 3 else qp), MACROBLOCK // self.factor
        order = codes.permute(0, 2, 3, 1)
        # contiguous() leaves the strides of a single macroblock as they are, which view() refuses.
        wide = torch.empty(order.shape, dtype=torch.uint8).copy_(order)
        if not wide.shape[-1] % 4:  # then four maps move at a time
            wide = wide.view(torch.int32)
        rows = wide.repeat_interleave(unit, 1)[:, : cells.shape[-2]]
        planes = rows.repeat_interleave(unit, 2)[:, :, : cells.shape[-1]]
        return planes.view(torch.uint8).permute(0, 3, 1, 2)

    def _first(self, cells: Tensor, plane: Tensor, inputs: Inputs) -> Tensor:
        """Return the channels of the first layer, uint8 [N, C, H/2, W/2]."""
        count, own, height, width = cells.shape
        maps = 1 + self.references
        if maps == 1:
            return torch.cat((cells, plane), 1).contiguous(memory_format=torch.channels_last)
        first = torch.empty(count, height, width, maps * own + maps + self.spare, dtype=torch.uint8)
        _put(first, 0, cells)
        if inputs.references is None:
            first[..., own : maps * own] = _NO_DIFFERENCE
        else:
            luma = padded(inputs.luma, self.factor)
            references = padded(inputs.references, self.factor)
            for top in range(0, height, _ROWS):  # these stay in a core's cache from step to step
                rows = slice(top * self.factor, (top + _ROWS) * self.factor)
                part = first[:, top : top + _ROWS]
                differences = self._differences(references[:, :, rows], luma[:, rows])
                others = _cells(differences.flatten(0, 1), self.factor).unflatten(0, (count, -1))
                for number in range(self.references):
                    _put(part, (1 + number) * own, others[:, number])
        qps = self._all_qps(inputs)
        planes = plane if qps is None else self._plane(qps, cells)
        _put(first, maps * own, planes.expand(-1, maps + self.spare, -1, -1))
        return first.permute(0, 3, 1, 2)

    def _all_qps(self, inputs: Inputs) -> Tensor | None:
        """Return the QPs of frame, references and what fills up: int8 [N, M, h, w]."""
        if inputs.qp is None or inputs.reference_qp is None:
            return None
        own = inputs.qp[:, None]
        return torch.cat((own, inputs.reference_qp, own.expand(-1, self.spare, -1, -1)), 1)

    def _differences(self, references: Tensor, luma: Tensor) -> Tensor:
        """Return codes of contrast x (reference - luma), uint8 [N, R, H, W]."""
        none = luma.to(torch.int16).mul_(-self.contrast).add_(_NO_DIFFERENCE)
        wide = torch.add(none[:, None], references.to(torch.int16), alpha=self.contrast)
        return wide.clamp_(0, 255).to(torch.uint8)


def padded(planes: Tensor, factor: int) -> Tensor:
    """Replicate the edges of uint8 [..., H, W] up to whole cells, as the float network does."""
    # pad() has no such mode for integers.
    height, width = planes.shape[-2:]
    bottom, right = -height % factor, -width % factor
    if not bottom and not right:
        return planes
    rows = torch.arange(height + bottom).clamp_max(height - 1)
    columns = torch.arange(width + right).clamp_max(width - 1)
    return planes[..., rows, :][..., columns]


def _put(first: Tensor, at: int, channels: Tensor) -> None:
    """Write channels, uint8 [N, C, h, w], to those from `at` on of first, [N, h, w, D]."""
    source = channels.permute(0, 2, 3, 1).contiguous()
    if not (at | source.shape[-1] | first.shape[-1]) % 4:
        first, source, at = first.view(torch.int32), source.view(torch.int32), at // 4
    first[..., at : at + source.shape[-1]] = source


def _cells(planes: Tensor, factor: int) -> Tensor:
    """uint8 [N, H, W] to [N, factor x factor, H/factor, W/factor], channels last."""
    if factor != 2:
        return F.pixel_unshuffle(planes[:, None], factor)
    # The two samples of a cell's row move as one number, and the two rows are joined to one: a
    # tenth of the time of pixel_unshuffle().
    count, height, width = planes.shape
    rows = planes.contiguous().view(torch.int16).view(count, height // 2, 2, width // 2)
    upper = rows[:, :, 0].view(torch.uint16).to(torch.int32)
    joined = rows[:, :, 1].to(torch.int32).bitwise_left_shift_(16).bitwise_or_(upper)
    return joined.view(torch.uint8).view(count, height // 2, width // 2, 4).permute(0, 3, 1, 2)


def _planes(cells: Tensor, factor: int) -> Tensor:
    """Undo _cells() for float32, channels last: to [N, H, W]."""
    if factor != 2:
        return F.pixel_shuffle(cells, factor)[:, 0]
    # The two samples of a cell's row move as one number, see _cells().
    count, _, height, width = cells.shape
    # Flat in between: of what is one cell wide contiguous() leaves strides that view() refuses.
    flat = cells.permute(0, 2, 3, 1).contiguous().flatten().view(torch.int64)
    rows = flat.view(count, height, width, 2)
    planes = rows.transpose(2, 3).contiguous().flatten().view(torch.float32)
    return planes.view(count, height * 2, width * 2)
