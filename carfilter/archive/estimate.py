"""How long the night will be and how large its results: learned from the containers, and from a
few seconds restored for a try. In the workers, since opening a damaged file may crash."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carfilter.archive.book import Book
from carfilter.archive.events import Estimate
from carfilter.archive.plan import Found, nearest_folder
from carfilter.archive.pool import Pool
from carfilter.archive.schedule import run_jobs
from carfilter.archive.worker import INSPECT, PROBE, SAMPLE, Job, Outcome
from carfilter.inspection.inspection import Inspection
from carfilter.inspection.summary import row_of

_SAMPLE_SECONDS = 2.0


def probe_lengths(
    pool: Pool, files: Sequence[Found], book: Book, template: Job, stop: threading.Event
) -> dict[str, float]:
    """Return the video seconds of files by key, as far as they say; a failure is not one yet."""
    lengths: dict[str, float] = {}
    unknown = []
    for found in files:
        known = book.length_of(found)
        if known is None:
            unknown.append(found)
        else:
            lengths[found.key] = known

    def take(job: Job, outcome: Outcome) -> None:
        if outcome.seconds is not None:
            lengths[job.key] = outcome.seconds

    jobs = [replace(template, action=PROBE, key=f.key, source=f.source) for f in unknown]
    run_jobs(pool, jobs, stop, take)
    return lengths


def look_at_files(
    pool: Pool, files: Sequence[Found], template: Job, stop: threading.Event
) -> list[tuple[str, ...]]:
    """Return a row of carfilter.inspection.summary.COLUMNS for each file, those first of which
    most would change; what cannot be looked at says why, last."""
    seen: list[tuple[str, Inspection]] = []
    failed: list[tuple[str, ...]] = []

    def take(job: Job, outcome: Outcome) -> None:
        if outcome.seen is not None:
            seen.append((job.key, outcome.seen))
        else:
            failed.append((job.key, *[""] * 7, outcome.error))

    jobs = [replace(template, action=INSPECT, key=f.key, source=f.source) for f in files]
    run_jobs(pool, jobs, stop, take)
    seen.sort(key=lambda one: (-one[1].gain, one[0]))
    return [*(row_of(one, key) for key, one in seen), *sorted(failed)]


def estimate(
    pool: Pool,
    files: Sequence[Found],
    lengths: dict[str, float],
    template: Job,
    samples: int,
    folder: Path | None,
    stop: threading.Event,
) -> Estimate:
    """Restore two seconds from the middle of a few files and scale up to all of them.

    Each worker does one file at a time here as later, so that they slow each other down alike.

    Args:
        samples: how many files.
        folder: for what is restored of them; None is where their results go.
    """
    known = sorted((f for f in files if lengths.get(f.key)), key=lambda f: lengths[f.key])
    step = max(len(known) // max(samples, 1), 1)
    chosen = known[step // 2 :: step][:samples]
    if not chosen:
        return Estimate()
    results: list[tuple[Job, Outcome]] = []
    # As many as there are workers, so that the speed is that of a busy machine.
    copies = max(pool.places() // len(chosen), 1)
    jobs = [
        _sample_job(f, lengths[f.key], template, n, folder) for n in range(copies) for f in chosen
    ]
    run_jobs(pool, jobs, stop, lambda job, outcome: results.append((job, outcome)))
    good = [(j, o) for j, o in results if not o.error and o.seconds and o.frames]
    if not good:
        return Estimate()
    return _scaled(good, {f.key: f for f in files}, lengths, pool.places())


def _sample_job(found: Found, length: float, template: Job, copy: int, folder: Path | None) -> Job:
    seconds = min(_SAMPLE_SECONDS, length)
    begin = template.options.source.start_seconds or 0.0
    # The target's folder may not exist yet, and a sample need not make it.
    folder = folder or nearest_folder(found.target)
    token = hashlib.blake2b(f"sample {copy} {found.key}".encode(), digest_size=8).hexdigest()
    return replace(
        template,
        action=SAMPLE,
        key=found.key,
        source=found.source,
        part=folder / f".carfilter-{token}{found.target.suffix}",
        start_seconds=begin + (length - seconds) / 2,
        sample_seconds=seconds,
    )


def _scaled(
    results: Sequence[tuple[Job, Outcome]],
    files: dict[str, Found],
    lengths: dict[str, float],
    workers: int,
) -> Estimate:
    video = sum(outcome.seconds or 0.0 for _, outcome in results)
    work = sum(outcome.work_seconds for _, outcome in results)
    written = sum(outcome.target_size for _, outcome in results)
    read = sum(
        files[job.key].size / lengths[job.key] * (outcome.seconds or 0.0)
        for job, outcome in results
    )
    growth = written / read if read else None
    pending_seconds = sum(lengths.values())
    pending_bytes = sum(found.size for found in files.values())
    return Estimate(
        work_seconds=pending_seconds * work / video / max(workers, 1),
        growth=growth,
        new_bytes=None if growth is None else round(pending_bytes * growth),
        sampled=len({job.key for job, _ in results}),
        engine=results[0][1].engine,
    )
