"""Training on a GPU: the same crops as on the CPU, and a model that any machine loads (no PyAV)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from carfilter.pairs.packs import Twin, save_clean, save_twin
from carfilter.restore.weights import load_weights
from carfilter.training.dataset import Pairs, Sampling, draw_crops, load_pairs
from carfilter.training.loop import train
from carfilter.training.recipe import Budget, Recipe
from carfilter.training.state import load_state, new_state

# The compiler warns about much that is not ours.
pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 200, (4, 12, 16)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    degraded = clean + rng.integers(0, 9, clean.shape).astype(np.uint8)
    qp = rng.integers(20, 50, (4, 6, 8)).astype(np.int8)
    save_clean(tmp_path, "blocks", clean, {})
    twin = Twin("noisy", degraded, qp, np.ones(4, np.uint8), {"crf": 30})
    save_twin(tmp_path, "blocks", clean, twin)
    return load_pairs(tmp_path)


def test_crops_on_the_gpu_are_those_of_the_cpu(pairs: Pairs) -> None:
    on_gpu = pairs.to(torch.device("cuda"))
    for seed in range(5):
        here, there = (
            draw_crops(p, 16, Sampling(32), np.random.default_rng(seed)) for p in (pairs, on_gpu)
        )
        assert torch.equal(here.degraded, there.degraded.cpu())
        assert torch.equal(here.clean, there.clean.cpu())
        assert torch.allclose(here.qp, there.qp.cpu())


@pytest.mark.parametrize("model", ["fast", "car"])
def test_a_model_trained_on_the_gpu_loads_anywhere_and_resumes(
    pairs: Pairs, tmp_path: Path, model: str
) -> None:
    device = torch.device("cuda")
    recipe = Recipe(model=model, batch=8, crop=32, late_crop=48, warmup=5, tail_first=5)
    out = tmp_path / "gpu.pt"
    assert train(pairs.to(device), out, recipe, Budget(steps=20), new_state(recipe, device))
    network = load_weights(out).network
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert load_state(tmp_path / "gpu.state.pt", recipe, device).step == 20
    assert load_state(tmp_path / "gpu.state.pt", recipe, torch.device("cpu")).step == 20
