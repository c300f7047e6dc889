"""`fast` and `best` in int8 on CPUs, through torch's own oneDNN convolutions: five times as fast.

carfilter.restore.int8.rows computes the same, and faster, where it was built.

uint8 luma goes straight in, ReLU layers stay uint8, the last layer returns to fp32 and is added to
the picture. Weights have a scale per output channel; activations one per layer, from calibration.
"""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.pictures import MACROBLOCK
from carfilter.restore.devices import has_amx
from carfilter.restore.network import MAX_QP, Best, Fast
from carfilter.restore.samples import add, expand_qp, scaled
from carfilter.restore.slots import Inputs

# Both inputs share one code: (code - 128) / 128 is the value that the network was trained on.
_INPUT_SCALE, _INPUT_ZERO = 1 / 128, 128
_QP_CODE_UNKNOWN = 0  # stands for -1
_SIZE = 64  # sides of the pictures that torch packs weights for; it takes others as well
_STRIP = 176  # cells at most are convolved side by side on a CPU with AMX
_ROWS = 32  # of cells are put together at a time
_NO_DIFFERENCE = 128  # the code of a reference's sample that equals the frame's
_SELF_TEST_LEVELS = 0.5  # mean difference to fp32, in grey levels, that passes
_ONE, _NO_SCALARS = [1, 1], []  # type: ignore[var-annotated]


@cache
def torch_has_int8() -> bool:
    """Say whether this torch has the operators and this CPU the instructions to gain by them."""
    ops = ("qconv_prepack", "qconv2d_pointwise")
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX") and all(hasattr(torch.ops.onednn, op) for op in ops)


