"""Training in float16, as on a Turing card, which has no convolution in bfloat16."""

import numpy as np
import pytest
import torch

from carfilter.training import state as states
from carfilter.training.dataset import Crops
from carfilter.training.loop import train_step
from carfilter.training.recipe import Recipe
from carfilter.training.state import new_state


def crops() -> Crops:
    rng = np.random.default_rng(0)
    clean = torch.from_numpy(rng.random((2, 1, 32, 32), dtype=np.float32)) - 0.5
    degraded = clean + 0.05 * torch.from_numpy(rng.random((2, 1, 32, 32), dtype=np.float32))
    error = (128 * (degraded - clean)).square().mean((1, 2, 3))
    return Crops(clean, degraded, torch.full_like(clean, 0.7), error)


def test_gradients_are_scaled_and_a_step_that_overflows_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states, "training_precision", lambda _: torch.float16)
    recipe = Recipe(model="fast", channels=16, tail_first=0)
    state = new_state(recipe, torch.device("cpu"))
    assert state.scaler.is_enabled()
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    loss, norm = train_step(state, recipe, crops(), 1e-3, state.network).tolist()
    assert loss > 0
    assert np.isfinite(norm)
    changed = state.network.state_dict()
    assert any(not torch.equal(changed[name], before[name]) for name in before)
    kept = {name: value.clone() for name, value in changed.items()}
    state.scaler.update(2.0**127)  # far too much for float16
    _, norm = train_step(state, recipe, crops(), 1e-3, state.network).tolist()
    assert np.isfinite(norm)
    after = state.network.state_dict()
    assert all(torch.equal(after[name], kept[name]) for name in kept)
    assert state.scaler.get_scale() < 2.0**127
