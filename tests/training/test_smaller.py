"""A smaller network out of a trained one, and what a teacher adds to what it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from carfilter.commands.train import main as train_main
from carfilter.restore.network import Fast
from carfilter.restore.weights import load_weights
from carfilter.training.dataset import Crops, Sampling, draw_crops, load_pairs
from carfilter.training.smaller import narrow, taught
from clips import make_clip
from packs import make_packs


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smaller")
    return make_packs(make_clip(folder / "clip.mkv", codec="ffv1"), "34,44")


@pytest.fixture(scope="module")
def crops(packs: Path) -> Crops:
    return draw_crops(load_pairs(packs), 8, Sampling(32), np.random.default_rng(1))


def shipped(name: str) -> Fast:
    network = load_weights(name).network
    assert isinstance(network, Fast)
    return network.eval().requires_grad_(False)


def test_layers_that_are_added_change_nothing(crops: Crops) -> None:
    fast = shipped("fast")
    deeper = narrow(fast, [crops], fast.config.channels, fast.config.body + 2)
    assert torch.allclose(fast(*crops.inputs), deeper(*crops.inputs), atol=1e-4)


def test_a_narrowed_network_begins_near_to_what_the_larger_one_does(crops: Crops) -> None:
    fast = shipped("fast")
    small = narrow(fast, [crops], 40, fast.config.body)
    assert small.config.channels == 40
    whole, part = fast(*crops.inputs), small(*crops.inputs)
    assert (whole - part).square().mean() < 0.5 * whole.square().mean()


def test_half_of_what_is_taught_is_the_teachers_picture(crops: Crops) -> None:
    fast = shipped("fast")
    shown = crops.degraded + fast(*crops.inputs)
    learned = taught(crops, fast)
    assert torch.allclose(learned.clean, (crops.clean + shown) / 2, atol=1e-5)
    assert torch.equal(learned.degraded, crops.degraded)


def test_a_smaller_best_is_made_and_taught_by_one_command(packs: Path, tmp_path: Path) -> None:
    arguments = [str(packs), str(tmp_path / "small.pt"), "--model", "best", "--init", "best"]
    arguments += ["--channels", "32", "--layers", "7", "--teacher", "best", "--steps", "2"]
    arguments += ["--batch", "2", "--crop", "32", "--late-crop", "0", "--warmup", "1"]
    result = CliRunner().invoke(train_main, arguments)
    assert result.exit_code == 0, result.stderr
    model = load_weights(tmp_path / "small.pt")
    assert isinstance(model.network, Fast)
    assert (model.network.config.channels, model.network.config.body) == (32, 7)
    assert model.training["recipe"]["teacher"] == load_weights("best").sha256
    again = CliRunner().invoke(train_main, [*arguments[:-10], "--resume", "--steps", "3"])
    assert again.exit_code == 1
    assert "trained with another" in again.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--init", "fast", "--channels", "64"], "has 48 channels, which --channels only makes"),
        (["--init", "fast", "--layers", "3"], "has 6 layers; give as many --layers"),
        (["--model", "car", "--layers", "3"], "--layers is for fast and best, not for car"),
        (["--model", "car", "--init", "car", "--channels", "32"], "--channels is for a new car"),
        (["--teacher", "best"], "looks at other frames, which fast has none of"),
    ],
)
def test_what_cannot_be_made_smaller_is_said(
    packs: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    arguments = [str(packs), str(tmp_path / "out.pt"), "--steps", "1", *options]
    result = CliRunner().invoke(train_main, arguments)
    assert result.exit_code == 1
    assert sentence in " ".join(result.stderr.split())
