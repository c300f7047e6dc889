"""The command carfilter-degrade: options in, one call, exit code out."""

from pathlib import Path
from typing import Any

import click

from carfilter.commands.options import (
    CONTEXT_SETTINGS,
    buffer_option,
    even_size,
    guarded,
    terminated_as_interrupted,
)
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError

_MOST_NOISE = 255  # grey levels; more would leave black and white


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 29,35,41,47") from error
    if len(set(numbers)) < len(numbers):
        raise click.BadParameter(f"{text!r} has one of them twice; give each once")
    return numbers


def _strengths(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> tuple[float, ...]:
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a number nor a list of them") from error
    if not all(0 <= value <= _MOST_NOISE for value in values):
        raise click.BadParameter(f"{text!r} is not of 0 to {_MOST_NOISE} grey levels")
    return values


def _codecs(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    from carfilter.pairs.variants import CODECS

    names = tuple(text.split(","))
    for name in names:
        if name not in CODECS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(CODECS)}")
    return names


def _check_unused(variants: str, codecs: tuple[str, ...]) -> None:
    """Refuse a codec or qualities that these variants would not have."""
    if variants == "paper" and set(codecs) != {"h264"}:
        raise click.UsageError("the paper's variants are H.264; give --variants plain with --codec")
    source = click.get_current_context().get_parameter_source("crfs")
    if variants != "plain" and source is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("-crf is of plain variants alone; give --variants plain with it")


def _check_plain(codecs: tuple[str, ...], crfs: tuple[int, ...]) -> None:
    """Refuse qualities that a codec does not have."""
    from carfilter.pairs.variants import CODECS

    if len(set(codecs)) < len(codecs):
        raise click.BadParameter(
            "one is named twice; name each once for plain variants", param_hint="'--codec'"
        )
    for name in codecs:
        finest, coarsest = CODECS[name].ends
        for crf in crfs:
            if not finest <= crf <= coarsest:
                raise click.BadParameter(
                    f"{crf} is not in {finest}..{coarsest}, which {name} has",
                    param_hint="'-crf' / '--crf'",
                )


@click.command("carfilter-degrade", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("clean", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--variants",
    type=click.Choice(["paper", "mixed", "camera", "plain"]),
    default="paper",
    help="paper: CRF 29/35/41/47 x maxrate 2/1.5/1 Mb/s. mixed: random ones for training."
    " camera: random ones as hardware encoders make them. plain: one uncapped encode for each of"
    " --crf.",
)
@click.option(
    "--codec",
    "codecs",
    default="h264",
    callback=_codecs,
    help="A list of h264, hevc, av1, vp9, mpeg4 and mjpeg, for all variants but the paper's; the"
    " more often one is named, the more of the mixed variants it gets.",
)
@click.option(
    "-crf",
    "--crf",
    "crfs",
    default="29,35,41,47",
    callback=_numbers,
    help="For plain; on the codec's own scale, that of -q:v for mpeg4 and mjpeg.",
)
@click.option("--per-clip", default=8, type=click.IntRange(1), help="Mixed variants of a video.")
@click.option("--per-photo", default=4, type=click.IntRange(1), help="Mixed variants of a photo.")
@click.option("-preset", "--preset", default="medium", help="x264's, for paper and plain.")
@click.option("-g", "--gop", type=click.IntRange(1), help="For paper and plain. [default: x264's]")
@click.option("-bf", "--bframes", type=click.IntRange(0), help="Likewise: B-frames in a row.")
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
@buffer_option
@click.option("--scale-caps", is_flag=True, help="Scale the paper's caps with the pixel rate.")
@click.option(
    "--noise",
    default="0",
    callback=_strengths,
    help="Sensor noise added before encoding, in grey levels; with a list such as 0,2,4 each clip"
    " is made once for each.",
)
@click.option(
    "--seed", default=0, type=click.IntRange(0), help="Of everything that is drawn at random."
)
@click.option("--photo-frames", default=8, type=click.IntRange(1), help="Clip length of a photo.")
@click.option(
    "--photo-camera",
    type=click.Choice(["pan", "still"]),
    default="pan",
    help="still: a fixed view which pieces of other photos cross, as of a fixed camera.",
)
@click.option("--max-frames", type=click.IntRange(1), help="Use only the first ones of a video.")
@click.option("--jobs", default=1, type=click.IntRange(1), help="Clips at a time.")
@click.option(
    "-y",
    "overwrite",
    is_flag=True,
    help="Overwrite the results in OUT_DIR; those that are not made again are removed.",
)
@version_option
def main(
    clean: tuple[Path, ...], out_dir: Path, jobs: int, overwrite: bool, **options: Any
) -> None:
    """Make compressed twins of clean videos and photos, to train with or to evaluate on.

    CLEAN are files or folders; photos become short clips by slow pan and zoom, or of a fixed
    view. OUT_DIR gets videos/ (the encodes), clean/ (what was encoded, lossless), packs/ (luma, QP
    maps and frame types for carfilter-train) and manifest.json (real bitrate, mean QP, whether a
    cap was felt).

    Example: carfilter-degrade footage/ photos/ pairs/ --variants mixed --jobs 4
    """
    _check_unused(options["variants"], options["codecs"])
    if options["variants"] == "plain":
        _check_plain(options["codecs"], options["crfs"])

    @terminated_as_interrupted()
    def work() -> None:
        from carfilter.commands.train_display import clip_progress
        from carfilter.pairs.degrade import degrade, find_sources, has_results
        from carfilter.pairs.variants import PAPER_SIZE, Settings

        context = click.get_current_context()
        if options["variants"] == "paper" and context.params["size"] is None:
            given = context.get_parameter_source("size")
            if given is click.core.ParameterSource.DEFAULT:
                options["size"] = PAPER_SIZE
        if has_results(out_dir) and not overwrite:
            raise CarfilterError(f"{out_dir}: holds results already; give -y to overwrite them")
        if out_dir.resolve() in {path.resolve() for path in clean}:
            raise CarfilterError(f"{out_dir}: holds the clean clips; give a folder of its own")
        sources = find_sources(clean)
        with clip_progress(len(sources)) as on_clip:
            rows = degrade(sources, out_dir, Settings(**options), jobs, on_clip)
        click.echo(f"{len(rows)} variants of {len(sources)} clips in {out_dir}", err=True)

    guarded("carfilter-degrade", work)
