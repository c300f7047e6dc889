"""What carfilter-train does with its options: prepare, train on one or several devices, score."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from carfilter.dataset import Pairs, load_pairs
from carfilter.display_training import print_scores, training_progress
from carfilter.errors import CarfilterError, DeviceError
from carfilter.network import Network
from carfilter.train import Budget, Recipe, load_state, new_state, paper_recipe, train
from carfilter.validation import by_crf, score_network
from carfilter.weights import load_weights


def recipe_from(options: dict[str, Any]) -> Recipe:
    """Return the recipe that is named, with the options that are given put in."""
    if options["recipe"] == "paper":
        recipe = paper_recipe(options["model"])
    else:
        recipe = Recipe(model=options["model"], wake=50.0 if options["model"] == "fast" else 1.0)
    given = {name: options[name] for name in asdict(recipe) if options.get(name) is not None}
    if given.get("late_crop") == 0:
        given["late_crop"] = None
    recipe = replace(recipe, **given)
    for size in (recipe.crop, recipe.late_crop or 16):
        if size % 16:
            raise CarfilterError(f"crops of {size} pixels: not a multiple of 16; give another side")
    return recipe


def budget_from(options: dict[str, Any], recipe: Recipe, frames: int) -> Budget:
    """Return the budget; the paper's is 360 epochs, one being a crop of each frame."""
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


def pick_device(name: str) -> torch.device:
    """Return the device of that name; auto takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name}: no such device; give cpu, cuda, cuda:1 or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"{name}: PyTorch sees no CUDA device; give --device cpu")
    return device


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect SIGINT instead of raising; a second one acts as usual."""
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


def run(pairs_dir: Path, out: Path, options: dict[str, Any]) -> None:
    """Carry out carfilter-train."""
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = pick_device(options["device"])
    if options["score_only"]:
        score_only(pairs_dir, out, device, options["every"])
        return
    recipe = recipe_from(options)
    state_path = out.with_suffix(".state.pt")
    if out.exists() and not (options["resume"] or options["overwrite"]):
        raise CarfilterError(f"{out}: exists; give --resume to go on with it, or -y to start over")
    if options["resume"]:
        state = load_state(state_path, recipe, device)
    else:
        start = load_weights(options["init"]).network if options["init"] else None
        state = new_state(recipe, device, start)
    pairs = load_pairs(pairs_dir)
    budget = budget_from(options, recipe, pairs.frames)
    valid = load_pairs(options["valid"]) if options["valid"] else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with interrupts() as seen, training_progress(out.stem) as on_log:
        train(
            pairs.to(device),
            out,
            recipe,
            budget,
            state,
            save_seconds=60 * options["save_minutes"],
            score=None if valid is None else lambda network: quick_score(network, valid),
            score_seconds=60 * options["score_minutes"],
            on_log=on_log,
            stop=lambda: bool(seen),
        )
    if seen:
        raise KeyboardInterrupt


def quick_score(network: Network, valid: Pairs) -> dict[str, float]:
    """Return mean PSNR gains per CRF on three frames of each clip, with QP maps and blind."""
    row = {}
    for blind in (False, True) if network.uses_qp else (True,):
        for crf, gain, least, _ in by_crf(score_network(network, valid, blind=blind, limit=3)):
            row[f"{'blind' if blind else 'qp'}_{crf}"] = round(gain, 4)
            row[f"{'blind' if blind else 'qp'}_{crf}_min"] = round(least, 4)
    return row


def score_only(pairs_dir: Path, out: Path, device: torch.device, every: int) -> None:
    """Print mean gains per CRF, with QP maps and blind, of existing weights."""
    network = load_weights(out).network.to(device)
    pairs = load_pairs(pairs_dir)
    for blind in (False, True) if network.uses_qp else (True,):
        print_scores(score_network(network, pairs, blind=blind, every=every), blind=blind)
