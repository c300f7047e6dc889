"""What a network gains over the plain decode on validation packs, per clip and per CRF."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from carfilter.dataset import Pairs
from carfilter.metrics import Plane, psnr, ssim
from carfilter.network import QP_UNKNOWN, Network

_MOST = 100.0  # dB at which an identical frame counts, so that means stay finite


@dataclass(frozen=True)
class Score:
    """Means over the scored frames of one clip at one CRF; gains are over the decode."""

    clip: str
    crf: int
    blind: bool
    psnr: float  # dB, of the decode
    ssim: float
    psnr_gain: float
    ssim_gain: float


def score_network(
    network: Network,
    pairs: Pairs,
    *,
    blind: bool,
    every: int = 1,
    limit: int | None = None,
    with_ssim: bool = True,
) -> list[Score]:
    """Restore frames of each twin and compare what would be written with the clean ones.

    Args:
        blind: withhold the QP maps.
        every: take one of so many frames, the middle one.
        limit: take at most so many frames of a clip, spread over it.
    """
    device = next(network.parameters()).device
    measures = (_capped_psnr, ssim if with_ssim else lambda _clean, _test: math.nan)
    scores = []
    for shot, about in zip(pairs.shots, pairs.about, strict=True):
        rows = []
        for time in _chosen_frames(int(shot["frames"]), every, limit):
            clean, degraded, qp = frame_of(pairs, shot, time)
            restored = restore_frame(network, degraded, None if blind else qp, device)
            arrays = [plane.numpy() for plane in (clean, degraded, restored)]
            pairs_of_frame = ((arrays[0], test) for test in arrays[1:])
            rows.append([f(*pair) for pair in pairs_of_frame for f in measures])
        before, like_before, after, like_after = (
            float(np.mean(part)) for part in zip(*rows, strict=True)
        )
        scores.append(
            Score(
                clip=str(about["clip"]),
                crf=int(about["crf"]),
                blind=blind,
                psnr=before,
                ssim=like_before,
                psnr_gain=after - before,
                ssim_gain=like_after - like_before,
            )
        )
    return scores


def _chosen_frames(frames: int, every: int, limit: int | None) -> list[int]:
    # From the middle of each stretch: a first frame is a key frame, and better than most.
    count = max(1, frames // every)
    if limit is not None:
        count = min(count, limit)
    return [int((index + 0.5) * frames / count) for index in range(count)]


def _capped_psnr(clean: Plane, test: Plane) -> float:
    return min(psnr(clean, test), _MOST)


def frame_of(pairs: Pairs, shot: np.void, time: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return clean and degraded luma, uint8 [H, W], and the QP plane, float [H, W], of a frame."""
    height, width = int(shot["height"]), int(shot["width"])
    rows, columns = -(-height // 16), -(-width // 16)
    planes = []
    for name in ("clean", "degraded"):
        start = int(shot[name]) + time * height * width
        planes.append(pairs.luma[start : start + height * width].view(height, width).cpu())
    start = int(shot["qp"]) + time * rows * columns
    blocks = pairs.qp[start : start + rows * columns].view(rows, columns).cpu()
    plane = torch.where(blocks < 0, QP_UNKNOWN, blocks.float() / 51)
    plane = plane.repeat_interleave(16, 0).repeat_interleave(16, 1)[:height, :width]
    return planes[0], planes[1], plane


@torch.inference_mode()
def restore_frame(
    network: Network, degraded: Tensor, qp: Tensor | None, device: torch.device
) -> Tensor:
    """Return the restored luma, uint8 [H, W], in float32 whatever training used."""
    luma = ((degraded.float() - 128) / 128)[None, None].to(device)
    plane = None if qp is None else qp[None, None].to(device)
    restored = luma + network(luma, plane)
    levels: Tensor = (restored * 128 + 128).round().clamp(0, 255).to(torch.uint8)
    return levels[0, 0].cpu()


def by_crf(scores: list[Score]) -> Iterator[tuple[int, float, float, float]]:
    """Yield CRF, mean PSNR gain, smallest PSNR gain of a clip, and mean SSIM gain."""
    for crf in sorted({score.crf for score in scores}):
        chosen = [score for score in scores if score.crf == crf]
        gains = [score.psnr_gain for score in chosen]
        yield crf, fmean(gains), min(gains), fmean(score.ssim_gain for score in chosen)
