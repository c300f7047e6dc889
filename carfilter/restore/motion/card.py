"""What kernels.move() computes, by torch on a card: the same bits."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from carfilter.restore.motion.arrays import BLOCK, STEPS
from carfilter.restore.motion.move import FILTERS
from carfilter.restore.samples import as_integers

_REACH = BLOCK + 3  # samples to a side that a block is made of
_BLOCKS_AT_ONCE = 1 << 17  # that take some 150 MB of a card


def move(picture: Tensor, other: Tensor, field: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """See kernels.move(); pictures are uint8, or int16 that carries uint16, [H, W].

    Args:
        field: int16 [ceil(H/4), ceil(W/4), 2].
    """
    most = (1 << depth) - 1
    rows = max(1, _BLOCKS_AT_ONCE // field.shape[1])
    bands = [
        _sampled(other, part, BLOCK * rows * i).clamp_(0, most)
        for i, part in enumerate(field.split(rows))
    ]
    height, width = other.shape
    moved = torch.cat(bands)[:height, :width].to(other.dtype)
    before, after = (_around(_apart(picture, one)) for one in (other, moved))
    better = field.ne(0).any(2) & (5 * after < 4 * before)
    return torch.where(spread(better, BLOCK, other.shape), moved, other), better


def spread(blocks: Tensor, side: int, shape: torch.Size) -> Tensor:
    """Return for each pixel what holds for its block of so many to a side, [H, W]."""
    rows = blocks.repeat_interleave(side, 0)[: shape[0]]
    return rows.repeat_interleave(side, 1)[:, : shape[1]]


def _sampled(other: Tensor, field: Tensor, top: int) -> Tensor:
    """Return the blocks of a field whose first line is that of `top`, int32 [4 rows, 4 columns]."""
    (height, width), (rows, columns) = other.shape, field.shape[:2]
    x, y = field.to(torch.int32).unbind(2)
    reach = torch.arange(_REACH, dtype=torch.int32, device=field.device)
    lines, across = (torch.arange(n, dtype=torch.int32, device=field.device) * BLOCK - 1
                     for n in (rows, columns))  # fmt: skip
    y_at = (lines[:, None] + (y >> 4) + top)[..., None] + reach
    x_at = (across + (x >> 4))[..., None] + reach
    at = y_at.clamp(0, height - 1)[..., None] * width + x_at.clamp(0, width - 1)[..., None, :]
    taken = as_integers(other.reshape(-1).index_select(0, at.reshape(-1))).view(at.shape)
    by_x, by_y = (_filters(other.device)[(part % STEPS).to(torch.int64)] for part in (x, y))
    wide = _weighted(taken, by_x[:, :, None])
    blocks = _weighted(wide.transpose(2, 3), by_y[:, :, None]).transpose(2, 3)
    whole = (blocks + 2048) >> 12
    return whole.transpose(1, 2).reshape(BLOCK * rows, BLOCK * columns)


@cache
def _filters(device: torch.device) -> Tensor:
    return torch.from_numpy(FILTERS.astype(np.int32)).to(device)


def _weighted(samples: Tensor, weights: Tensor) -> Tensor:
    """Return sums of four along the last axis, [..., 7] to [..., 4], weights [..., 4]."""
    total = samples[..., :BLOCK] * weights[..., :1]
    for i in range(1, 4):
        total += samples[..., i : i + BLOCK] * weights[..., i : i + 1]
    return total


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of absolute differences in each block, float32 [ceil(H/4), ceil(W/4)]."""
    difference = (as_integers(one) - as_integers(other)).abs_()
    height, width = one.shape
    whole = F.pad(difference, (0, -width % BLOCK, 0, -height % BLOCK))
    rows, columns = whole.shape[0] // BLOCK, whole.shape[1] // BLOCK
    return whole.view(rows, BLOCK, columns, BLOCK).sum((1, 3)).to(torch.float32)


def _around(blocks: Tensor) -> Tensor:
    """Return the sums over 3x3 blocks, int32."""
    # Whole numbers below 2^24, of which float32 holds each: torch repeats no edge of integers.
    wide = F.pad(blocks[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]).to(torch.int32)
