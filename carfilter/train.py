"""The training loop: recipe and budget in, checkpoint, log and training state out.

OUT.pt always holds the averaged weights of the last save and can be used at any time; OUT.state.pt
beside it is all that a later run needs to go on as if it had never stopped.
"""

import csv
import math
import pickle
import time
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carfilter.dataset import Crops, Pairs, Sampling, draw_crops
from carfilter.errors import CarfilterError, WeightsError
from carfilter.metrics import ssim_of_batch
from carfilter.network import Network, build_network
from carfilter.weights import save_weights

_STATE = "carfilter-state-1"
_CHARBONNIER = 1e-3  # in units of 128 grey levels: an eighth of a level
_FLOOR = (
    0.25  # squared grey levels that are added to a frame's error, so that none weighs infinitely
)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are ours, paper_recipe() is Aqqa & Shah's."""

    model: str = "fast"
    loss: str = "mse"  # mse, ssim, both, charbonnier
    alpha: float = 0.79  # weight of the SSIM term in `both`
    balance: float = 0.7  # weigh a sample by its frame's error to the power of minus this
    ramp: int = 3000  # steps in which `balance` grows from 0
    wake: float = 50.0  # factor on the tail's first weights; too small ones let ReLU layers die
    batch: int = 16
    crop: int = 64
    late_crop: int | None = 96  # in the last third, with as many pixels to a batch
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: str = "cosine"  # or constant
    final_lr: float = 1e-6
    warmup: int = 1000  # steps
    clip: float | None = 0.5  # norm of the gradient
    centre: bool = True  # see centre_gradients()
    average: float = 0.999  # decay of the averaged weights; 0 keeps the last ones
    hard: float = 0.5
    qp_dropout: float = 0.2
    transpose: bool = True
    seed: int = 0


def paper_recipe(model: str = "car", loss: str = "both") -> Recipe:
    """Return the recipe of CAR-CNN, VISAPP 2020, section 4.3; "momentum 0.9" is Adam's beta1."""
    return Recipe(
        model=model,
        loss=loss,
        balance=0.0,
        ramp=0,
        wake=1.0,
        batch=128,
        late_crop=None,
        lr=1e-4,
        betas=(0.9, 0.999),
        schedule="constant",
        warmup=0,
        clip=None,
        centre=False,
        average=0.0,
        hard=0.0,
        qp_dropout=0.0,
        transpose=False,
    )


@dataclass(frozen=True)
class Budget:
    """When training ends: after so many steps or so much time, all runs of it together."""

    steps: int | None = None
    seconds: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Return the spent share, 0..1 or more."""
        if self.steps is not None:
            return step / max(self.steps, 1)
        return seconds / max(self.seconds or 0.0, 1e-9)


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Return the rate of a step: a linear warm-up in steps times a cosine over the budget.

    A function of the spent share alone: with a larger budget a resumed run goes on where that
    budget's own cosine stands.
    """
    warm = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "constant":
        return recipe.lr * warm
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warm * (recipe.final_lr + (recipe.lr - recipe.final_lr) * cosine)


def loss_of(recipe: Recipe, restored: Tensor, crops: Crops, step: int) -> Tensor:
    """Return the loss of a batch; luma is taken in 0..1 for every term.

    With `balance` b each sample counts (its frame's error)^-b, relative to the batch's mean for
    Charbonnier and SSIM. For MSE and b = 1 the loss is the restored error over the degraded one,
    whose slope is that of the mean PSNR: good frames matter as much as bad ones.
    """
    balance = recipe.balance * (min(1.0, step / recipe.ramp) if recipe.ramp else 1.0)
    weight = (crops.error + _FLOOR) ** -balance
    weight = weight * 255 ** (2 * balance) if recipe.loss == "mse" else weight / weight.mean()
    # Luma in -1..1 spans 256 levels, in 0..1 it spans 255.
    difference = (restored - crops.clean) * (128 / 255)
    if recipe.loss == "charbonnier":
        smooth = torch.sqrt(difference.square() + (_CHARBONNIER / 2) ** 2).mean((1, 2, 3))
        return (weight * smooth).mean()
    squares = difference.square().mean((1, 2, 3))
    if recipe.loss == "mse":
        return (weight * squares).mean()
    clean, test = ((plane + 1) * (128 / 255) for plane in (crops.clean, restored))
    unlike = 1 - ssim_of_batch(clean, test, 1.0)
    if recipe.loss == "ssim":
        return (weight * unlike).mean()
    return (weight * (recipe.alpha * unlike + (1 - recipe.alpha) * squares)).mean()


@dataclass
class State:
    """Everything that changes while training."""

    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def new_state(recipe: Recipe, device: torch.device, start: Network | None = None) -> State:
    """Build the network after the recipe's seed, or take a copy of `start` to fine-tune it."""
    torch.manual_seed(recipe.seed)
    if start is None:
        network = build_network(recipe.model)
        with torch.no_grad():
            network.tail.weight.mul_(recipe.wake)
    else:
        network = deepcopy(start)
    network = network.to(device, memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
    average = deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, recipe.betas)
    return State(network, average, optimizer)


