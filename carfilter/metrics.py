"""How close two luma planes are: PSNR, SSIM (also as torch loss), and how much they flicker.

Luma is compared as stored, at its own bit depth: no range conversion, no border crop. Nothing here
reads files.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Plane = npt.NDArray[Any]

# Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13(4), 2004, sections III-B and III-C.
_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def mse(clean: Plane, test: Plane) -> float:
    """Return the mean squared difference of two planes of one shape, in squared grey levels."""
    if clean.shape != test.shape:
        raise ValueError(f"planes of {clean.shape} and {test.shape} cannot be compared")
    # 16-bit squares overflow int32; float64 holds every sum of them exactly enough.
    difference = clean.astype(np.float64) - test
    return float(np.mean(difference * difference))


def psnr(clean: Plane, test: Plane, peak: int = 255) -> float:
    """Return the peak signal-to-noise ratio in dB of uint8 or uint16 planes [H, W] or [N, H, W].

    Args:
        peak: 2^depth - 1 whatever range the file declares.

    Returns:
        Decibels; math.inf for identical planes, which a mean has to leave out or cap.
    """
    error = mse(clean, test)
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def ssim(clean: Plane, test: Plane, peak: int = 255) -> float:
    """Return the mean structural similarity of two uint8 or uint16 planes [H, W], at most 1.

    11x11 Gaussian window of sigma 1.5, only where it lies wholly inside, biased covariance, no
    downsampling first. Planes smaller than the window raise ValueError.
    """
    if clean.shape != test.shape:
        raise ValueError(f"planes of {clean.shape} and {test.shape} cannot be compared")
    pair = [
        torch.from_numpy(np.ascontiguousarray(p, np.float64))[None, None] for p in (clean, test)
    ]
    return float(ssim_of_batch(pair[0], pair[1], float(peak)))


def ssim_of_batch(clean: Tensor, test: Tensor, peak: float) -> Tensor:
    """Return the SSIM of each item, float [N], differentiable in both arguments.

    Args:
        clean, test: float [N, 1, H, W], both sides at least 11.
        peak: width of the values' range: 255 for grey levels, 2 for luma in -1..1.
    """
    if min(clean.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs planes of at least {_WINDOW}x{_WINDOW} pixels")
    window = _gaussian(clean)
    mean_clean, mean_test = _blur(clean, window), _blur(test, window)
    var_clean = _blur(clean * clean, window) - mean_clean * mean_clean
    var_test = _blur(test * test, window) - mean_test * mean_test
    covariance = _blur(clean * test, window) - mean_clean * mean_test
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    likeness = (2 * mean_clean * mean_test + c1) * (2 * covariance + c2)
    bound = (mean_clean**2 + mean_test**2 + c1) * (var_clean + var_test + c2)
    return (likeness / bound).mean((1, 2, 3))


def psnr_swing(per_frame: Sequence[float]) -> tuple[float, float]:
    """Return how the quality fluctuates: standard deviation, and mean height of peaks, in dB.

    The second is the peak-valley difference of Yang et al., MFQE, CVPR 2018, section 3: the mean
    difference between each local maximum of the PSNR and the local minima beside it.
    """
    values = np.asarray(per_frame, np.float64)
    turns = [0, *_turning_points(values), len(values) - 1]
    heights = np.abs(np.diff(values[turns]))
    return float(values.std()), float(heights.mean()) if len(values) > 1 else 0.0


def _turning_points(values: npt.NDArray[np.float64]) -> list[int]:
    """Return the indices of local maxima and minima, ends excluded, plateaus once."""
    slopes = [(index, step) for index, step in enumerate(np.diff(values)) if step]
    pairs = itertools.pairwise(slopes)
    return [after[0] for before, after in pairs if before[1] * after[1] < 0]


def static_flicker(clean: Plane, test: Plane, still: int = 2) -> npt.NDArray[np.float64]:
    """Return how much still areas flicker: float64 [N - 1], in grey levels, of planes [N, H, W].

    Mean of |change of test - change of clean| from each frame to the next over the pixels whose
    clean value changes by less than `still`; NaN where there is no such pixel. What a fixed camera
    shows as breathing backgrounds, and at key frames as pops.
    """
    values = np.full(max(len(clean) - 1, 0), math.nan)
    for index in range(len(values)):
        truth = clean[index + 1].astype(np.int32) - clean[index]
        change = test[index + 1].astype(np.int32) - test[index]
        calm = np.abs(truth) < still
        if calm.any():
            values[index] = np.abs(change - truth)[calm].mean()
    return values


def _gaussian(like: Tensor) -> Tensor:
    """Return the window's 11 weights in one direction, in the dtype and on the device of `like`."""
    offset = torch.arange(_WINDOW, dtype=like.dtype, device=like.device) - _WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * _SIGMA**2))
    return weights / weights.sum()


def _blur(plane: Tensor, weights: Tensor) -> Tensor:
    # Banded matrices instead of convolutions, which with one channel are 4 to 10 times slower on
    # the CPU, forward and backward.
    rows, columns = (_band(size, weights) for size in plane.shape[-2:])
    return rows @ (plane @ columns.T)


def _band(size: int, weights: Tensor) -> Tensor:
    """Return the matrix [size - 10, size] that slides the window along `size` samples."""
    steps = size - _WINDOW + 1
    band = weights.new_zeros(steps, size)
    band.as_strided((steps, _WINDOW), (size + 1, 1)).copy_(weights.expand(steps, _WINDOW))
    return band
