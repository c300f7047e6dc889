"""A frozen detector in the loss: what it compares, where crops are aimed, how it is recorded."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from carfilter.commands.degrade import main as degrade_main
from carfilter.commands.train import main as train_main
from carfilter.detection.features import FeatureLoss
from carfilter.errors import CarfilterError
from carfilter.media.clips import Clip, write_clip
from carfilter.restore.weights import load_weights
from carfilter.training.dataset import Pairs, Sampling, draw_crops, load_pairs
from carfilter.training.loop import Group, crops_at, sampling_at
from carfilter.training.recipe import Recipe, harm_of
from carfilter.training.things import find_things
from detectors import save_detector, save_seeing_detector, yolox_output

LAMP = (80, 176)  # row and column of the one bright thing


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seeing_detector(tmp_path_factory.mktemp("detector") / "seeing.onnx")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of a dark street of 256x128 pixels with a bright lamp in it."""
    folder = tmp_path_factory.mktemp("street")
    luma = np.random.default_rng(1).integers(40, 60, (5, 128, 256)).astype(np.uint8)
    luma[:, LAMP[0] - 8 : LAMP[0] + 8, LAMP[1] - 8 : LAMP[1] + 8] = 230
    chroma = np.full((5, 2, 64, 128), 128, np.uint8)
    write_clip(folder / "street.mkv", Clip(luma, chroma, Fraction(25)), {"qp": "0"})
    arguments = [str(folder / "street.mkv"), str(folder / "out"), "--variants", "plain"]
    result = CliRunner().invoke(degrade_main, [*arguments, "-crf", "44"])
    assert result.exit_code == 0, result.stderr
    return folder / "out" / "packs"


def train(packs: Path, out: Path, detector: Path, *more: str) -> str:
    options = ["--model", "car", "--channels", "4", "--blocks", "1", "--crop", "64", "--batch", "2"]
    arguments = [str(packs), str(out), *options, "--feature-loss", str(detector), *more]
    result = CliRunner().invoke(train_main, arguments)
    assert result.exit_code in (0, 1), result.output
    return result.stderr


def test_the_loss_is_one_for_the_decode_and_nothing_for_the_clean_picture(detector: Path) -> None:
    loss = FeatureLoss(detector)
    clean = torch.rand(2, 1, 64, 96) - 0.2
    degraded = clean * 0.5
    assert loss(clean, degraded, clean) == 0
    assert 0.5 < loss(degraded, degraded, clean) <= 1


def test_the_loss_moves_pictures_and_not_the_detector(detector: Path) -> None:
    loss = FeatureLoss(detector)
    clean = torch.zeros(1, 1, 64, 64)
    restored = torch.full_like(clean, 0.3, requires_grad=True)
    value = loss(restored, clean + 0.4, clean)
    value.backward()
    assert restored.grad is not None
    with torch.no_grad():
        assert loss(restored - 0.05 * restored.grad.sign(), clean + 0.4, clean) < value


def test_a_faded_thing_weighs_more_than_the_same_error_on_the_road(detector: Path) -> None:
    loss = FeatureLoss(detector)
    clean = torch.full((1, 1, 64, 64), -0.6)
    clean[..., 16:32, 16:32] = 0.8
    faded, soiled = clean.clone(), clean.clone()
    faded[..., 16:32, 16:32] -= 0.3
    soiled[..., 32:48, 32:48] -= 0.3
    degraded = clean - 0.3
    assert loss(faded, degraded, clean) > 1.5 * loss(soiled, degraded, clean)


def test_crops_are_aimed_at_what_is_seen(packs: Path, detector: Path) -> None:
    pairs = load_pairs(packs)
    seeing = FeatureLoss(detector).detector
    pairs = replace(pairs, things=find_things(pairs, seeing))
    assert {0, 4} == set(pairs.things["time"])  # one frame in four
    near = np.abs(pairs.things["row"] - LAMP[0]) + np.abs(pairs.things["column"] - LAMP[1])
    assert near.max() < 40

    def share_with_lamp(aimed: float) -> float:
        sampling = Sampling(64, hard=0.0, aimed=aimed)
        crops = draw_crops(pairs, 40, sampling, np.random.default_rng(2))
        return float((crops.clean.amax((1, 2, 3)) > 0.5).float().mean())

    assert share_with_lamp(0.0) < 0.8
    assert share_with_lamp(1.0) == 1.0


