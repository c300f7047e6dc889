"""Ranges of the activations, measured in floating point, from which int8 takes its steps."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from carfilter.restore.network import Fast

PERCENTILE = 0.9999


@torch.no_grad()
def calibrate(network: Fast, batches: Iterable[tuple[Tensor | None, ...]]) -> list[float]:
    """Return the range of each ReLU layer, head first, over batches of inputs as in training.

    The 99.99th percentile, the largest over the batches: a rarer value is clipped, which costs less
    than the coarser steps that its range would need.
    """
    ranges = [0.0] * (len(network.body) + 1)
    for inputs in batches:
        for i, found in enumerate(activations(network, inputs)):
            # quantile() takes 16 million values at most.
            values = found.flatten()
            values = values[:: max(1, values.numel() // 4_000_000)]
            ranges[i] = max(ranges[i], float(torch.quantile(values, PERCENTILE)))
    return ranges


def activations(network: Fast, inputs: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Return what each ReLU layer gives, head first, float [N, channels, H/2, W/2]."""
    seen: list[Tensor] = []
    layers = [network.head, *network.body]
    head: list[Tensor] = []
    ceiling = network.config.ceiling

    def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
        if layer is network.head:
            head.append(output.clamp(0, ceiling))
        total = output + head[0] if layer is network.body[-1] else output
        seen.append(total.clamp(0, ceiling))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
