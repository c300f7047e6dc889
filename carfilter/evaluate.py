"""Measure what rows (nothing done, spp, networks) make of compressed twins of clean clips.

Scores as plain values, per frame; tables.py makes tables of them. Everything computed is kept in a
cache folder under a name made of the content it depends on, so that a second run with another model
computes that model alone.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from carfilter.clips import Clip, read_clip
from carfilter.degrade import degrade
from carfilter.errors import CarfilterError, MediaError
from carfilter.measures import SMALLEST_SIDE, Measure, psnr_per_frame
from carfilter.methods import Method
from carfilter.variants import PAPER_CRFS
from carfilter.variants import Settings as DegradeSettings

_DEGRADE_VERSION = 1  # raise it when what a cached variant means changes
_KEY_FRAME = 1  # of Clip.types

OnStep = Callable[[str, int], object]  # what is done, and how many steps there will be


@dataclass(frozen=True)
class Settings:
    """What is measured and where results are kept."""

    cache: Path
    degrade: DegradeSettings = field(default_factory=lambda: DegradeSettings(max_frames=300))
    every_variant: bool = False  # measure variants whose cap was never felt, too
    jobs: int = 1  # clips at a time


@dataclass(frozen=True)
class Variant:
    """One compressed version of a clip; None where a given pair does not tell."""

    crf: int | None
    cap: int | None  # bits per second
    kbps: float
    mean_qp: float | None
    cap_share: float | None  # of the pictures that felt the cap
    decode_psnr: float
    video: Path
    sha256: str
    compared: Path  # what is decoded and compared: the video, or its scaled version

    @property
    def cap_felt(self) -> bool:
        """Whether the bitrate cap changed anything worth a column of its own."""
        return self.cap_share is None or self.cap_share > 0


@dataclass(frozen=True)
class Prepared:
    """A clean clip with its variants, not measured yet."""

    name: str
    sha256: str
    clean: Path
    variants: tuple[Variant, ...]


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


@dataclass
class Evaluation:
    """What a run measured, and what failed."""

    clips: list[ClipResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    columns: list[tuple[int | None, tuple[int | None, ...]]] = field(default_factory=list)
    spread: float = 0.0  # largest PSNR difference in dB between variants that share a column


def sha256_of(path: Path) -> str:
    """Return the checksum of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    done = Evaluation()
    total = len(sources) * (1 + len(methods) * len(PAPER_CRFS))  # caps seldom bind

    def prepare_one(name: str) -> Prepared:
        prepared = prepare(name, sources[name], settings)
        on_step(f"{name}: compressed", total)
        return prepared

    prepared = dict(_survivors(sources, prepare_one, settings.jobs, done.failures))
    done.columns = find_columns(list(prepared.values()), every=settings.every_variant)
    done.spread = _spread(list(prepared.values()), done.columns)
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


def prepare(name: str, source: Path, settings: Settings) -> Prepared:
    """Make or find the compressed variants of a clean clip in the cache.

    Raises:
        MediaError: the clip cannot be read or encoded.
    """
    try:
        digest = sha256_of(source)
    except OSError as error:
        raise MediaError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    made_of = [_DEGRADE_VERSION, name, digest, asdict(settings.degrade), version("av")]
    folder = settings.cache / "variants" / f"{name}-{_key(made_of)[:16]}"
    listing = folder / "listing.json"
    if not listing.exists():
        _degrade(name, source, folder, settings.degrade)
    rows = json.loads(listing.read_text())
    variants = tuple(
        Variant(
            crf=row["crf"],
            cap=row["maxrate"],
            kbps=row["kbps"],
            mean_qp=row["mean_qp"],
            cap_share=row["cap_share"],
            decode_psnr=row["decode_psnr"],
            video=folder / row["video"],
            sha256=row["sha256"],
            compared=folder / row.get("scaled", row["video"]),
        )
        for row in rows
    )
    return Prepared(name, digest, folder / rows[0]["clean"], variants)