class Convolution:
    """One packed int8 convolution: uint8 in; uint8 with ReLU, or fp32, out."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        zero: int,
        out_scale: float | None,
    ) -> None:
        weight = weight.detach().float()
        self.weight_scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        rounded = (weight / self.weight_scale.view(-1, 1, 1, 1)).round().clamp(-127, 127)
        self.weight = rounded.to(torch.int8)  # [out, in, 3, 3]
        self.weight_zero = torch.zeros(len(weight), dtype=torch.int64)
        self.scale, self.zero, self.out_scale = scale, zero, out_scale
        self.bias = None if bias is None else bias.detach().float()
        if not torch_has_int8():
            return
        shape = [1, weight.shape[1], _SIZE, _SIZE]
        self.packed = torch.ops.onednn.qconv_prepack(
            self.weight, self.weight_scale, scale, zero, _ONE, _ONE, _ONE, 1, shape
        )

    @property
    def sum_scale(self) -> Tensor:
        """What a sum of products of codes is worth, float [out]."""
        return self.weight_scale * self.scale

    @property
    def added(self) -> Tensor:
        """What is added to that, float [out]."""
        return torch.zeros(len(self.weight)) if self.bias is None else self.bias

    def _front(self, x: Tensor) -> tuple[Any, ...]:
        return (x, self.scale, self.zero, self.packed, self.weight_scale, self.weight_zero)

    def __call__(self, x: Tensor) -> Tensor:
        if not torch_is_exact():
            return self._finished(self._sums(x))
        return self.by_torch(x)

    def by_torch(self, x: Tensor) -> Tensor:
        """See __call__(), which asks torch_is_exact() before."""
        as_float = self.out_scale is None
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *self._front(x), self.bias, _ONE, _ONE, _ONE, 1,
            1.0 if as_float else self.out_scale, 0, torch.float32 if as_float else torch.uint8,
            "none" if as_float else "relu", _NO_SCALARS, "",
        )  # fmt: skip
        return result

    def add_and_relu(self, x: Tensor, skip: Tensor, skip_scale: float) -> Tensor:
        """Return relu(convolution + skip); the buffer of `skip` is used up."""
        if not torch_is_exact():
            # In double, which rounds once, as a fused multiply-add does.
            scale = torch.tensor(skip_scale, dtype=torch.float32).double()
            return self._finished((self._sums(x) + skip.double() * scale).float())
        result: Tensor = torch.ops.onednn.qconv2d_pointwise.binary(
            *self._front(x), skip, self.bias, _ONE, _ONE, _ONE, 1,
            self.out_scale, 0, torch.uint8, skip_scale, 0, "sum", 1.0, "relu", _NO_SCALARS, "",
        )  # fmt: skip
        return result

    def _sums(self, x: Tensor) -> Tensor:
        """What the layer gives before its ReLU, float32.

        Sums of products stay below 2^24, so that float32 holds them exactly, in whatever order.
        """
        shape = (-1, 1, 1)
        sums = F.conv2d(x.float() - self.zero, self.weight.float(), padding=1)
        return sums * self.sum_scale.view(shape) + self.added.view(shape)

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
    tried = Convolution(torch.ones(48, 48, 3, 3), None, 1.0, 0, None)
    most = torch.full((1, 48, 8, 8), 255, dtype=torch.uint8)
    given = most.contiguous(memory_format=torch.channels_last)
    return torch.allclose(tried.by_torch(given), tried._sums(given))


class Int8Fast:
    """The int8 twin of a trained `fast`.

    Args:
        ranges: of its ReLU layers, from calibrate().
    """

    engine = "int8"
    references = 0
    contrast = 0
    rounds_alike = False  # whatever part of a picture is computed

    def __init__(self, network: Fast, ranges: list[float]) -> None:
        self.factor = network.config.factor
        self.halo = network.halo // self.factor  # in cells
        self.strips = has_amx()
        scales = [max(value, 1e-6) / 255 for value in ranges]
        self.skip_scale = scales[0]
        self.head = Convolution(
            self._head(network), network.head.bias, _INPUT_SCALE, _INPUT_ZERO, scales[0]
        )
        self.body = [
            Convolution(layer.weight, layer.bias, scales[i], 0, scales[i + 1])  # type: ignore[arg-type]
            for i, layer in enumerate(network.body)
        ]
        tail = network.tail
        self.tail = Convolution(tail.weight, tail.bias, scales[-1], 0, None)
        codes = (torch.arange(256, dtype=torch.float32) - _INPUT_ZERO) * _INPUT_SCALE
        self.gates = network.gate(codes)  # by QP code

    def _head(self, network: Fast) -> Tensor:
        """Return the first layer's weights, for the channels of _first()."""
        return network.head.weight

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
        return bool((self.gates[qp_codes(qp).to(torch.int64)] < 1).any())

    def _first(self, cells: Tensor, plane: Tensor, _inputs: Inputs) -> Tensor:
        """Return the channels of the first layer, uint8 [N, C, H/2, W/2]."""
        return torch.cat((cells, plane), 1).contiguous(memory_format=torch.channels_last)

    def _plane(self, qp: Tensor | None, cells: Tensor) -> Tensor:
        """int8 [N, h, w] or [N, R, h, w] per macroblock to codes, uint8 [N, 1 or R, H/2, W/2]."""
        if qp is None:
            return torch.full_like(cells[:, :1], _QP_CODE_UNKNOWN)
        codes, unit = qp_codes(qp[:, None] if qp.ndim == 3 else qp), MACROBLOCK // self.factor
        order = codes.permute(0, 2, 3, 1)
        # contiguous() leaves the strides of a single macroblock as they are, which view() refuses.
        wide = torch.empty(order.shape, dtype=torch.uint8).copy_(order)
        if not wide.shape[-1] % 4:  # then four maps move at a time
            wide = wide.view(torch.int32)
        rows = wide.repeat_interleave(unit, 1)[:, : cells.shape[-2]]
        planes = rows.repeat_interleave(unit, 2)[:, :, : cells.shape[-1]]
        return planes.view(torch.uint8).permute(0, 3, 1, 2)


class Int8Best(Int8Fast):
    """The int8 twin of a trained `best`: differences to the references are exact in uint8.

    Its first layer has the channels in another order than the float network's: the cells of the
    frame and of each reference, then all QPs, then what fills up to a multiple of four. So they are
    written four at a time, a quarter of the work.
    """

    def __init__(self, network: Best, ranges: list[float]) -> None:
        self.references = network.references
        self.spare = -(1 + network.references) % 4
        self.contrast = int(network.config.contrast)
        super().__init__(network, ranges)

    def _head(self, network: Fast) -> Tensor:
        own = network.config.factor**2
        others = own + 1 + own * self.references
        order = [*range(own), *range(own + 1, others), own, *range(others, network.config.inputs)]
        return F.pad(network.head.weight[:, order], (0, 0, 0, 0, 0, self.spare))

    def _first(self, cells: Tensor, plane: Tensor, inputs: Inputs) -> Tensor:
        count, own, height, width = cells.shape
        maps = 1 + self.references
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
    rows = cells.permute(0, 2, 3, 1).contiguous().view(torch.int64)
    planes = rows.transpose(2, 3).contiguous().view(torch.float32)
    return planes.view(count, height * 2, width * 2)