def test_a_set_in_which_nothing_is_seen_is_drawn_from_as_ever(pairs: Pairs) -> None:
    crops = [
        draw_crops(pairs, 4, Sampling(32, aimed=aimed), np.random.default_rng(5))
        for aimed in (0.0, 0.9)
    ]
    assert torch.equal(crops[0].degraded, crops[1].degraded)


@pytest.fixture
def pairs(packs: Path) -> Pairs:
    return load_pairs(packs)


def test_what_a_detector_sees_is_compared_with_the_clean_picture_whoever_teaches(
    pairs: Pairs, detector: Path
) -> None:
    recipe = Recipe(batch=2, crop=64, detector=FeatureLoss(detector).sha256)
    teacher = load_weights("fast").network
    seen, plain = (
        [crops_at(pairs, recipe, step, 0.0, Group(), who).clean for who in (None, teacher)]
        for step in (0, 1)
    )
    assert torch.equal(*seen)
    assert not torch.equal(*plain)


def test_a_run_names_its_detector_and_resumes_with_no_other(
    packs: Path, detector: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.pt"
    assert "error" not in train(packs, out, detector, "--steps", "2", "--feature-weight", "2")
    recipe = load_weights(out).training["recipe"]
    assert (recipe["feature_weight"], recipe["aimed"]) == (2, 0.75)
    assert recipe["detector"] == FeatureLoss(detector).sha256
    other = save_seeing_detector(tmp_path / "other.onnx", classes=4)
    options = ("--steps", "3", "--feature-weight", "2", "--resume")
    assert "another detector" in train(packs, out, other, *options)
    assert "error" not in train(packs, out, detector, *options)
    assert load_weights(out).training["steps"] == 3


def test_a_weight_without_a_detector_is_refused(packs: Path, tmp_path: Path) -> None:
    arguments = [str(packs), str(tmp_path / "a.pt"), "--steps", "1", "--feature-weight", "2"]
    result = CliRunner().invoke(train_main, arguments)
    assert result.exit_code == 1
    assert "--feature-loss" in result.stderr


def test_a_detector_without_features_is_refused(tmp_path: Path) -> None:
    blind = save_detector(tmp_path / "blind.onnx", yolox_output({}))
    with pytest.raises(CarfilterError, match="give another detector"):
        FeatureLoss(blind)


@pytest.mark.parametrize("size", [0.3, 0.65, 1.2])
def test_a_detector_shown_another_size_compares_alike(detector: Path, size: float) -> None:
    loss = FeatureLoss(detector)
    clean = torch.rand(2, 1, 64, 96) - 0.2
    degraded = clean * 0.5
    own = loss(degraded, degraded, clean)
    assert loss(clean, degraded, clean, size) == 0
    assert 0.5 < loss(degraded, degraded, clean, size) <= 1
    assert loss(degraded, degraded, clean, size) != own


def test_a_block_that_got_worse_counts_though_others_make_up_for_it() -> None:
    clean = torch.zeros(1, 1, 32, 64)
    degraded, restored = clean + 4 / 128, clean.clone()
    error = torch.full((1,), 14.0)
    assert harm_of(restored, degraded, clean, error) == 0
    restored[..., :16, :16] = 6 / 128  # 36 squared levels for 16, in one block of eight
    harm = float(harm_of(restored, degraded, clean, error))
    assert harm == pytest.approx((36 - 16) / (14 + 2) / 8)


def test_every_second_step_shows_a_detector_things_and_the_others_are_of_anywhere() -> None:
    recipe = Recipe(model="best", detector="sha256", aimed=0.75, crop=224, batch=4, late_crop=None)
    for progress in (0.0, 0.9):
        for step, count, side in ((6, 4, 224), (8, 12, 128), (10, 7, 160)):
            batch, seen = sampling_at(recipe, step, progress)
            assert (batch, seen.crop, seen.aimed) == (count, side, 0.75)
            other, anywhere = sampling_at(recipe, step + 1, progress)
            assert (anywhere.crop, anywhere.aimed) == (64, 0.0)
            assert other * 64**2 == pytest.approx(4 * 224**2 / 2, rel=0.05)
    assert sampling_at(replace(recipe, detector=""), 7, 0.0)[1].crop == 224