def save_state(path: Path, state: State, recipe: Recipe) -> None:
    """Write all that continues the run, under a temporary name first; no pickled objects."""
    content = {
        "format": _STATE,
        "recipe": {**asdict(recipe), "betas": list(recipe.betas)},
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    part = path.with_name(f".{path.name}.part")
    torch.save(content, part)
    part.replace(path)


def load_state(path: Path, recipe: Recipe, device: torch.device) -> State:
    """Return the state that save_state() wrote.

    The crops of a step depend on seed and step alone, so no generator has a state to keep.

    Raises:
        WeightsError: missing, damaged, foreign, or of a run with another recipe.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if content["format"] != _STATE:
            raise KeyError("format")
        stored = {**content["recipe"], "betas": tuple(content["recipe"]["betas"])}
        differing = [name for name, value in asdict(recipe).items() if stored.get(name) != value]
        if differing:
            raise WeightsError(
                f"{path}: trained with another {', '.join(differing)}; give the same options to"
                " resume, or --init to start a new run from its weights"
            )
        state = new_state(recipe, device)
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.step, state.seconds = content["step"], content["seconds"]
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no training state to resume; start without --resume"
        ) from error
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise WeightsError(f"{path}: damaged or not a training state; start a new run") from error
    return state


def train_step(state: State, recipe: Recipe, crops: Crops, lr: float, model: nn.Module) -> Tensor:
    """Take one step and update the averaged weights; return loss and gradient norm, float [2].

    Args:
        model: the network as it is to be called: itself, compiled, or one of several processes.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast(crops.degraded.device.type, torch.bfloat16, enabled=crops.degraded.is_cuda):
        correction = model(crops.degraded, crops.qp)
    loss = loss_of(recipe, crops.degraded + correction.float(), crops, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.centre:
        centre_gradients(state.network)
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip or math.inf)
    state.optimizer.step()
    # Early on the average follows quickly, so that the initialisation is soon forgotten.
    decay = min(recipe.average, (1 + state.step) / (10 + state.step)) if recipe.average else 0.0
    with torch.no_grad():
        torch._foreach_lerp_(
            list(state.average.parameters()), list(state.network.parameters()), 1 - decay
        )
    state.step += 1
    return torch.stack((loss.detach(), norm))


def centre_gradients(network: nn.Module) -> None:
    """Take from each filter's gradient its mean over the inputs.

    After ReLU all inputs of a filter are positive, so Adam's equal steps would shift its output as
    a whole: within a few hundred noisy steps whole layers fell silent, for good. The idea is
    gradient centralisation, Yong et al., ECCV 2020, https://arxiv.org/abs/2004.01461.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.grad is not None:
            gradient = layer.weight.grad
            gradient.sub_(gradient.mean((1, 2, 3), keepdim=True))


def sampling_at(recipe: Recipe, progress: float) -> tuple[int, Sampling]:
    """Return batch size and sampling; larger crops late, when borders begin to matter."""
    batch, crop = recipe.batch, recipe.crop
    if recipe.late_crop and progress >= 2 / 3:
        batch, crop = max(1, round(batch * (crop / recipe.late_crop) ** 2)), recipe.late_crop
    return batch, Sampling(crop, recipe.hard, recipe.qp_dropout, recipe.transpose)


def train(
    pairs: Pairs,
    out: Path,
    recipe: Recipe,
    budget: Budget,
    state: State,
    *,
    save_seconds: float = 300.0,
    score: Callable[[Network], dict[str, float]] | None = None,
    score_seconds: float = 600.0,
    on_log: Callable[[dict[str, Any]], object] = lambda _row: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train until the budget is spent or `stop` says so; return whether the budget was spent."""
    log = TrainingLog(out.with_suffix(".csv"), state.step)
    started, before = time.monotonic(), state.seconds
    saved = scored = before
    sums, since, since_step = torch.zeros(2), time.monotonic(), state.step
    while True:
        state.seconds = before + time.monotonic() - started
        progress = budget.progress(state.step, state.seconds)
        if progress >= 1 or stop():
            break
        batch, sampling = sampling_at(recipe, progress)
        crops = draw_crops(pairs, batch, sampling, np.random.default_rng((recipe.seed, state.step)))
        lr = learning_rate(recipe, state.step, progress)
        sums = sums + train_step(state, recipe, crops, lr, state.network).cpu()
        if state.step % 100 == 0:
            steps, now = state.step - since_step, time.monotonic()
            loss, norm = (sums / steps).tolist()
            if not math.isfinite(loss):
                raise CarfilterError(f"{out}: the loss is no number any more; lower --lr")
            row = {
                "step": state.step,
                "seconds": round(state.seconds, 1),
                "progress": round(progress, 5),
                "lr": lr,
                "loss": loss,
                "gradient": norm,
                "samples_per_second": round(steps * batch / (now - since), 1),
            }
            log.write(row)
            on_log(row)
            sums, since, since_step = torch.zeros(2), now, state.step
        if state.seconds - saved > save_seconds:
            saved = state.seconds
            save(out, state, recipe)
        if score and state.seconds - scored > score_seconds:
            scored = state.seconds
            row = {"step": state.step, **score(state.average)}
            log.write_score(row)
            on_log(row)
    save(out, state, recipe)
    return progress >= 1


def save(out: Path, state: State, recipe: Recipe) -> None:
    """Write OUT.pt with the averaged weights and OUT.state.pt with all that resumes the run."""
    training = {"recipe": asdict(recipe), "steps": state.step, "seconds": round(state.seconds, 1)}
    save_weights(out, state.average, training)
    save_state(out.with_suffix(".state.pt"), state, recipe)


class TrainingLog:
    """OUT.csv with the course of training and OUT.scores.csv beside it; continued on resume."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.scores = path, path.with_suffix(".scores.csv")
        for file in (self.path, self.scores):
            _cut_after(file, step)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row of OUT.csv."""
        _append(self.path, row)

    def write_score(self, row: dict[str, Any]) -> None:
        """Append a row of OUT.scores.csv."""
        _append(self.scores, row)


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def _cut_after(path: Path, step: int) -> None:
    """Drop what a killed run had logged after its last save; all of it if a new run starts."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    path.unlink()
    for row in rows if step else []:
        _append(path, row)
