"""The training loop: recipe and budget in; checkpoint, log and training state out.

OUT.pt always holds the averaged weights of the last save and can be used at any time; OUT.state.pt
beside it is all that a later run needs to go on as if it had never stopped.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from carfilter.detection.features import GRID, FeatureLoss
from carfilter.restore.devices import training_precision
from carfilter.restore.network import Fast, Network
from carfilter.training.dataset import WINDOWS, Crops, Pairs, Sampling, draw_crops
from carfilter.training.log import TrainingLog
from carfilter.training.recipe import Budget, Recipe, harm_of, learning_rate, loss_of
from carfilter.training.smaller import taught
from carfilter.training.state import State, diverged, save

LOG_STEPS = 100
_SMALL_CROP = 64  # of the crops that no detector looks at
# Sides, as shares of the recipe's, that crops which it looks at have in turn: of the smaller ones a
# step has more, so it sees more things, and they fit into smaller clips.
_SIDES = 1.0, 4 / 7, 5 / 7
# Shares of their size in which a detector is shown crops. What pleases it at one size alone, as
# patterns of single pixels do, does not last.
_SIZES = 0.65, 1.2


@dataclass(frozen=True)
class Hooks:
    """What the loop does besides training, and how often; all of it on the first process alone."""

    on_log: Callable[[dict[str, Any]], object] = lambda _row: None
    stop: Callable[[], bool] = lambda: False  # asked before every step
    score: Callable[[Network], dict[str, float]] | None = None
    save_seconds: float = 300.0
    score_seconds: float = 600.0


@dataclass(frozen=True)
class Group:
    """This process among those that torchrun started; each trains on its share of a batch."""

    rank: int = 0
    size: int = 1

    def agree(self, progress: float, *, stop: bool) -> tuple[float, bool]:
        """Return what the first process sees: clocks and signals differ between processes."""
        if self.size == 1:
            return progress, stop
        shared = torch.tensor([progress, float(stop)], dtype=torch.float64)
        torch.distributed.broadcast(shared, 0)
        return float(shared[0]), bool(shared[1])


def is_seen(recipe: Recipe, step: int) -> bool:
    """Return whether the detector, if the recipe has one, looks at a step's crops.

    The steps between keep pictures true where there is nothing to detect: without them a flower
    lost 0.3 to 0.8 dB.
    """
    return bool(recipe.detector) and step % 2 == 0


def sampling_at(recipe: Recipe, step: int, progress: float) -> tuple[int, Sampling]:
    """Return batch size and sampling; larger crops late, when borders begin to matter.

    What a detector looks at is of several sizes in turn, all of as many pixels to a batch.
    """
    batch, crop = recipe.batch, recipe.crop
    seen = is_seen(recipe, step)
    if seen:
        side = max(GRID, round(crop * _SIDES[step // 2 % len(_SIDES)] / GRID) * GRID)
        batch, crop = max(1, batch * crop**2 // side**2), side
    elif recipe.detector:
        small = min(crop, _SMALL_CROP)
        batch, crop = max(1, batch * crop**2 // (2 * small**2)), small
    elif recipe.late_crop and progress >= 2 / 3:
        batch, crop = max(1, round(batch * (crop / recipe.late_crop) ** 2)), recipe.late_crop
    references = recipe.model == "best"
    sampling = Sampling(
        crop,
        recipe.hard,
        recipe.qp_dropout,
        recipe.transpose,
        references=references,
        neighbours=recipe.flicker > 0,
        aimed=recipe.aimed if seen else 0.0,
        **WINDOWS[recipe.window],
    )
    return batch, sampling


def callable_network(network: Network, group: Group) -> nn.Module:
    """Return the network as training calls it: compiled on CUDA, in step with the other processes.

    The checkpoint is always taken from the network itself.
    """
    model: nn.Module = network
    if group.size > 1:
        model = DistributedDataParallel(model)
    if next(network.parameters()).is_cuda:
        torch.set_float32_matmul_precision("high")
        model.compile()
    return model


def train_step(
    state: State,
    recipe: Recipe,
    crops: Crops,
    lr: float,
    model: nn.Module,
    features: FeatureLoss | None = None,
) -> Tensor:
    """Take one step and update the averaged weights; return loss and gradient norm, float [2].

    Args:
        model: the network as callable_network() wraps it.
    """
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = lr * parameters["share"]
    if state.step < recipe.tail_first:
        state.optimizer.param_groups[0]["lr"] = 0.0
    device = crops.degraded.device
    half = training_precision(device)
    with torch.autocast(device.type, half, enabled=half is not None):
        correction = model(*crops.inputs)
    # The sum is formed in full precision, as in the filter.
    restored = crops.degraded + correction.float()
    loss = loss_of(recipe, restored, crops.clean, crops.error, state.step)
    if isinstance(state.network, Fast):
        # Beyond the ceiling no gradient brings an activation back: a detector's features drove some
        # up and up, until gradients were a thousand times as long. By its logarithm, since the few
        # crops whose references show something else come to thousands.
        loss = loss + torch.as_tensor(state.network.excess).log1p()
    if recipe.harm:
        loss = loss + recipe.harm * harm_of(restored, crops.degraded, crops.clean, crops.error)
    if features is not None and is_seen(recipe, state.step):
        scale = float(np.random.default_rng((recipe.seed, state.step)).uniform(*_SIZES))
        seen = features(restored, crops.degraded, crops.clean, scale)
        loss = loss + recipe.feature_weight * seen
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.unscale_(state.optimizer)
    if recipe.centre:
        centre_gradients(state.network)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip or math.inf)
    state.scaler.step(state.optimizer)  # leaves out steps whose gradients were too large
    state.scaler.update()
    # Early on the average follows quickly, so that the initialisation is soon forgotten.
    decay = min(recipe.average, (1 + state.step) / (10 + state.step)) if recipe.average else 0.0
    with torch.no_grad():
        averages: list[Tensor] = list(state.average.parameters())
        torch._foreach_lerp_(averages, list(state.network.parameters()), 1 - decay)
    state.step += 1
    return torch.stack((loss.detach(), norm.nan_to_num(0.0, posinf=0.0)))


def centre_gradients(network: nn.Module) -> None:
    """Take from each filter's gradient its mean over the inputs.

    After ReLU all inputs of a filter are positive, so Adam's equal steps shift its output as a
    whole; a few hundred noisy steps of that can silence a layer for good. The idea is gradient
    centralisation, Yong et al., ECCV 2020, https://arxiv.org/abs/2004.01461.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.grad is not None:
            gradient = layer.weight.grad
            gradient.sub_(gradient.mean((1, 2, 3), keepdim=True))


