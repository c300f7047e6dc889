"""Luma measures against hand-made numbers and an independent implementation."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from carfilter.metrics import psnr, ssim, ssim_of_batch


def noisy_pair(peak: int = 255, height: int = 48, width: int = 70) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    ramp = np.linspace(0.2, 0.8, width) * np.ones((height, 1))
    dtype = np.uint8 if peak == 255 else np.uint16
    clean = (ramp * peak).astype(dtype)
    test = np.clip(ramp * peak + rng.normal(0, 0.03 * peak, clean.shape), 0, peak).astype(dtype)
    return clean, test


def test_psnr_of_a_constant_offset_is_the_textbook_value() -> None:
    clean = np.full((4, 6), 100, np.uint8)
    assert psnr(clean, clean + np.uint8(5)) == pytest.approx(20 * math.log10(255 / 5))


def test_psnr_does_not_wrap_around_and_knows_identity() -> None:
    black, white = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0)
    assert psnr(white, white) == math.inf


def test_psnr_uses_the_peak_of_the_depth() -> None:
    clean = np.full((4, 4), 400, np.uint16)
    assert psnr(clean, clean + np.uint16(4), 1023) == pytest.approx(20 * math.log10(1023 / 4))


def test_measures_refuse_planes_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(np.zeros((4, 4), np.uint8), np.zeros((1, 4), np.uint8))
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(np.zeros((8, 40), np.uint8), np.zeros((8, 40), np.uint8))


@pytest.mark.parametrize("peak", [255, 1023])
def test_ssim_agrees_with_scikit_image_over_the_valid_region(peak: int) -> None:
    clean, test = noisy_pair(peak)
    _, reference = structural_similarity(
        clean,
        test,
        data_range=peak,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(clean, test, peak) == pytest.approx(reference[5:-5, 5:-5].mean(), abs=1e-3)


def test_ssim_of_identical_planes_is_one() -> None:
    clean, _ = noisy_pair()
    assert ssim(clean, clean) == pytest.approx(1.0)


def test_ssim_loss_can_be_descended() -> None:
    clean, test = noisy_pair()
    target = torch.from_numpy(clean / 127.5 - 1).float()[None, None]
    guess = torch.from_numpy(test / 127.5 - 1).float()[None, None].requires_grad_()
    before = ssim_of_batch(target, guess, 2.0)
    before.sum().backward()
    assert guess.grad is not None
    after = ssim_of_batch(target, guess.detach() + 0.02 * guess.grad / guess.grad.abs().max(), 2.0)
    assert float(after.detach()) > float(before.detach())
