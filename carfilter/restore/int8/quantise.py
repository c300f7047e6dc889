"""From a trained `fast` or `best` and the ranges of its activations to its int8 form.

Weights have a scale per output channel; activations one per layer, from calibration.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.pictures import MACROBLOCK, Picture
from carfilter.restore.int8.convolutions import Int8Fast
from carfilter.restore.int8.quantised import INPUT_ZERO, Layer, Quantised, drawn, fingerprint
from carfilter.restore.network import MAX_QP, Best, Fast
from carfilter.restore.samples import expand_qp, scaled
from carfilter.restore.slots import Inputs
from carfilter.restore.threads import torch_threads

# Both inputs share one code: (code - 128) / 128 is the value that the network was trained on.
_INPUT_SCALE = 1 / 128
_TEST_LEVELS = 0.5  # mean difference to fp32, in grey levels, that passes


@torch.no_grad()
def quantise(network: Fast, ranges: list[float]) -> Quantised | None:
    """Return `fast` or `best` in int8; None where that differs from the network by too much.

    Args:
        ranges: of its ReLU layers, from calibrate().
    """
    with torch_threads(1):  # so little work that threads would wait for each other
        return _quantised(network, [max(value, 1e-6) / 255 for value in ranges])


def _quantised(network: Fast, scales: list[float]) -> Quantised | None:
    layers = [_layer(_head(network), network.head.bias, _INPUT_SCALE, INPUT_ZERO, scales[0])]
    layers += [
        _layer(layer.weight, layer.bias, scales[i], 0, scales[i + 1])  # type: ignore[arg-type]
        for i, layer in enumerate(network.body)
    ]
    layers.append(_layer(network.tail.weight, network.tail.bias, scales[-1], 0, None))
    codes = (torch.arange(256, dtype=torch.float32) - INPUT_ZERO) * _INPUT_SCALE
    best = network if isinstance(network, Best) else None
    rough = Quantised(
        network=network.name,
        factor=network.config.factor,
        references=best.references if best else 0,
        contrast=int(best.config.contrast) if best else 0,
        halo=network.halo,
        layers=tuple(layers),
        gates=network.gate(codes).numpy(),
    )
    finished = _with_corrected_bias(network, rough)
    if not is_faithful(network, Int8Fast(finished)):
        return None
    exact = Int8Fast(finished, exact=True)  # on any CPU
    restored = exact.restored(Inputs.of([drawn(exact.references)], exact.references), 128.0)
    return replace(finished, drawn=fingerprint(restored[0].numpy()))


def _head(network: Fast) -> Tensor:
    """Return the first layer's weights, for the order of channels of Quantised."""
    if not isinstance(network, Best):
        return network.head.weight
    own = network.config.factor**2
    others = own + 1 + own * network.references
    order = [*range(own), *range(own + 1, others), own, *range(others, network.config.inputs)]
    spare = -(1 + network.references) % 4
    return F.pad(network.head.weight[:, order], (0, 0, 0, 0, 0, spare))


def _layer(
    weight: Tensor, bias: Tensor | None, scale: float, zero: int, out_scale: float | None
) -> Layer:
    weight = weight.detach().float()
    weight_scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
    rounded = (weight / weight_scale.view(-1, 1, 1, 1)).round().clamp(-127, 127)
    added = torch.zeros(len(weight)) if bias is None else bias.detach().float()
    return Layer(
        rounded.to(torch.int8).numpy(), weight_scale.numpy(), added.numpy(), scale, zero, out_scale
    )


def _with_corrected_bias(network: Fast, rough: Quantised) -> Quantised:
    """Take from the last layer what rounding adds to smooth pictures, for each sample of a cell.

    Up to a third of a grey level, another one for each sample: a checkerboard on flat areas. The
    idea is bias correction, Nagel et al., ICCV 2019, https://arxiv.org/abs/1906.04721.
    """
    twin = Int8Fast(rough)
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
    *others, tail = rough.layers
    corrected = torch.from_numpy(tail.bias) - shift / len(qps)
    return replace(rough, layers=(*others, replace(tail, bias=corrected.numpy())))


def _smooth(count: int, blocks: int, generator: torch.Generator) -> Tensor:
    """Draw smooth pictures of grey levels, float [N, 1, S, S] of so many macroblocks to a side."""
    coarse = torch.rand(count, 1, blocks, blocks, generator=generator)
    side = blocks * MACROBLOCK
    return F.interpolate(coarse, (side, side), mode="bicubic").mul(255)


@torch.no_grad()
def is_faithful(network: Fast, twin: Int8Fast) -> bool:
    """Compare int8 with fp32 on a drawn picture: what is wrong must not touch footage."""
    inputs = Inputs.of([_drawn_at_one_qp(twin.references)], twin.references)
    assert inputs.qp is not None
    size = inputs.luma.shape[-2:]
    planes = [scaled(inputs.luma[:, None], 128.0), expand_qp(inputs.qp, *size)]
    if inputs.references is not None and inputs.reference_qp is not None:
        planes += [scaled(inputs.references, 128.0), expand_qp(inputs.reference_qp, *size)]
    wanted = network(*planes)[:, 0]
    return float((twin(inputs) - wanted).abs().mean()) * 128 <= _TEST_LEVELS


def _drawn_at_one_qp(references: int) -> Picture:
    """Draw a picture whose correction is whole everywhere."""
    picture = drawn(references)
    assert picture.qp is not None
    qp = picture.qp * 0 + 35
    others = (None if one is None else replace(one, qp=qp) for one in picture.references)
    return replace(picture, qp=qp, references=tuple(others))
