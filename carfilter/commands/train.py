"""The commands carfilter-degrade and carfilter-train: options in, one call, exit code out."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from carfilter.cli import even_size
from carfilter.errors import CarfilterError


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 29,35,41,47") from error


def _strengths(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> tuple[float, ...]:
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a number nor a list of them") from error
    if min(values) < 0:
        raise click.BadParameter("noise has no negative strength")
    return values


def _guarded(command: str, work: Callable[[], None]) -> None:
    """Run the work; one sentence and exit code 1 for our errors, 130 after Ctrl-C."""
    try:
        work()
    except CarfilterError as error:
        click.echo(f"{command}: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(f"{command}: interrupted", err=True)
        sys.exit(130)


@click.command("carfilter-degrade", context_settings={"show_default": True})
@click.argument("clean", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--variants",
    type=click.Choice(["paper", "mixed", "plain"]),
    default="paper",
    help="paper: CRF 29/35/41/47 x maxrate 2/1.5/1 Mb/s. mixed: random ones for training."
    " plain: one uncapped encode for each of --crf.",
)
@click.option("-crf", "--crf", "crfs", default="29,35,41,47", callback=_numbers, help="For plain.")
@click.option("--per-clip", default=8, type=click.IntRange(1), help="Mixed variants of a video.")
@click.option("--per-photo", default=4, type=click.IntRange(1), help="Mixed variants of a photo.")
@click.option("-preset", "--preset", default="medium", help="x264's, for paper and plain.")
@click.option("-g", "--gop", type=click.IntRange(1), help="For paper and plain. [default: x264's]")
@click.option(
    "--size",
    callback=even_size,
    help="WIDTHxHEIGHT, or source. [default: 910x512 for paper, else source]",
)
@click.option(
    "--scale",
    type=click.Choice(["before", "after"]),
    default="before",
    help="Scale to --size before the encoder, or what it has coded (then there is no QP map).",
)
@click.option(
    "--bufsize-seconds", default=1.0, help="VBV buffer, in seconds of the cap it belongs to."
)
@click.option("--scale-caps", is_flag=True, help="Scale the paper's caps with the pixel rate.")
@click.option(
    "--noise",
    default="0",
    callback=_strengths,
    help="Sensor noise added before encoding, in grey levels; with a list such as 0,2,4 each clip"
    " is made once for each.",
)
@click.option("--seed", default=0, help="Of everything that is drawn at random.")
@click.option("--photo-frames", default=8, type=click.IntRange(1), help="Clip length of a photo.")
@click.option(
    "--photo-camera",
    type=click.Choice(["pan", "still"]),
    default="pan",
    help="still: a fixed view which pieces of other photos cross, as of a fixed camera.",
)
@click.option("--max-frames", type=click.IntRange(1), help="Use only the first ones of a video.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Clips at a time.")
@click.option("-y", "overwrite", is_flag=True, help="Overwrite the results in OUT_DIR.")
def degrade_main(
    clean: tuple[Path, ...], out_dir: Path, jobs: int, overwrite: bool, **options: Any
) -> None:
    """Make compressed twins of clean videos and photos, to train with or to evaluate on.

    CLEAN are files or folders; photos become short clips by slow pan and zoom, or of a fixed
    view. OUT_DIR gets videos/ (the encodes), clean/ (what was encoded, lossless), packs/ (luma, QP
    maps and frame types for carfilter-train) and manifest.json (real bitrate, mean QP, whether a
    cap was felt).

    Example: carfilter-degrade footage/ photos/ pairs/ --variants mixed --jobs 4
    """

    def work() -> None:
        from carfilter.degrade import degrade, find_sources
        from carfilter.display_training import clip_progress
        from carfilter.variants import PAPER_SIZE, Settings

        context = click.get_current_context()
        if options["variants"] == "paper" and context.params["size"] is None:
            given = context.get_parameter_source("size")
            if given is click.core.ParameterSource.DEFAULT:
                options["size"] = PAPER_SIZE
        if (out_dir / "manifest.json").exists() and not overwrite:
            raise CarfilterError(f"{out_dir}: holds results already; give -y to overwrite them")
        sources = find_sources(clean)
        with clip_progress(len(sources)) as on_clip:
            rows = degrade(sources, out_dir, Settings(**options), jobs, on_clip)
        click.echo(f"{len(rows)} variants of {len(sources)} clips in {out_dir}", err=True)

    _guarded("carfilter-degrade", work)


@click.command("carfilter-train")
@click.argument("pairs_dir", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--model", type=click.Choice(["car", "fast", "best"]), default="fast", show_default=True
)
@click.option(
    "--channels",
    type=click.IntRange(4),
    help="Channels of a new network's layers. [default: 64 for car, else 48]",
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
@click.option(
    "--alpha", type=click.FloatRange(0, 1), help="Weight of SSIM in both. [default: 0.79]"
)
@click.option(
    "--balance",
    type=click.FloatRange(0, 2),
    help="Weigh a sample by its frame's error to this power, inverted. [default: 0.5; paper: 0]",
)
@click.option(
    "--flicker",
    type=click.FloatRange(0),
    help="Weight of how much still areas flicker, in grey levels; crops are drawn as pairs of"
    " neighbouring frames then. [default: 0]",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget of time.")
@click.option("--steps", type=click.IntRange(1), help="Budget of steps, instead.")
@click.option("--epochs", type=click.IntRange(1), help="Budget in frames of the set, instead.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Largest learning rate.")
@click.option("--batch", type=click.IntRange(1), help="Crops in a step, of all processes together.")
@click.option("--crop", type=click.IntRange(16), help="Side of a crop, a multiple of 16.")
@click.option("--late-crop", type=click.IntRange(0), help="Side in the last third; 0 is the same.")
@click.option("--qp-dropout", type=click.FloatRange(0, 1), help="Share trained without QP map.")
@click.option("--warmup", type=click.IntRange(0), help="Steps until the largest rate.")
@click.option("--seed", type=click.IntRange(0), help="Of weights and crops.")
@click.option("--init", help="Fine-tune these weights: a path or a shipped model.")
@click.option("--resume", is_flag=True, help="Go on where OUT.state.pt ends.")
@click.option("-y", "overwrite", is_flag=True, help="Start over although OUT exists.")
@click.option(
    "--valid", type=click.Path(path_type=Path, file_okay=False), help="Packs to score with."
)
@click.option("--score-minutes", default=10.0, show_default=True, help="Time between scores.")
@click.option("--save-minutes", default=5.0, show_default=True, help="Time between checkpoints.")
@click.option(
    "--score-only", is_flag=True, help="Score OUT on the packs in PAIRS_DIR, no training."
)
@click.option(
    "--every", default=1, show_default=True, help="Score each so many-th frame of a clip."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: torch's]")
def train_main(pairs_dir: Path, out: Path, **options: Any) -> None:
    """Train a model on the packs of carfilter-degrade, or fine-tune one on your own footage.

    PAIRS_DIR is a folder of carfilter-degrade, or of clean clips: then their mixed twins are made
    first, in OUT.pairs. OUT.pt can be used at any time; beside it lie OUT.state.pt (to resume),
    OUT.csv and OUT.scores.csv (the course) and OUT.png (its curve). Ctrl-C saves and stops.

    Example: carfilter-train my-clean-clips/ mine.pt --init fast --lr 1e-4 --minutes 20
    """

    def work() -> None:
        from carfilter.display_training import print_scores, save_curve, training_progress

        if options["score_only"]:
            from carfilter.training_run import score_weights
            from carfilter.validation import MODES, by_crf

            scores = score_weights(pairs_dir, out, options["device"], options["every"])
            for mode, title in MODES.items():
                if rows := list(by_crf([s for s in scores if s.mode == mode])):
                    print_scores(rows, title)
            return
        from carfilter.training_run import run_training

        with training_progress(out.stem) as on_log:
            try:
                run_training(pairs_dir, out, options, on_log)
            finally:
                drawn = out.with_suffix(".csv").exists() and save_curve(out)
        if not drawn and out.with_suffix(".csv").exists():
            click.echo("no curve was drawn: pip install carfilter[train] for matplotlib", err=True)

    _guarded("carfilter-train", work)


if __name__ == "__main__":  # for torchrun: python -m torch.distributed.run -m carfilter.cli_train
    train_main()
