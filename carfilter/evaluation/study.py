"""One evaluation from its options to its tables: which rows, which measures, which detector.

What stands between the command line and the modules that measure; it prints nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from carfilter.detection.detector import DetectorSettings, OnnxDetector
from carfilter.errors import CarfilterError
from carfilter.evaluation import measures, methods, record, tables, verdicts
from carfilter.evaluation.cache import sha256_of
from carfilter.evaluation.detection_tables import (
    DetectionScores,
    detection_tables,
    score_detections,
)
from carfilter.evaluation.evaluate import Evaluation, OnStep, Settings, evaluate
from carfilter.evaluation.pair import evaluate_pair
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
    detector: Path | None = None
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
    found: DetectionScores | None


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
    detector = _Detector(options, threads)
    measured = _measures(options, detector, threads)
    if options.pair:
        extra = _networks(options, shipped=False)
        evaluation, given = evaluate_pair(*options.pair, measured, options.cache, extra, on_step)
        rows, variants = [methods.decode(), given, *extra], ""
    else:
        baselines = methods.spp_rows() if options.spp else []
        rows = [methods.decode(), *baselines, *_networks(options, shipped=options.shipped)]
        settings = Settings(options.cache, options.degrade, options.every_variant, jobs)
        sources = find_sources(options.clean)
        evaluation = evaluate(sources, rows, measured, settings, on_step)
        variants = record.describe_variants(options.degrade)
    return _outcome(evaluation, rows, options, detector, variants)


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


class _Detector:
    """The detector of the options, if any, with its checksum and the classes that count."""

    def __init__(self, options: Options, threads: int) -> None:
        self.model: OnnxDetector | None = None
        self.names: dict[int, str] = {}
        self.about = self.key = ""
        self.settings = options.detector_settings
        path = options.detector
        if path is None:
            return
        self.model = OnnxDetector(path, self.settings, threads)
        known = enumerate(self.model.class_names)
        self.names = {i: name for i, name in known if name in self.settings.classes}
        if not self.names:
            raise CarfilterError(
                f"{path}: knows none of the classes {', '.join(self.settings.classes)}; it has"
                f" {', '.join(self.model.class_names[:8])}, ...; name others with --classes"
            )
        digest = sha256_of(path)
        size = "frames" if self.settings.at_frame_size else "file"
        self.key = f"{digest}-{self.settings}"
        self.about = (
            f"{path.name} (sha256 {digest}), layout {self.model.layout}, at the size of the"
            f" {size}, one frame in {options.every}; truth from score"
            f" {self.settings.truth_score}, tests from {self.settings.score}, suppression at IoU"
            f" {self.settings.overlap}."
        )


def _measures(options: Options, detector: _Detector, threads: int) -> list[measures.Measure]:
    chosen = [measures.quality()]
    if options.vmaf:
        chosen.append(measures.vmaf(threads))
    if detector.model is not None:
        chosen.append(measures.boxes(detector.model, detector.key, options.every))
    if options.pictures:
        chosen.append(measures.picture(options.every))
    return chosen


def _outcome(
    evaluation: Evaluation,
    rows: Sequence[methods.Method],
    options: Options,
    detector: _Detector,
    variants: str,
) -> Outcome:
    if not evaluation.clips:
        first = next(iter(evaluation.failures.values()))
        raise CarfilterError(f"no clip could be measured; the first failed so: {first}")
    found = score_detections(evaluation, detector.names, detector.settings.truth_score)
    shown = tables.quality_tables(evaluation)
    shown[2:2] = detection_tables(evaluation, found) if found else []
    shown += tables.clip_tables(evaluation, [row.name for row in rows if row.is_model])
    if options.paper:
        shown += verdicts.paper_tables()
    made = record.Record(
        command=options.command,
        versions=record.versions(),
        variants=variants,
        rows=record.describe_rows(rows),
        detector=detector.about,
        notes=options.notes,
    )
    bars = verdicts.verdicts(evaluation, found) if options.paper else []
    return Outcome(evaluation, shown, made, bars, found)
