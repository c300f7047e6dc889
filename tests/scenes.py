"""Clips to evaluate on, and a model that is not shipped."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from carfilter.media.clips import Clip, write_clip
from carfilter.restore.network import build_network
from carfilter.restore.weights import save_weights

FRAMES, HEIGHT, WIDTH = 12, 96, 128
LOSSLESS = {"qp": "0", "preset": "ultrafast"}


def draw_clip(seed: int = 0, frames: int = FRAMES) -> Clip:
    """A textured background under a moving square, with sensor noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    still = 120 + 40 * np.sin(rows / 5 + seed) * np.cos(columns / 7) + rng.normal(0, 12, rows.shape)
    luma = np.empty((frames, HEIGHT, WIDTH), np.uint8)
    for index in range(frames):
        picture = still + rng.normal(0, 2, still.shape)
        picture[30:60, 10 + 4 * index : 40 + 4 * index] = 200
        luma[index] = picture.round().clip(16, 235)
    chroma = np.full((frames, 2, HEIGHT // 2, WIDTH // 2), 120, np.uint8)
    return Clip(luma, chroma, Fraction(25))


def save_clip(path: Path, clip: Clip, **options: str) -> Path:
    write_clip(path, clip, options or LOSSLESS)
    return path


def save_model(path: Path, seed: int = 0) -> Path:
    """A small network that changes every pixel a little."""
    torch.manual_seed(seed)
    network = build_network("fast", {"channels": 16, "body": 2})
    with torch.no_grad():
        network.tail.weight.mul_(20)
    save_weights(path, network)
    return path
