"""The training of the QP estimator, apart from that of the network it helps."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from carfilter.blind import PATCH, QpEstimator
from carfilter.dataset import Pairs, Sampling, draw_crops

_WIDTH = 16
_BATCH = 64
_RATE, _WARMUP, _CLIP = 2e-3, 200, 1.0
_LOG_STEPS = 100


def train_estimator(
    pairs: Pairs,
    seconds: float,
    seed: int = 0,
    on_log: Callable[[dict[str, Any]], object] = lambda _row: None,
) -> tuple[QpEstimator, int]:
    """Return a trained estimator, on the CPU, and the steps it took; a cosine over the time."""
    torch.manual_seed(seed)
    device = pairs.luma.device
    estimator = QpEstimator(_WIDTH).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(estimator.parameters(), _RATE)
    sampling = Sampling(PATCH, hard=0.0, qp_dropout=0.0)
    started, step, progress = time.monotonic(), 0, 0.0
    while progress < 1:
        rate = _RATE * min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = rate
        crops = draw_crops(pairs, _BATCH, sampling, np.random.default_rng((seed, 1 << 40, step)))
        known = (crops.qp >= 0).flatten(1).all(1)
        if bool(known.any()):
            loss = estimator.loss(crops.degraded[known], 51 * crops.qp[known].mean((1, 2, 3)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(estimator.parameters(), _CLIP)
            optimizer.step()
            if step % _LOG_STEPS == 0:
                on_log({"step": step, "progress": progress, "loss": float(loss.detach())})
        step += 1
        progress = (time.monotonic() - started) / seconds
    return estimator.cpu().eval().requires_grad_(False), step