def int8_twin(network: Fast, ranges: list[float]) -> Int8Fast:
    """Return the int8 twin of `fast` or `best`; `ranges` as of calibrate()."""
    twin = Int8Best(network, ranges) if isinstance(network, Best) else Int8Fast(network, ranges)
    _correct_bias(network, twin)
    return twin


@torch.no_grad()
def _correct_bias(network: Fast, twin: Int8Fast) -> None:
    """Take from the last layer what rounding adds to smooth pictures, for each sample of a cell.

    Up to a third of a grey level, another one for each sample: a checkerboard on flat areas. The
    idea is bias correction, Nagel et al., ICCV 2019, https://arxiv.org/abs/1906.04721.
    """
    generator = torch.Generator().manual_seed(0)
    luma = _smooth(4, 6, generator).round().clamp(0, 255)
    shift = torch.zeros(network.config.factor**2)
    first = math.ceil(network.config.full_qp)  # from here on the correction is whole
    qps = [min(int(MAX_QP), first + more) for more in (0, 5, 10)]
    for qp in qps:
        maps = torch.full((len(luma), 6, 6), qp, dtype=torch.int8)
        wanted = network((luma - 128) / 128, torch.full_like(luma, qp / MAX_QP))
        added = twin(Inputs(luma[:, 0].to(torch.uint8), maps))[:, None] - wanted
        shift += F.pixel_unshuffle(added, network.config.factor).mean((0, 2, 3))
    assert twin.tail.bias is not None
    twin.tail.bias = twin.tail.bias - shift / len(qps)


def _smooth(count: int, blocks: int, generator: torch.Generator) -> Tensor:
    """Draw smooth pictures of grey levels, float [N, 1, S, S] of so many macroblocks to a side."""
    coarse = torch.rand(count, 1, blocks, blocks, generator=generator)
    side = blocks * MACROBLOCK
    return F.interpolate(coarse, (side, side), mode="bicubic").mul(255)


def qp_codes(qp: Tensor) -> Tensor:
    """int8 QP of any shape, -1 for unknown, to the uint8 codes of the first layer."""
    codes = (qp.to(torch.float32) * (128 / 51) + 128).round().clamp(0, 255)
    return torch.where(qp < 0, _QP_CODE_UNKNOWN, codes).to(torch.uint8)


@torch.no_grad()
def passes_self_test(network: Fast, twin: Int8Fast) -> bool:
    """Compare the twin with fp32 on a drawn picture: a wrong kernel must not touch footage."""
    inputs = drawn_inputs(twin.references)
    size = inputs.luma.shape[-2:]
    planes = [scaled(inputs.luma[:, None], 128.0), expand_qp(_known(inputs.qp), *size)]
    if inputs.references is not None:
        maps = expand_qp(_known(inputs.reference_qp), *size)
        planes += [scaled(inputs.references, 128.0), maps]
    wanted = network(*planes)[:, 0]
    return float((twin(inputs) - wanted).abs().mean()) * 128 <= _SELF_TEST_LEVELS


def _known(qp: Tensor | None) -> Tensor:
    assert qp is not None
    return qp


def drawn_inputs(references: int) -> Inputs:
    """Draw a smooth picture with noise, and references of it, to try an engine on."""
    generator = torch.Generator().manual_seed(0)
    picture = _smooth(1, 8, generator)

    def noisy(count: int, levels: float) -> Tensor:
        noise = torch.randn(1, count, 128, 128, generator=generator) * levels
        return (picture + noise).round().clamp(0, 255).to(torch.uint8)

    qp = torch.full((1, 8, 8), 35, dtype=torch.int8)
    inputs = Inputs(noisy(1, 4.0)[:, 0], qp)
    if not references:
        return inputs
    maps = qp[:, None].expand(-1, references, -1, -1)
    return replace(inputs, references=noisy(references, 3.0), reference_qp=maps)
