"""One evaluation from its options to its tables: which rows, which measures, which detector.

What stands between the command line and the modules that measure; it prints nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from carfilter.detection.detector import DetectorSettings, OnnxDetector
from carfilter.detection.ssd import SsdDetector
from carfilter.errors import CarfilterError
from carfilter.evaluation import measures, methods, record, tables, verdicts
from carfilter.evaluation.detection_scores import DetectionScores, Judge, score_detections
from carfilter.evaluation.detection_tables import detection_tables
from carfilter.evaluation.evaluate import Evaluation, OnStep, Settings, evaluate
from carfilter.evaluation.pair import evaluate_pair
from carfilter.media.opening import sha256_of
from carfilter.pairs.degrade import find_sources
from carfilter.pairs.variants import Settings as DegradeSettings
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import load_weights, shipped_models


@dataclass(frozen=True)
class Options:
    """What the command line asks for; its help says what each one means."""

    cache: Path
    clean: tuple[Path, ...] = ()
    pair: tuple[Path, Path, Path] | None = None  # reference, distorted, restored
    weights: tuple[str, ...] = ()
    shipped: bool = True
    blind: bool = False
    spp: bool = True
    vmaf: bool = True
    detectors: tuple[Path, ...] = ()
    detector_settings: DetectorSettings = field(default_factory=DetectorSettings)
    every: int = 1
    degrade: DegradeSettings = field(default_factory=DegradeSettings)
    every_variant: bool = False
    restore: RestoreOptions = field(default_factory=RestoreOptions)
    jobs: int = 0
    paper: bool = False
    notes: tuple[str, ...] = ()
    pictures: bool = False
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """Everything that is shown and written."""

    evaluation: Evaluation
    tables: list[tables.Table]
    record: record.Record
    verdicts: list[verdicts.Verdict]
    found: list[DetectionScores]  # of each detector


def run(options: Options, on_step: OnStep = lambda _text, _total: None) -> Outcome:
    """Measure the clips or the pair of the options.

    Raises:
        CarfilterError: nothing could be measured, or an option asks for what is not there.
    """
    jobs = options.jobs or max(1, (os.cpu_count() or 1) // 4)
    if options.pair:
        jobs = 1
    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)
    detectors = [_Detector(path, options, threads) for path in options.detectors]
    measured = _measures(options, detectors, threads)
    if options.pair:
        extra = _networks(options, shipped=False)
        evaluation, given = evaluate_pair(*options.pair, measured, options.cache, extra, on_step)
        rows, variants = [methods.decode(), given, *extra], ""
    else:
        h264 = options.degrade.codecs == ("h264",)
        baselines = methods.spp_rows(as_paper=h264) if options.spp else []
        rows = [methods.decode(), *baselines, *_networks(options, shipped=options.shipped)]
        settings = Settings(options.cache, options.degrade, options.every_variant, jobs)
        sources = find_sources(options.clean)
        evaluation = evaluate(sources, rows, measured, settings, on_step)
        evaluation.groups = _folders(options.clean, sources)
        variants = record.describe_variants(options.degrade)
    return _outcome(evaluation, rows, options, detectors, variants)


def _networks(options: Options, *, shipped: bool) -> list[methods.Method]:
    """Return the rows of the shipped and the named models, each checkpoint once."""
    names = [*(shipped_models() if shipped else []), *options.weights]
    models = {model.sha256: model for model in map(load_weights, names)}
    rows = []
    for model in models.values():
        rows.append(methods.network(model, options.restore))
        if options.blind and model.network.uses_qp:
            rows.append(methods.network(model, options.restore, blind=True))
        if model.network.references:
            rows.append(methods.network(model, options.restore, past=True))
    return rows


def _folders(paths: Sequence[Path], sources: dict[str, Path]) -> dict[str, tuple[str, ...]]:
    """Return the clips of each folder that was named, if several were, under a short name."""
    folders = [path.resolve() for path in paths if path.is_dir()]
    if len(folders) < 2:
        return {}
    common = Path(os.path.commonpath(folders))
    parts = {path: path.relative_to(common).parts for path in folders if path != common}
    return {
        _short_name(own, [*parts.values()]): tuple(
            name for name, path in sources.items() if path.absolute().parent.resolve() == folder
        )
        for folder, own in parts.items()
    }


def _short_name(own: tuple[str, ...], among: Sequence[tuple[str, ...]]) -> str:
    """Return the first parts of a path, as few as no other begins with."""
    for length in range(1, len(own)):
        if sum(parts[:length] == own[:length] for parts in among) == 1:
            return "/".join(own[:length])
    return "/".join(own)


class _Detector:
    """A detector of the options, with its checksum and the classes that count."""

    def __init__(self, path: Path, options: Options, threads: int) -> None:
        settings = options.detector_settings
        self.model: OnnxDetector | SsdDetector
        if path.suffix == ".pb":
            self.model = SsdDetector(path, settings)
            size = "300x300"
        else:
            self.model = OnnxDetector(path, settings, threads)
            size = "the size of the " + ("frames" if settings.at_frame_size else "file")
        known = enumerate(self.model.class_names)
        names = {i: name for i, name in known if name in settings.classes}
        if not names:
            raise CarfilterError(
                f"{path}: knows none of the classes {', '.join(settings.classes)}; it has"
                f" {', '.join(self.model.class_names[:8])}, ...; name others with --classes"
            )
        digest = sha256_of(path)
        is_ssd = self.model.layout == "ssd"
        title = "SSD" if is_ssd else path.stem
        # Its description is part of what an SSD finds.
        beside = sorted(sha256_of(text) for text in path.parent.glob("*.pbtxt")) if is_ssd else []
        self.judge = Judge(title, f"{measures.BOXES} {digest[:16]}", names, settings.truth_score)
        self.key = "-".join([digest, *beside, str(settings)])
        self.about = (
            f"{path.name} (sha256 {digest}), layout {self.model.layout}, at {size}, one frame in"
            f" {options.every}; truth from score {settings.truth_score}, tests from"
            f" {settings.score}, suppression at IoU {settings.overlap}."
        )


def _measures(
    options: Options, detectors: Sequence[_Detector], threads: int
) -> list[measures.Measure]:
    chosen = [measures.quality()]
    if options.vmaf:
        chosen.append(measures.vmaf(threads))
    chosen += [
        measures.boxes(one.model, one.judge.value, one.key, options.every) for one in detectors
    ]
    if options.pictures:
        chosen.append(measures.picture(options.every))
    return chosen


def _outcome(
    evaluation: Evaluation,
    rows: Sequence[methods.Method],
    options: Options,
    detectors: Sequence[_Detector],
    variants: str,
) -> Outcome:
    if not evaluation.clips:
        first = next(iter(evaluation.failures.values()))
        raise CarfilterError(f"no clip could be measured; the first failed so: {first}")
    scored = [score_detections(evaluation, one.judge) for one in detectors]
    found = [scores for scores in scored if scores is not None]
    shown = tables.quality_tables(evaluation)
    shown[2:2] = [table for scores in found for table in detection_tables(evaluation, scores)]
    shown += tables.clip_tables(evaluation, [row.name for row in rows if row.is_model])
    if options.paper:
        shown += verdicts.paper_tables()
    made = record.Record(
        command=options.command,
        versions=record.versions(),
        variants=variants,
        rows=record.describe_rows(rows),
        detector=" ".join(one.about for one in detectors),
        notes=options.notes,
    )
    bars = verdicts.verdicts(evaluation, found) if options.paper else []
    return Outcome(evaluation, shown, made, bars, found)
