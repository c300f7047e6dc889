"""Measure what rows (nothing done, spp, networks) make of compressed twins of clean clips.

Scores as plain values, per frame; tables.py makes tables of them. Everything computed is kept in a
cache folder under a name made of the content it depends on, so that a second run with another model
computes that model alone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carfilter.errors import CarfilterError, MediaError
from carfilter.evaluation.cache import cached, clip_digest
from carfilter.evaluation.measures import SMALLEST_SIDE, Measure
from carfilter.evaluation.methods import Method
from carfilter.evaluation.prepared import (
    Column,
    Prepared,
    Variant,
    column_spread,
    find_columns,
    prepare,
)
from carfilter.media.clips import Clip, MeasureQp, Planes, read_clip
from carfilter.pairs.variants import CODECS
from carfilter.pairs.variants import Settings as DegradeSettings
from carfilter.pictures import MACROBLOCK

_KEY_FRAME = 1  # of Clip.types
# Fixed cameras have 0.5 and more of their macroblocks skipped at CRF 47, moving ones 0.35 at most.
_STILL = 0.45

OnStep = Callable[[str, int], object]  # what is done, and how many steps there will be


@dataclass(frozen=True)
class Settings:
    """What is measured and where results are kept."""

    cache: Path
    degrade: DegradeSettings = field(default_factory=lambda: DegradeSettings(max_frames=300))
    every_variant: bool = False  # measure variants whose cap was never felt, too
    jobs: int = 1  # clips at a time


@dataclass(frozen=True)
class Result:
    """Values of every row on one variant of one clip."""

    variant: Variant
    key_frames: tuple[int, ...]
    rows: dict[str, dict[str, Any]]  # row name -> name of the value -> value per frame


@dataclass(frozen=True)
class ClipResult:
    """All results of one clip."""

    name: str
    sha256: str
    frames: int
    width: int
    height: int
    fps: float
    results: tuple[Result, ...]
    clean: dict[str, Any]  # the measures of the clean clip itself
    still: float = 0.0  # share of macroblocks that do not change, where it is coded coarsest

    @property
    def is_fixed(self) -> bool:
        """Whether the camera seems to be fixed."""
        return self.still >= _STILL


@dataclass
class Evaluation:
    """What a run measured, and what failed."""

    clips: list[ClipResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # folder -> names of its clips
    codec: str = "h264"  # of the variants, of CODECS; empty for a given pair
    spread: float = 0.0  # largest PSNR difference in dB between variants that share a column


def evaluate(
    sources: dict[str, Path],
    methods: Sequence[Method],
    measures: Sequence[Measure],
    settings: Settings,
    on_step: OnStep = lambda _text, _total: None,
) -> Evaluation:
    """Degrade all clips, then measure every row on every column; a bad clip stops no other.

    Args:
        on_step: told each step as it ends: one per clip degraded, one per row of a variant.
    """
    done = Evaluation(codec=settings.degrade.codecs[0])
    total = len(sources) * (1 + len(methods) * len(settings.degrade.crfs))  # caps seldom bind

    def prepare_one(name: str) -> Prepared:
        prepared = prepare(name, sources[name], settings.degrade, settings.cache)
        on_step(f"{name}: compressed", total)
        return prepared

    prepared = dict(_survivors(sources, prepare_one, settings.jobs, done.failures))
    done.columns = find_columns(list(prepared.values()), every=settings.every_variant)
    done.spread = column_spread(list(prepared.values()), done.columns)
    chosen = {(crf, caps[0]) for crf, caps in done.columns}
    total = len(sources) + len(prepared) * len(chosen) * len(methods)

    def measure_one(name: str) -> ClipResult:
        clip = prepared[name]
        kept = tuple(v for v in clip.variants if (v.crf, v.cap) in chosen)
        return measure_clip(
            replace(clip, variants=kept),
            methods,
            measures,
            settings.cache,
            lambda text: on_step(text, total),
        )

    measured = dict(_survivors(prepared, measure_one, settings.jobs, done.failures))
    done.clips = [measured[name] for name in sorted(measured)]
    return done


def _survivors(
    names: Any, work: Callable[[str], Any], jobs: int, failures: dict[str, str]
) -> Iterator[tuple[str, Any]]:
    """Yield (name, result) of those that work; the sentences of the others go into `failures`."""
    if jobs == 1:  # in this thread, so that Ctrl-C is felt at once
        for name in names:
            try:
                yield name, work(name)
            except CarfilterError as error:
                failures[name] = str(error)
        return
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {pool.submit(work, name): name for name in names}
        try:
            for task in as_completed(tasks):
                try:
                    yield tasks[task], task.result()
                except CarfilterError as error:
                    failures[tasks[task]] = str(error)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def measure_clip(
    clip: Prepared,
    methods: Sequence[Method],
    measures: Sequence[Measure],
    cache: Path,
    on_row: Callable[[str], object] = lambda _text: None,
) -> ClipResult:
    """Measure every row on every variant of one clip.

    Raises:
        MediaError: a file cannot be decoded, or does not fit its clean clip.
    """
    clean = read_clip(clip.clean)
    frames, height, width = clean.luma.shape
    if min(height, width) < SMALLEST_SIDE:
        raise MediaError(
            f"{clip.name}: {width}x{height} is too small for SSIM's window; give sides of at"
            f" least {SMALLEST_SIDE} pixels"
        )
    clean_key = clip_digest(clean)
    measure_qp: MeasureQp = "always" if any(m.blind for m in methods) else "where unknown"
    results, still = [], 0.0
    for variant in clip.variants:
        coded = read_clip(variant.compared, measure_qp=measure_qp)
        if coded.luma.shape != clean.luma.shape:
            raise MediaError(f"{variant.video}: differs in size or length from {clip.clean}")
        still = max(still, _still_share(coded.luma))
        rows, coded_key = {}, clip_digest(coded)
        for method in methods:
            key = (clean_key, coded_key, method.key)
            rows[method.name] = _measure(key, method, coded, clean, measures, cache)
            scale = CODECS[clip.codec].scale
            where = "" if variant.crf is None else f", {scale} {variant.crf}"
            on_row(f"{clip.name}{where}: {method.name}")
        types = coded.types if coded.types is not None else np.zeros(frames, np.uint8)
        keys = tuple(int(i) for i in np.flatnonzero(types == _KEY_FRAME))
        results.append(Result(variant, keys, rows))
    own = {}
    for measure in measures:
        if measure.of_clean:
            own.update(
                cached(cache, (clean_key, measure.key), lambda m=measure: m.run(clean, clean))  # type: ignore[misc]
            )
    return ClipResult(
        clip.name, clip.sha256, frames, width, height, float(clean.fps), tuple(results), own, still
    )


def _still_share(luma: Planes) -> float:
    """Return the share of whole macroblocks, 0..1, that are as in the frame before."""
    frames, height, width = luma.shape
    high, wide = height // MACROBLOCK, width // MACROBLOCK
    if frames < 2 or not high or not wide:
        return 0.0
    whole = luma[:, : high * MACROBLOCK, : wide * MACROBLOCK]
    blocks = (whole[1:] != whole[:-1]).reshape(-1, high, MACROBLOCK, wide, MACROBLOCK)
    return 1.0 - float(blocks.any((2, 4)).mean())


def _measure(
    key: tuple[str, ...],
    method: Method,
    coded: Clip,
    clean: Clip,
    measures: Sequence[Measure],
    cache: Path,
) -> dict[str, Any]:
    """Return all values of a row on one variant; the row runs once, and only if one is missing."""
    restored: list[Clip] = []

    def run(measure: Measure) -> dict[str, Any]:
        if not restored:
            restored.append(method.restore(coded, clean))
        return measure.run(clean, restored[0])

    values: dict[str, Any] = {}
    for measure in measures:
        values |= cached(cache, (*key, measure.key), lambda m=measure: run(m))  # type: ignore[misc]
    return values