def _degrade(name: str, source: Path, folder: Path, settings: DegradeSettings) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    folder.mkdir(parents=True)
    problems: list[str] = []
    try:
        rows = degrade(
            {name: source},
            folder,
            settings,
            on_clip=lambda _clip, error: problems.append(error) if error else None,
        )
    except MediaError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise MediaError(problems[0] if problems else str(error)) from error
    shutil.rmtree(folder / "packs", ignore_errors=True)  # only training wants them
    clean = read_clip(folder / rows[0]["clean"]).luma
    for row in rows:
        compared = read_clip(folder / row.get("scaled", row["video"])).luma
        row["decode_psnr"] = float(np.mean(psnr_per_frame(clean, compared)))
        row["sha256"] = sha256_of(folder / row["video"])
    _write_json(folder / "listing.json", rows)


def find_columns(
    clips: Sequence[Prepared], *, every: bool = False
) -> list[tuple[int | None, tuple[int | None, ...]]]:
    """Return the distinct columns as (CRF, caps), caps that no clip felt joined, loosest first.

    Only the first cap of each column is measured.
    """
    pairs = {(v.crf, v.cap) for clip in clips for v in clip.variants}
    felt = {(v.crf, v.cap) for clip in clips for v in clip.variants if v.cap_felt}
    columns: list[tuple[int | None, tuple[int | None, ...]]] = []
    for crf in sorted({crf for crf, _ in pairs}, key=lambda crf: crf or 0):
        caps = sorted((cap for other, cap in pairs if other == crf), key=lambda cap: -(cap or 0))
        free = tuple(cap for cap in caps if (crf, cap) not in felt)
        if every or len(free) < 2:
            columns += [(crf, (cap,)) for cap in caps]
        else:
            columns.append((crf, free))
            columns += [(crf, (cap,)) for cap in caps if cap not in free]
    return columns


def _spread(
    clips: Sequence[Prepared], columns: Sequence[tuple[int | None, tuple[int | None, ...]]]
) -> float:
    spread = 0.0
    for clip in clips:
        for crf, caps in columns:
            values = [v.decode_psnr for v in clip.variants if v.crf == crf and v.cap in caps]
            spread = max(spread, max(values) - min(values))
    return spread


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
    clean_key = _digest(clean)
    results = []
    for variant in clip.variants:
        coded = read_clip(variant.compared)
        if coded.luma.shape != clean.luma.shape:
            raise MediaError(f"{variant.video}: differs in size or length from {clip.clean}")
        rows, coded_key = {}, _digest(coded)
        for method in methods:
            key = (clean_key, coded_key, method.key)
            rows[method.name] = _measure(key, method, coded, clean, measures, cache)
            where = "" if variant.crf is None else f", CRF {variant.crf}"
            on_row(f"{clip.name}{where}: {method.name}")
        types = coded.types if coded.types is not None else np.zeros(frames, np.uint8)
        keys = tuple(int(i) for i in np.flatnonzero(types == _KEY_FRAME))
        results.append(Result(variant, keys, rows))
    own = {}
    for measure in measures:
        if measure.of_clean:
            own.update(
                _cached(cache, (clean_key, measure.key), lambda m=measure: m.run(clean, clean))  # type: ignore[misc]
            )
    return ClipResult(
        clip.name, clip.sha256, frames, width, height, float(clean.fps), tuple(results), own
    )


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
        values |= _cached(cache, (*key, measure.key), lambda m=measure: run(m))  # type: ignore[misc]
    return values


def _cached(
    cache: Path, key: Sequence[Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    name = _key(key)
    path = cache / "scores" / name[:2] / f"{name}.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):  # not there yet, or cut short
        stored = compute()
        _write_json(path, stored)
    return stored


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value))
    part.replace(path)


def _key(parts: Sequence[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(clip: Clip) -> str:
    """Return a checksum of the frames and of what the decoder told about them."""
    digest = hashlib.sha256(str(clip.luma.shape).encode())
    for planes in (clip.luma, clip.chroma, clip.types, clip.qp):
        if planes is not None:
            digest.update(planes.tobytes())
    return digest.hexdigest()
