"""Samples and QPs as the networks take them, and corrections back to samples."""

from typing import Any

import torch
from torch import Tensor

from carfilter.pictures import MACROBLOCK
from carfilter.restore.network import MAX_QP, QP_UNKNOWN

_PIECE_PIXELS = 1 << 18  # a megabyte in float: half of a core's second-level cache


def _pieces(planes: Tensor) -> tuple[Tensor, ...]:
    """Cut planes of any shape into pieces that stay in a core's cache from one step to the next."""
    whole: Any = planes.reshape(-1)  # torch does not type split()
    pieces: tuple[Tensor, ...] = whole.split(len(whole) if planes.is_cuda else _PIECE_PIXELS)
    return pieces


def as_integers(luma: Tensor) -> Tensor:
    """uint8 or int16 luma to int32 of the same values."""
    whole = luma.to(torch.int32)
    # int16 carries uint16 samples bit by bit: torch computes with few unsigned types.
    return whole if luma.dtype == torch.uint8 else whole & 0xFFFF


def as_float(luma: Tensor) -> Tensor:
    """uint8 or int16 luma to float32 of the same values."""
    return (luma if luma.dtype == torch.uint8 else as_integers(luma)).to(torch.float32)


def scaled(luma: Tensor, centre: float) -> Tensor:
    """uint8 or int16 luma of any shape to float32 in -1..1."""
    scaled = torch.empty(luma.shape, dtype=torch.float32, device=luma.device)
    for piece, out in zip(_pieces(luma), _pieces(scaled), strict=True):
        # (Y - 128) / 128 is exact in half precision, and so is the QP's place in it.
        torch.sub(as_float(piece), centre, out=out).mul_(1 / centre)
    return scaled


def add(luma: Tensor, correction: Tensor, scale: float, peak: float) -> Tensor:
    """Return luma + scale x correction, rounded and kept in 0..peak, as luma is stored."""
    restored = torch.empty_like(luma, memory_format=torch.contiguous_format)
    parts = zip(_pieces(luma), _pieces(correction), _pieces(restored), strict=True)
    for decoded, change, out in parts:
        total = as_float(decoded).add_(change.to(torch.float32), alpha=scale)
        # By way of int32, since torch takes twice as long from float to uint8 on a CPU.
        out.copy_(total.round_().clamp_(0.0, peak).to(torch.int32))
    return restored


def expand_qp(qp: Tensor, height: int, width: int) -> Tensor:
    """int8 [N, h, w] or [N, R, h, w] per macroblock to [N, 1 or R, H, W]: QP / 51, QP_UNKNOWN."""
    values = (qp[:, None] if qp.ndim == 3 else qp).to(torch.float32)
    values = torch.where(values < 0, QP_UNKNOWN, values / MAX_QP)
    rows = values.repeat_interleave(MACROBLOCK, -2)[..., :height, :]
    return rows.repeat_interleave(MACROBLOCK, -1)[..., :width]
