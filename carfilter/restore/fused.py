"""The paper's network on CUDA with one kernel a layer: convolution, bias, activation and skip.

As torch runs it, what follows a convolution passes over half a gigabyte again at 1080p, once or
several times. The kernel is written in Triton, which comes with torch's builds for CUDA on Linux;
elsewhere this module cannot be imported. It has run in Triton's interpreter alone, on no card: so
compiled.fused() tries it before it is taken.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from carfilter.restore.network import Car

_PIXELS = 128  # that one program computes


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    x, weights, bias, skip, out,  # pointers
    height, width, pixels, slope,
    has_skip: tl.constexpr, channels: tl.constexpr, pixels_each: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * pixels_each + tl.arange(0, pixels_each)
    line, column, channel = at // width % height, at % width, tl.arange(0, channels)
    total = tl.zeros((pixels_each, channels), tl.float32)
    for tap in range(9):
        down, across = tap // 3 - 1, tap % 3 - 1
        rows = (line + down >= 0) & (line + down < height)
        inside = rows & (column + across >= 0) & (column + across < width) & (at < pixels)
        beside = (at + down * width + across)[:, None] * channels + channel[None, :]
        samples = tl.load(x + beside, mask=inside[:, None], other=0.0)
        square = (tap * channels + channel[:, None]) * channels + channel[None, :]
        total = tl.dot(samples, tl.load(weights + square), total)
    total += tl.load(bias + channel)[None, :].to(tl.float32)
    total = tl.where(total > 0, total, total * slope)
    here, known = at[:, None] * channels + channel[None, :], (at < pixels)[:, None]
    if has_skip:
        total += tl.load(skip + here, mask=known, other=0.0).to(tl.float32)
    tl.store(out + here, total.to(out.dtype.element_ty), mask=known)


def layer(
    x: Tensor, weights: Tensor, bias: Tensor, slope: float, skip: Tensor | None = None
) -> Tensor:
    """Return skip + act(conv(x)), [N, C, H, W] in channels_last, C a power of two from 16 on.

    Args:
        weights: [9, C in, C out], the places of the kernel row by row. bias: [C].
    """
    made = torch.empty_like(x)
    count, channels, height, width = x.shape
    pixels = count * height * width
    launch: Any = _kernel[(triton.cdiv(pixels, _PIXELS),)]
    launch(
        x, weights, bias, x if skip is None else skip, made, height, width, pixels, slope,
        has_skip=skip is not None, channels=channels, pixels_each=_PIXELS,
    )  # fmt: skip
    return made


class FusedCar:
    """`car` by one kernel for each of its inner layers, which work on [N, 64, H, W] in half."""

    def __init__(self, network: Car) -> None:
        self._network = network
        blocks: Any = network.blocks  # torch does not type what a Sequential holds
        inner = [part for block in blocks for part in (block.first, block.second)]
        self._weights = [as_rows(one) for one in (*inner, network.close, network.last)]

    def __call__(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002 (blind)
        """Return the correction, as the network does."""
        network, slope = self._network, self._network.slope
        head = F.leaky_relu(network.head(luma), slope, inplace=True)
        x = head = head.contiguous(memory_format=torch.channels_last)
        *blocks, close, last = self._weights
        for first, second in zip(blocks[::2], blocks[1::2], strict=True):
            x = layer(layer(x, *first, slope), *second, slope, x)
        x = layer(x, *close, slope, head)
        return torch.tanh(network.tail(layer(x, *last, slope)))


def as_rows(part: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weights [9, C in, C out] and bias [C]."""
    assert part.bias is not None
    rows = part.weight.permute(2, 3, 1, 0).reshape(9, part.in_channels, part.out_channels)
    return rows.contiguous(), part.bias
