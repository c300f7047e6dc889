"""The state of a training run: OUT.pt, which can be used, and OUT.state.pt, which resumes it."""

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from carfilter.errors import CarfilterError, WeightsError
from carfilter.restore.checkpoint import DAMAGED
from carfilter.restore.devices import training_precision
from carfilter.restore.network import Fast, Network, build_network, config_of
from carfilter.restore.weights import read_pt, save_weights
from carfilter.training.recipe import Recipe
from carfilter.unfinished import written_whole

_STATE = "carfilter-state-1"


@dataclass
class State:
    """Everything that changes while training."""

    network: Network
    average: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the gradients, in float16 alone
    step: int = 0
    seconds: float = 0.0


def new_state(recipe: Recipe, device: torch.device, start: Network | None = None) -> State:
    """Build the network after the recipe's seed, or take a copy of `start` to fine-tune it."""
    torch.manual_seed(recipe.seed)
    if start is None:
        shape = {"channels": recipe.channels, "blocks": recipe.blocks, "body": recipe.layers}
        network = build_network(recipe.model, {name: n for name, n in shape.items() if n})
        if isinstance(network, Fast):
            prepare_fast(network)
    else:
        network = deepcopy(start)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train().requires_grad_(True)
    average = deepcopy(network).eval().requires_grad_(False)
    tail = list(network.tail.parameters())
    trunk = [p for name, p in network.named_parameters() if not name.startswith("tail.")]
    groups = [{"params": trunk, "share": 1.0}, {"params": tail, "share": recipe.tail_rate}]
    fused = device.type == "cuda"
    optimizer = torch.optim.Adam(groups, recipe.lr, recipe.betas, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=training_precision(device) == torch.float16)
    return State(network, average, optimizer, scaler)


def prepare_fast(network: Fast) -> None:
    """Start `fast` as an edge-driven corrector, from which it learns several times faster.

    Started as it is built, it first has to unlearn that flat areas excite it, which it does by
    silencing its ReLU layers; with a tail as small as the built one it silenced all of them.
    """
    with torch.no_grad():
        luma = network.head.weight[:, : network.config.factor**2]  # before it come QP planes
        luma -= luma.mean((1, 2, 3), keepdim=True)  # no answer to flat luma
        network.body[-1].weight.mul_(0.1)  # type: ignore[operator]  # mostly the skip


def save_state(path: Path, state: State, recipe: Recipe) -> None:
    """Write all that continues the run, under a temporary name first; no pickled objects."""
    content = {
        "format": _STATE,
        "recipe": {**asdict(recipe), "betas": list(recipe.betas)},
        "config": config_of(state.network),
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    with written_whole(path) as part:
        torch.save(content, part)


def load_state(path: Path, recipe: Recipe, device: torch.device) -> State:
    """Return the state that save_state() wrote.

    The crops of a step depend on the seed and the step alone, so no generator has a state to keep.

    Raises:
        WeightsError: missing, damaged, foreign, or of a run with another recipe.
    """
    if not path.exists():
        raise WeightsError(f"{path}: no training state; start without --resume")
    unusable = f"{path}: damaged or not a training state; start a new run"
    try:
        content = read_pt(path)
        if content["format"] != _STATE:
            raise KeyError("format")
        # What a state does not name is newer than it, and was not in use.
        stored = {**asdict(Recipe()), **content["recipe"]}
        stored["betas"] = tuple(stored["betas"])
    except (WeightsError, *DAMAGED) as error:
        raise WeightsError(unusable) from error
    differing = [name for name, value in asdict(recipe).items() if stored.get(name) != value]
    if differing:
        raise WeightsError(
            f"{path}: trained with another {', '.join(differing)}; give the same options to"
            " resume, or --init to start a new run from its weights"
        )
    try:
        start = build_network(recipe.model, content["config"]) if "config" in content else None
        state = new_state(recipe, device, start)
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimizer.load_state_dict(deepcopy(content["optimizer"]))  # out of the file
        if content.get("scaler") and state.scaler.is_enabled():
            state.scaler.load_state_dict(content["scaler"])
        state.step, state.seconds = content["step"], content["seconds"]
    except DAMAGED as error:
        raise WeightsError(unusable) from error
    return state


def save(out: Path, state: State, recipe: Recipe, scores: dict[str, float] | None = None) -> None:
    """Write OUT.pt with the averaged weights and OUT.state.pt with all that resumes the run.

    Raises:
        CarfilterError: the weights are no numbers any more; what was saved before them stays.
    """
    # In half precision, as they are stored.
    if not all(bool(weight.half().isfinite().all()) for weight in state.average.parameters()):
        raise diverged(out)
    training = {"recipe": asdict(recipe), "steps": state.step, "seconds": round(state.seconds, 1)}
    save_weights(out, state.average, training, scores)
    save_state(out.with_suffix(".state.pt"), state, recipe)


def diverged(out: Path) -> CarfilterError:
    """Return the error of a run that does not come back from where it is."""
    return CarfilterError(
        f"{out}: has diverged, the loss is no number any more; give a lower --lr, anew or to --init"
        " with what was saved"
    )