def train(
    pairs: Pairs,
    out: Path,
    recipe: Recipe,
    budget: Budget,
    state: State,
    hooks: Hooks | None = None,
    group: Group | None = None,
    features: FeatureLoss | None = None,
    teacher: Network | None = None,
) -> bool:
    """Train until the budget is spent or hooks.stop() says so; return whether it was spent.

    Args:
        pairs: on the device of the state's network.
        features: of the detector that the recipe names.
        teacher: the recipe's, on the same device.
        out: OUT.pt; its neighbours OUT.state.pt, OUT.csv and OUT.scores.csv are written as well.

    Raises:
        CarfilterError: the loss is no longer a number. MediaError: crops larger than every clip.
    """
    hooks, group = hooks or Hooks(), group or Group()
    first = group.rank == 0
    model = callable_network(state.network, group)
    log = TrainingLog(out.with_suffix(".csv"), state.step) if first else None
    if first and not state.step:  # else a kill before the first save would leave another run's
        out.with_suffix(".state.pt").unlink(missing_ok=True)
    clock = time.monotonic() - state.seconds  # reads as the seconds of all runs together
    saved = scored = state.seconds
    meter = _Meter(pairs.luma.device, state.step)
    while True:
        state.seconds = time.monotonic() - clock
        progress, stop = group.agree(
            budget.progress(state.step, state.seconds), stop=first and hooks.stop()
        )
        if progress >= 1 or stop:
            break
        crops = crops_at(pairs, recipe, state.step, progress, group, teacher)
        lr = learning_rate(recipe, state.step, progress)
        step = train_step(state, recipe, crops, lr, model, features)
        meter.add(step, len(crops.clean) * group.size)
        if log is None:
            continue
        if state.step % LOG_STEPS == 0:
            _log(meter.read(out, state, progress, lr), hooks, log)
        if state.seconds - saved > hooks.save_seconds:
            saved = state.seconds
            save(out, state, recipe)
        if hooks.score and state.seconds - scored > hooks.score_seconds:
            scored = state.seconds
            _score(state, hooks, log)
    if log is not None:
        if state.step > meter.step:  # a short run shall have a course, too
            lr = learning_rate(recipe, state.step, progress)
            _log(meter.read(out, state, progress, lr), hooks, log)
        save(out, state, recipe)  # before scoring, which takes a while
        if hooks.score and progress >= 1:
            save(out, state, recipe, _score(state, hooks, log))
    return progress >= 1


def crops_at(
    pairs: Pairs,
    recipe: Recipe,
    step: int,
    progress: float,
    group: Group,
    teacher: Network | None = None,
) -> Crops:
    """Draw this process's share of a step's batch, which depends on seed, step and rank alone.

    A detector compares with the clean picture itself: what a teacher smooths is what it would miss.
    """
    batch, sampling = sampling_at(recipe, step, progress)
    rng = np.random.default_rng((recipe.seed, step, group.rank))
    crops = draw_crops(pairs, max(1, batch // group.size), sampling, rng)
    return crops if teacher is None or is_seen(recipe, step) else taught(crops, teacher)


def _log(row: dict[str, Any], hooks: Hooks, log: TrainingLog) -> None:
    log.write(row)
    hooks.on_log(row)


def _score(state: State, hooks: Hooks, log: TrainingLog) -> dict[str, float]:
    assert hooks.score is not None, "asked for where there is a score"
    row = {"step": state.step, **hooks.score(state.average)}
    log.write_score(row)
    hooks.on_log(row)
    return row


class _Meter:
    """Means since the last reading; values stay on the device, which is not made to wait."""

    def __init__(self, device: torch.device, step: int) -> None:
        self.sums = torch.zeros(2, device=device)
        self.step, self.samples, self.since = step, 0, time.monotonic()

    def add(self, values: Tensor, samples: int) -> None:
        """Count a step's loss and gradient norm, float [2]."""
        self.sums += values
        self.samples += samples

    def read(self, out: Path, state: State, progress: float, lr: float) -> dict[str, Any]:
        """Return a row of the log and begin anew."""
        loss, norm = (self.sums / (state.step - self.step)).tolist()
        if not math.isfinite(loss):
            raise diverged(out)
        now = time.monotonic()
        row = {
            "step": state.step,
            "seconds": round(state.seconds, 1),
            "progress": round(progress, 5),
            "lr": lr,
            "loss": loss,
            "gradient": norm,
            "samples_per_second": round(self.samples / (now - self.since), 1),
        }
        self.sums = torch.zeros_like(self.sums)
        self.step, self.samples, self.since = state.step, 0, now
        return row
