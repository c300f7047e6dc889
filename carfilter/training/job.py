"""What carfilter-train does with its options: prepare, train on one or several devices, score."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from carfilter.detection.features import GRID, FeatureLoss
from carfilter.errors import CarfilterError
from carfilter.restore.devices import choose_device
from carfilter.restore.int8.calibration import calibrate
from carfilter.restore.int8.equalise import equalise
from carfilter.restore.network import Car, Fast, Network, deepen, grow
from carfilter.restore.weights import Model, load_weights, save_weights
from carfilter.training.dataset import (
    CROP_GRID,
    WINDOWS,
    Pairs,
    Sampling,
    draw_crops,
    load_pairs,
)
from carfilter.training.loop import Group, Hooks, train
from carfilter.training.recipe import Budget, Recipe, paper_recipe
from carfilter.training.smaller import narrow
from carfilter.training.state import load_state, new_state
from carfilter.training.things import find_things
from carfilter.training.validation import Score, by_crf, score_network
from carfilter.unfinished import is_stdout, is_written_through

# Crops have to show whole things, and a few of them are as much work as many small ones.
_FEATURE_DEFAULTS = {
    "feature_weight": 10.0,
    "harm": 1.0,
    "aimed": 0.75,
    "crop": 224,
    "late_crop": None,
    "batch": 4,
}
_BESIDE = ".state.pt", ".csv", ".scores.csv", ".png"  # OUT.pt, which training writes to as well
_NARROWING_DRAWS = 6
_CALIBRATION_DRAWS, _CALIBRATION_BATCH, _CALIBRATION_CROP = 16, 16, 96  # 256 crops at most 96^2


def recipe_from(options: dict[str, Any]) -> Recipe:
    """Return the recipe that is named, with the options that are given put in."""
    if options["recipe"] == "paper":
        recipe = paper_recipe(options["model"])
    else:
        recipe = Recipe(model=options["model"])
    given = {name: options[name] for name in asdict(recipe) if options.get(name) is not None}
    if given.get("late_crop") == 0:
        given["late_crop"] = None
    if options["init"]:
        given["tail_first"] = 0  # trained weights already have features worth reading
    if options["feature_weight"] and not options["feature_loss"]:
        raise CarfilterError("--feature-weight weighs what a detector sees: give --feature-loss")
    if options["feature_loss"]:
        given = {**_FEATURE_DEFAULTS, **given}
    recipe = replace(recipe, **given)
    if recipe.blocks and recipe.model != "car":
        raise CarfilterError(f"--blocks is for car, not for {recipe.model}; leave it out")
    if recipe.layers and recipe.model == "car":
        raise CarfilterError("--layers is for fast and best, not for car; give --blocks")
    if recipe.window != "mixed" and recipe.model != "best":
        raise CarfilterError(f"--window is for best, {recipe.model} sees no other pictures")
    grid = GRID if options["feature_loss"] else CROP_GRID
    for size in (recipe.crop, recipe.late_crop or grid):
        if size % grid:
            raise CarfilterError(
                f"crops of {size} pixels: not a multiple of {grid}; give another side"
            )
    return recipe


def budget_from(options: dict[str, Any], recipe: Recipe, frames: int) -> Budget:
    """Return the budget; an epoch is one crop of each degraded frame, the paper has 360."""
    given = [name for name in ("minutes", "steps", "epochs") if options[name] is not None]
    if len(given) > 1:
        raise CarfilterError(f"--{given[0]} and --{given[1]} are two budgets; give one of them")
    if options["minutes"] is not None:
        return Budget(seconds=60 * options["minutes"])
    if options["steps"] is not None:
        return Budget(steps=options["steps"])
    epochs = options["epochs"] or (360 if options["recipe"] == "paper" else None)
    if epochs is None:
        raise CarfilterError("no budget: give --minutes, --steps or --epochs")
    return Budget(steps=max(1, round(epochs * frames / recipe.batch)))


@contextmanager
def joined_group(device: torch.device) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that torchrun started, if it did; yield this one's place and device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(), device
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Gloo carries the clock and the stop sign, so that the GPU is not made to wait for them.
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    try:
        yield Group(torch.distributed.get_rank(), torch.distributed.get_world_size()), device
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending by them; a second one acts as usual."""
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        restore()

    def restore() -> None:
        for which, handler in previous.items():
            signal.signal(which, handler)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        restore()


def _check_out(out: Path) -> None:
    if is_stdout(out) or is_written_through(out):
        raise CarfilterError(f"{out}: is no file, and a training reads OUT again; name a file")
    if out in (out.with_suffix(ending) for ending in _BESIDE):
        raise CarfilterError(f"{out}: its course would be called so; name it OUT.pt")


