"""What a network gains over the plain decode on validation packs, per clip and per quality."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from carfilter.metrics import Plane, psnr, ssim
from carfilter.pictures import ASSUMED_QP
from carfilter.restore.network import QP_UNKNOWN, Best, Network
from carfilter.restore.window import PAST_SLOTS
from carfilter.training.dataset import Pairs

MODES = {
    "qp": "QP known",
    "blind": f"QP unknown, taken as {ASSUMED_QP}",
    "past": "QP known, past references only",
    "alone": "QP known, no references",
}
"""What a network is given; without a word on references it has all that there are."""

_MOST = 100.0  # dB at which an identical frame counts, so that means stay finite


@dataclass(frozen=True)
class Sample:
    """One frame of a twin: luma uint8 [H, W], QP float [H, W] in 0..1 or QP_UNKNOWN."""

    clean: Tensor
    degraded: Tensor
    qp: Tensor
    references: Tensor  # uint8 [R, H, W]
    reference_qp: Tensor


@dataclass(frozen=True)
class Score:
    """Means over the scored frames of one clip at one CRF; gains are over the decode."""

    clip: str
    codec: str
    crf: int  # or q, on the codec's own scale
    mode: str  # of MODES
    psnr: float  # dB, of the decode
    ssim: float
    psnr_gain: float
    ssim_gain: float


def score_network(
    network: Network,
    pairs: Pairs,
    mode: str = "qp",
    *,
    every: int = 1,
    limit: int | None = None,
    with_ssim: bool = True,
) -> list[Score]:
    """Restore frames of each twin and compare what would be written with the clean ones.

    Args:
        mode: of MODES.
        every: take one of so many frames, the middle one.
        limit: take at most so many frames of a clip, spread over it.
    """
    device = next(network.parameters()).device
    measures = (_capped_psnr, ssim if with_ssim else lambda _clean, _test: math.nan)
    scores = []
    for shot, about in zip(pairs.shots, pairs.about, strict=True):
        rows = []
        for time in _chosen_frames(int(shot["frames"]), every, limit):
            sample = frame_of(pairs, shot, time, mode)
            restored = restore_frame(network, sample, device)
            arrays = [plane.numpy() for plane in (sample.clean, sample.degraded, restored)]
            pairs_of_frame = ((arrays[0], test) for test in arrays[1:])
            rows.append([f(*pair) for pair in pairs_of_frame for f in measures])
        before, like_before, after, like_after = (
            float(np.mean(part)) for part in zip(*rows, strict=True)
        )
        scores.append(
            Score(
                clip=str(about["clip"]),
                codec=str(about.get("codec", "h264")),  # of which packs once were alone
                crf=int(about["crf"]),
                mode=mode,
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


def frame_of(pairs: Pairs, shot: np.void, time: int, mode: str = "qp") -> Sample:
    """Return a frame with what is known of it in that mode."""
    height, width = int(shot["height"]), int(shot["width"])
    rows, columns = -(-height // 16), -(-width // 16)

    def luma(name: str, time: int) -> Tensor:
        return plane(int(shot[name]) + time * height * width)

    def plane(start: int) -> Tensor:
        return pairs.luma[start : start + height * width].view(height, width).cpu()

    def qp(time: int) -> Tensor:
        start = int(shot["qp"]) + time * rows * columns
        blocks = pairs.qp[start : start + rows * columns].view(rows, columns).cpu()
        if mode == "blind":
            blocks = torch.full_like(blocks, ASSUMED_QP)
        unknown = blocks < 0
        plane = torch.where(unknown, QP_UNKNOWN, blocks.float() / 51)
        return plane.repeat_interleave(16, 0).repeat_interleave(16, 1)[:height, :width]

    frame = int(shot["frame"]) + time
    times, planes = pairs.references[frame].tolist(), pairs.planes[frame].tolist()
    if mode in ("past", "alone"):
        kept = PAST_SLOTS if mode == "past" else ()
        own = int(shot["degraded"]) + time * height * width
        times = [then if slot in kept else time for slot, then in enumerate(times)]
        planes = [plane if slot in kept else own for slot, plane in enumerate(planes)]
    return Sample(
        clean=luma("clean", time),
        degraded=luma("degraded", time),
        qp=qp(time),
        references=torch.stack([plane(start) for start in planes]),
        reference_qp=torch.stack([qp(then) for then in times]),
    )


@torch.inference_mode()
def restore_frame(network: Network, sample: Sample, device: torch.device) -> Tensor:
    """Return the restored luma, uint8 [H, W], in float32 whatever training used."""
    luma, references = (
        ((plane.float() - 128) / 128)[None].to(device)
        for plane in (sample.degraded[None], sample.references)
    )
    inputs = [luma, sample.qp[None, None].to(device)]
    if isinstance(network, Best):
        inputs += [references, sample.reference_qp[None].to(device)]
    restored = luma + network(*inputs)
    levels: Tensor = (restored * 128 + 128).round().clamp(0, 255).to(torch.uint8)
    return levels[0, 0].cpu()


def by_crf(scores: list[Score]) -> Iterator[tuple[str, float, float, float]]:
    """Yield CRF, mean PSNR gain, smallest PSNR gain of a clip, and mean SSIM gain.

    Other codecs than H.264, whose qualities are on scales of their own, stand before theirs: "hevc
    29".
    """
    for codec, crf in sorted({(s.codec, s.crf) for s in scores}, key=_h264_first):
        chosen = [score for score in scores if (score.codec, score.crf) == (codec, crf)]
        gains = [score.psnr_gain for score in chosen]
        name = str(crf) if codec == "h264" else f"{codec} {crf}"
        yield name, fmean(gains), min(gains), fmean(score.ssim_gain for score in chosen)


def _h264_first(kind: tuple[str, int]) -> tuple[bool, str, int]:
    return kind[0] != "h264", *kind
