"""What an int8 network has to give, by whole numbers: with no kernel of any library or CPU.

Sums of products are whole numbers, which doubles hold exactly; torch convolves doubles by a plain
matrix product, never by oneDNN. What follows a sum is single steps in float32, as IEEE 754 rounds
each, and one rounding to a code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.restore.int8.convolutions import Int8Fast
from carfilter.restore.int8.quantised import Layer, Quantised


class ExactLayer:
    """Takes the place of a Convolution."""

    def __init__(self, layer: Layer) -> None:
        self._weight, self._zero = torch.from_numpy(layer.weight.astype(float)), layer.zero
        self._scale = torch.from_numpy(layer.weight_scale * layer.scale)[:, None, None]
        self._bias = torch.from_numpy(layer.bias.copy())[:, None, None]
        self._out_scale = layer.out_scale

    def __call__(self, x: Tensor) -> Tensor:
        return self._coded(self._values(x))

    def add_and_relu(self, x: Tensor, skip: Tensor, skip_scale: float) -> Tensor:
        # A fused multiply-add: its product is exact in double, and the sum is rounded once.
        product = skip.double() * torch.tensor(skip_scale).double()
        return self._coded((self._values(x) + product).float())

    def _values(self, x: Tensor) -> Tensor:
        sums = F.conv2d(x.double() - self._zero, self._weight, padding=1)
        assert torch.equal(sums, sums.round())
        assert sums.abs().max() < 1 << 24  # so float32 holds them
        return sums.float() * self._scale + self._bias

    def _coded(self, values: Tensor) -> Tensor:
        if self._out_scale is None:
            return values
        rescaled = values * (1 / torch.tensor(self._out_scale))
        return rescaled.round().clamp(0, 255).to(torch.uint8)


def exact(network: Quantised) -> Int8Fast:
    """Return a network whose layers compute so."""
    twin = Int8Fast(network, exact=True)
    twin.strips = False
    twin.head, *twin.body, twin.tail = map(ExactLayer, network.layers)  # type: ignore[assignment]
    return twin