def check_free(out: Path) -> None:
    """Refuse what a new training would replace: OUT.pt, or what lies under its names beside it.

    Where OUT.pt is not there, these are of no run that could be told, and may be anything.

    Raises:
        CarfilterError: there is such a file.
    """
    if out.exists():
        raise CarfilterError(f"{out}: exists; give --resume to go on with it, or -y to start over")
    for ending in _BESIDE:
        if (file := out.with_suffix(ending)).exists():
            raise CarfilterError(
                f"{file}: exists, and training {out.name} would replace it; give OUT another name,"
                " or -y to replace it"
            )


def check_crops(recipe: Recipe, pairs: Pairs) -> None:
    """Refuse crops that fit into no clip: the late ones are first drawn in the last third.

    Raises:
        CarfilterError: by the option that is too large.
    """
    sizes = {"--crop": recipe.crop}
    if recipe.late_crop and not recipe.detector:
        sizes["--late-crop"] = recipe.late_crop
    largest = int(np.minimum(pairs.shots["height"], pairs.shots["width"]).max())
    grid = GRID if recipe.detector else CROP_GRID
    wrong = [option for option, size in sizes.items() if size > largest]
    if wrong:
        size = sizes[wrong[0]]
        fitting = largest // grid * grid
        cure = f"give {' and '.join(wrong)} {fitting} or less" if fitting else "give larger clips"
        raise CarfilterError(
            f"{wrong[0]} {size}: no clip is as large as a crop of {size}x{size}; {cure}"
        )


def check_apart(pairs: Pairs, valid: Pairs, folder: Path) -> None:
    """Refuse scores of clips that are trained on, by their pictures, whatever they are called.

    Raises:
        CarfilterError: such a clip lies in `folder`.
    """
    trained = {about["clean_check"] for about in pairs.about}
    for about in valid.about:
        if about["clean_check"] in trained:
            raise CarfilterError(
                f"{folder}: {about['clip']} is trained on as well, which would flatter the scores;"
                " give --valid other clips, outside of PAIRS_DIR"
            )


def run_training(
    pairs_dir: Path,
    out: Path,
    options: dict[str, Any],
    on_log: Callable[[dict[str, Any]], object],
) -> None:
    """Train OUT.pt on the packs, or clean clips, in `pairs_dir`; `options` as of the command.

    Raises:
        CarfilterError: an option does not fit, or a file is missing, damaged or in the way.
        KeyboardInterrupt: with its number, after SIGINT or SIGTERM, when everything is saved.
    """
    _check_out(out)
    if not (options["resume"] or options["overwrite"]):
        check_free(out)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    recipe = recipe_from(options)
    features = FeatureLoss(options["feature_loss"]) if options["feature_loss"] else None
    if features is not None:
        recipe = replace(recipe, detector=features.sha256)
    teacher = _teacher(options["teacher"], recipe) if options["teacher"] else None
    if teacher is not None:
        recipe = replace(recipe, teacher=teacher.sha256)
    with joined_group(choose_device(options["device"])) as (group, device):
        state = (
            load_state(out.with_suffix(".state.pt"), recipe, device) if options["resume"] else None
        )
        start = _start(recipe, options["init"]) if options["init"] and state is None else None
        references = recipe.model == "best"
        pairs = load_pairs(packs_of(pairs_dir, out, recipe.seed), references=references)
        budget = budget_from(options, recipe, pairs.frames)
        check_crops(recipe, pairs)
        if features is not None:
            pairs = replace(pairs, things=find_things(pairs, features.detector))
            features.to(device)
        if state is None:
            state = new_state(recipe, device, _narrowed(start, recipe, pairs))
        valid = None
        if options["valid"] and group.rank == 0:
            valid = load_pairs(options["valid"], references=references)
            check_apart(pairs, valid, options["valid"])
        out.parent.mkdir(parents=True, exist_ok=True)
        with interrupts() as seen:
            hooks = Hooks(
                on_log=on_log,
                stop=lambda: bool(seen),
                score=None if valid is None else lambda network: quick_score(network, valid),
                save_seconds=60 * options["save_minutes"],
                score_seconds=60 * options["score_minutes"],
            )
            network = None if teacher is None else teacher.network.to(device)
            train(pairs.to(device), out, recipe, budget, state, hooks, group, features, network)
        if group.rank == 0:
            calibrate_weights(out, pairs, recipe)
    if seen:
        raise KeyboardInterrupt(seen[0])


def calibrate_weights(out: Path, pairs: Pairs, recipe: Recipe) -> None:
    """Make OUT.pt fit for int8: channels scaled alike, and ranges stored, by crops as trained on.

    None of the crops has references that show something else, which reach further.
    """
    model = load_weights(out)
    if not isinstance(model.network, Fast):
        return
    usual = Sampling(
        min(recipe.crop, _CALIBRATION_CROP),
        references=recipe.model == "best",
        strange=0.0,
        **WINDOWS[recipe.window],
    )

    def draws() -> Iterator[tuple[Tensor, ...]]:
        for index in range(_CALIBRATION_DRAWS):
            rng = np.random.default_rng(index)
            yield draw_crops(pairs, _CALIBRATION_BATCH, usual, rng).inputs

    equalise(model.network, draws())
    ranges = calibrate(model.network, draws())
    save_weights(out, model.network, model.training, model.scores, ranges)


