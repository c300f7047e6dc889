"""Channels scaled alike before a network is quantised, so that none is left with a few codes.

All channels of a layer share one step of 8 bits, which the largest of them sets. A ReLU lets a
channel be scaled up and the weights that read it down by as much, and the network stays what it
was: the idea is cross-layer equalisation of Nagel et al., "Data-Free Quantization through Weight
Equalization and Bias Correction", ICCV 2019, https://arxiv.org/abs/1906.04721. Weights have a step
for each output here, so that the scales follow what channels reach in footage, not the weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from carfilter.restore.int8.calibration import PERCENTILE, activations
from carfilter.restore.network import Fast

_MOST = 8.0  # times; a channel that is hardly ever awake could ask for thousands
_SHARE = 0.75  # of the way, as a power, that channels are brought to the largest


@torch.no_grad()
def equalise(network: Fast, batches: Iterable[tuple[Tensor | None, ...]]) -> None:
    """Scale the channels of a network, in place, for batches of inputs as in training.

    What it computes in floating point stays the same, but where activations reach the ceiling.
    """
    usual, largest = _reached(network, batches)
    layers = [network.head, *network.body]
    # The first layer's channels are added to the last one's, so these are scaled by the same.
    for values in (usual, largest):
        values[0] = values[-1] = torch.maximum(values[0], values[-1])
    scales = []
    for each, most in zip(usual, largest, strict=True):
        wanted = (each.max() / each.clamp_min(1e-6)).clamp(1.0, _MOST) ** _SHARE
        room = network.config.ceiling / most.clamp_min(1e-6)
        scales.append(torch.minimum(wanted, room.clamp_min(1.0)))
    for layer, scale in zip(layers, scales, strict=True):
        layer.weight.mul_(scale[:, None, None, None])
        layer.bias.mul_(scale)
    for layer, scale in zip([*network.body, network.tail], scales, strict=True):
        layer.weight.div_(scale[None, :, None, None])


def _reached(
    network: Fast, batches: Iterable[tuple[Tensor | None, ...]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return of each layer what its channels reach, [channels]: the 99.99th percentile, and most.

    Of several batches it is the largest.
    """
    usual: list[Tensor] = []
    largest: list[Tensor] = []
    for inputs in batches:
        flat = [values.transpose(0, 1).flatten(1) for values in activations(network, inputs)]
        for kept, found in (
            (usual, [torch.quantile(values, PERCENTILE, dim=1) for values in flat]),
            (largest, [values.amax(1) for values in flat]),
        ):
            kept[:] = map(torch.maximum, kept, found) if kept else found
    return usual, largest
