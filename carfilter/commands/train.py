"""The command carfilter-train: options in, one call, exit code out."""

from pathlib import Path
from typing import Any

import click

from carfilter.commands.options import (
    CONTEXT_SETTINGS,
    Number,
    guarded,
    terminated_as_interrupted,
)
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option


@click.command("carfilter-train", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("pairs_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--model", type=click.Choice(["car", "fast", "best"]), default="fast", show_default=True
)
@click.option(
    "--channels",
    type=click.IntRange(4),
    help="Channels of a layer; of --init's those that matter least are left out. [default: 64 for"
    " car, else 48]",
)
@click.option(
    "--layers",
    type=click.IntRange(1),
    help="Layers of fast and best between head and tail; those that --init lacks change nothing at"
    " first. [default: 6]",
)
@click.option(
    "--blocks",
    type=click.IntRange(1),
    help="Residual blocks of car; a shallower one given to --init gets identities for those that it"
    " lacks. [default: 15]",
)
@click.option(
    "--recipe",
    type=click.Choice(["fast", "paper"]),
    default="fast",
    show_default=True,
    help="Defaults of all below: fast is ours; paper is CAR-CNN's (64x64 crops, horizontal flips,"
    " Adam 1e-4, batch 128, 360 epochs, constant rate).",
)
@click.option(
    "--loss",
    type=click.Choice(["mse", "ssim", "both", "charbonnier"]),
    help="both is 0.79 SSIM + 0.21 MSE. [default: mse; with --recipe paper: both]",
)
@click.option("--alpha", type=Number(0, 1), help="Weight of SSIM in both. [default: 0.79]")
@click.option(
    "--balance",
    type=Number(0, 2),
    help="Weigh a sample by its frame's error to this power, inverted. [default: 0.5; paper: 0]",
)
@click.option(
    "--flicker",
    type=Number(0),
    help="Weight of how much still areas flicker, in grey levels; crops are drawn as pairs of"
    " neighbouring frames then. [default: 0]",
)
@click.option(
    "--feature-loss",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Detector (ONNX) whose features of clean and restored crops the loss compares, too; every"
    " other step's crops are drawn where it sees something. Sets --crop 224 --batch 4.",
)
@click.option(
    "--feature-weight",
    type=Number(0),
    help="Weight of its features. [default with --feature-loss: 10]",
)
@click.option(
    "--teacher",
    help="Half of what is learned is what these weights make: a path or a shipped model.",
)
@click.option("--minutes", type=Number(0, min_open=True), help="Budget of time.")
@click.option("--steps", type=click.IntRange(1), help="Budget of steps, instead.")
@click.option("--epochs", type=click.IntRange(1), help="Budget in frames of the set, instead.")
@click.option("--lr", type=Number(0, min_open=True), help="Largest learning rate.")
@click.option("--batch", type=click.IntRange(1), help="Crops in a step, of all processes together.")
@click.option("--crop", type=click.IntRange(16), help="Side of a crop, a multiple of 16.")
@click.option("--late-crop", type=click.IntRange(0), help="Side in the last third; 0 is the same.")
@click.option("--qp-dropout", type=Number(0, 1), help="Share trained without QP map.")
@click.option(
    "--window",
    type=click.Choice(["mixed", "past", "whole"]),
    help="For best: train for whatever other pictures there are, for past ones alone, or for past"
    " and later ones. [default: mixed]",
)
@click.option("--warmup", type=click.IntRange(0), help="Steps until the largest rate.")
@click.option("--seed", type=click.IntRange(0), help="Of weights and crops.")
@click.option("--init", help="Fine-tune these weights: a path or a shipped model.")
@click.option("--resume", is_flag=True, help="Go on where OUT.state.pt ends.")
@click.option("-y", "overwrite", is_flag=True, help="Start over although OUT exists.")
@click.option(
    "--valid", type=click.Path(path_type=Path, file_okay=False), help="Packs to score with."
)
@click.option(
    "--score-minutes", default=10.0, type=Number(0), show_default=True, help="Time between scores."
)
@click.option(
    "--save-minutes",
    default=5.0,
    type=Number(0),
    show_default=True,
    help="Time between checkpoints.",
)
@click.option(
    "--score-only", is_flag=True, help="Score OUT on the packs in PAIRS_DIR, no training."
)
@click.option(
    "--every",
    default=1,
    type=click.IntRange(1),
    show_default=True,
    help="Score each so many-th frame of a clip.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: torch's]")
@version_option
def main(pairs_dir: Path, out: Path, **options: Any) -> None:
    """Train a model on the packs of carfilter-degrade, or fine-tune one on your own footage.

    PAIRS_DIR is a folder of carfilter-degrade, or of clean clips: then their mixed twins are made
    first, in OUT.pairs. OUT.pt can be used at any time; beside it lie OUT.state.pt (to resume),
    OUT.csv and OUT.scores.csv (the course) and OUT.png (its curve). Ctrl-C and SIGTERM save
    and stop.

    Example: carfilter-train my-clean-clips/ mine.pt --init fast --lr 1e-4 --minutes 20
    """

    @terminated_as_interrupted()  # while pairs are made; training itself saves first
    def work() -> None:
        if options["score_only"]:
            from carfilter.commands.train_display import print_scores
            from carfilter.training.job import score_weights
            from carfilter.training.validation import MODES, by_crf

            scores = score_weights(pairs_dir, out, options["device"], options["every"])
            for mode, title in MODES.items():
                if rows := list(by_crf([s for s in scores if s.mode == mode])):
                    print_scores(rows, title)
            return
        _train(pairs_dir, out, options)

    guarded("carfilter-train", work)


def _train(pairs_dir: Path, out: Path, options: dict[str, Any]) -> None:
    """Train, and draw the course even of a run that was stopped or failed; not of a refused one."""
    from carfilter.commands.train_display import save_curve, training_progress
    from carfilter.training.job import run_training

    course: list[dict[str, Any]] = []
    drawn = False
    with training_progress(out.stem) as show:

        def on_log(row: dict[str, Any]) -> None:
            course.append(row)
            show(row)

        try:
            run_training(pairs_dir, out, options, on_log)
        finally:
            drawn = bool(course) and save_curve(out)
    click.echo(f"wrote {out}", err=True)
    if course and not drawn:
        click.echo("no curve was drawn: pip install carfilter[train] for matplotlib", err=True)


if (
    __name__ == "__main__"
):  # for torchrun: python -m torch.distributed.run -m carfilter.commands.train
    main()