def packs_of(folder: Path, out: Path, seed: int) -> Path:
    """Return `folder` if it holds packs; else make mixed twins of its clean clips in OUT.pairs.

    Raises:
        MediaError: it holds neither packs nor videos nor pictures, or a clip cannot be used.
        CarfilterError: OUT.pairs is of carfilter-degrade, and would be replaced.
    """
    pairs = out.with_suffix(".pairs")
    if _has_packs(folder, pairs) or "WORLD_SIZE" in os.environ:
        return folder  # torchrun's processes would all make the same files at once
    from carfilter.pairs.degrade import degrade, find_sources, holds, is_made_otherwise
    from carfilter.pairs.variants import Settings

    settings = Settings(variants="mixed", seed=seed)
    curve = out.with_suffix(".png").resolve()  # no photograph, where OUT lies among the clips
    sources = {
        name: path for name, path in find_sources([folder]).items() if path.resolve() != curve
    }
    if is_made_otherwise(pairs, settings):
        raise CarfilterError(
            f"{pairs}: holds pairs that were made otherwise; give OUT another name, or this as"
            " PAIRS_DIR to train with them"
        )
    if not holds(pairs, sources, settings):
        degrade(sources, pairs, settings, jobs=os.cpu_count() or 1)
    return pairs


def _has_packs(folder: Path, pairs: Path) -> bool:
    """Say whether there are packs below a folder; those that were made of its own clips do not
    count, which lie there where OUT does."""
    inside = pairs.resolve()
    if folder.resolve().is_relative_to(inside):
        return any(folder.rglob("*.npz"))
    return any(not path.resolve().is_relative_to(inside) for path in folder.rglob("*.npz"))


def _start(recipe: Recipe, init: str) -> Network:
    """Return the network to fine-tune, grown to what the recipe asks for."""
    start: Network = load_weights(init).network
    if isinstance(start, Fast) and not start.references and recipe.model == "best":
        start = grow(start)
    if isinstance(start, Car) and recipe.blocks:
        try:
            start = deepen(start, recipe.blocks)
        except ValueError as error:
            raise CarfilterError(f"{init}: {error}; give more --blocks") from error
    if start.name != recipe.model:
        raise CarfilterError(
            f"{init}: a {start.name} network; give --model {start.name} to fine-tune it"
        )
    if isinstance(start, Car):
        if recipe.channels:
            raise CarfilterError("--channels is for a new car; --init brings its own")
    elif (recipe.channels or 0) > start.config.channels:
        raise CarfilterError(
            f"{init}: has {start.config.channels} channels, which --channels only makes fewer"
        )
    elif 0 < (recipe.layers or 0) < start.config.body:
        raise CarfilterError(f"{init}: has {start.config.body} layers; give as many --layers")
    return start


def _narrowed(start: Network | None, recipe: Recipe, pairs: Pairs) -> Network | None:
    if not isinstance(start, Fast) or not (recipe.channels or recipe.layers):
        return start
    sampling = Sampling(recipe.crop, references=recipe.model == "best")
    draws = (
        draw_crops(pairs, 2 * recipe.batch, sampling, np.random.default_rng(index))
        for index in range(_NARROWING_DRAWS)
    )
    body = recipe.layers or start.config.body
    return narrow(start, draws, recipe.channels or start.config.channels, body)


def _teacher(name: str, recipe: Recipe) -> Model:
    model = load_weights(name)
    if model.network.references and recipe.model != "best":
        raise CarfilterError(f"{name}: looks at other frames, which {recipe.model} has none of")
    model.network.eval().requires_grad_(False)
    return model


def quick_score(network: Network, valid: Pairs) -> dict[str, float]:
    """Return mean and least PSNR gain per CRF on two frames of each clip, in all modes."""
    row = {}
    for mode in modes(network):
        scores = score_network(network, valid, mode, limit=2, with_ssim=False)
        for crf, gain, least, _ in by_crf(scores):
            row[f"{mode}_{crf}"] = round(gain, 4)
            row[f"{mode}_{crf}_min"] = round(least, 4)
    return row


def modes(network: Network) -> tuple[str, ...]:
    """Return what to score a network with, see validation.MODES."""
    if network.references:
        return ("qp", "past", "alone", "blind")
    return ("qp", "blind") if network.uses_qp else ("blind",)


def score_weights(pairs_dir: Path, weights: Path, device_name: str, every: int) -> list[Score]:
    """Score existing weights on all packs below a folder, in every mode of modes().

    Raises:
        CarfilterError: no packs, no such weights, no such device.
    """
    network = load_weights(weights).network.to(choose_device(device_name))
    pairs = load_pairs(pairs_dir, references=bool(network.references))
    return [
        score
        for mode in modes(network)
        for score in score_network(network, pairs, mode, every=every)
    ]
