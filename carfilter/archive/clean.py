"""Clean an archive: plan, restore what is missing or changed, verify, and say what came of it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from carfilter.archive.book import Book, Settings, describe_options
from carfilter.archive.estimate import estimate, look_at_files, probe_lengths
from carfilter.archive.events import (
    ENDED,
    NOTE,
    PLANNED,
    SCANNED,
    Estimate,
    Event,
    Plan,
    Totals,
    logged,
)
from carfilter.archive.look import Look
from carfilter.archive.machine import choose_workers, wants_gpu
from carfilter.archive.outputs import check_run_outputs
from carfilter.archive.plan import (
    Found,
    Naming,
    Scan,
    check_collisions,
    check_folders,
    colliding,
    nearest_folder,
    scan,
    text_of,
)
from carfilter.archive.pool import LocalPool, Pool
from carfilter.archive.report import write_report
from carfilter.archive.schedule import Observer, Restoring
from carfilter.archive.state import FAILED, STATE_NAME, State, locked_folder
from carfilter.archive.watch import Watch
from carfilter.archive.worker import RESTORE, Job
from carfilter.errors import CarfilterError
from carfilter.pages.numbers import size_text
from carfilter.process import cores
from carfilter.restore.weights import load_weights
from carfilter.run.options import FilterOptions
from carfilter.run.sidecar import sidecar_of

_SPARE_BYTES = 64 << 20  # free space below which no file is begun


@dataclass(frozen=True)
class ArchiveOptions:
    """How to clean an archive; `filter` holds what `carfilter` itself takes."""

    filter: FilterOptions = field(default_factory=FilterOptions)
    weights: str | None = None
    jobs: int = 0  # workers; 0 chooses from GPUs, or else cores and memory
    retries: int = 2
    retry_failed: bool = False  # also what an earlier run gave up
    recycle: int = 50  # files after which a worker is replaced
    stall_seconds: float = 300.0  # without progress after which a worker is ended
    verify: str = "fast"  # "full", "fast" or "none"
    state: Path | None = None  # None: in OUT_DIR
    append_ext: bool = False  # a.avi becomes a.avi.mkv
    samples: int = 3  # files of which a few seconds are restored for the estimate
    plan_only: bool = False
    ignore_space: bool = False
    report: Path | None = None
    log_json: str | None = None  # a file that gets each event, "-" for stdout
    watch: bool = False
    settle_seconds: float = 30.0  # without change after which a watched file is complete
    ray: str | None = None  # a cluster's address, "" for the one at hand; None: local processes


def state_path(out_dir: Path, options: ArchiveOptions) -> Path:
    """Return where the database of an archive lies."""
    return options.state or out_dir / STATE_NAME


def clean_archive(
    in_dir: Path,
    out_dir: Path,
    options: ArchiveOptions | None = None,
    observe: Observer = lambda _: None,
    stop: threading.Event | None = None,
) -> Totals:
    """Restore every video of a folder into another one; see the README for what is promised.

    Call it from the main thread of a program that can be imported: workers are spawned.

    Args:
        observe: called with each Event, in this thread.
        stop: set it to break off; what is in work is done again by the next run.

    Raises:
        CarfilterError: the archive as a whole cannot be worked on; a single file never raises.
    """
    options, stop = options or ArchiveOptions(), stop or threading.Event()
    in_dir, out_dir = check_folders(in_dir, out_dir)
    naming = Naming(options.filter.target.format, options.append_ext)
    found = scan(in_dir, out_dir, naming)
    check_collisions([f for f in found.videos if f.claims])
    _check_any(found, in_dir, options)
    _check_outputs(found, out_dir, state_path(out_dir, options), options)
    observe = logged(observe, options.log_json)  # not before, since opening makes the file
    observe(Event(SCANNED, _scan_text(found), values={"files": len(found.videos)}))
    settings = Settings(_weights_sha256(options), describe_options(options.filter))
    with _opened(out_dir, options) as (state, samples):
        state.claim(in_dir, out_dir)
        replaces, describes = options.filter.target.overwrite, options.filter.sidecar
        book = Book(state, out_dir, settings, overwrite=replaces, sidecar=describes)
        if not options.plan_only:
            book.recover()
        watch = Watch(in_dir, out_dir, naming, options.settle_seconds) if options.watch else None
        drive = _Drive(in_dir, out_dir, options, book, watch, samples, observe, stop)
        try:
            return drive.run(found)
        finally:
            drive.close()
            if not options.plan_only:
                book.sweep()


@contextmanager
def _opened(out_dir: Path, options: ArchiveOptions) -> Iterator[tuple[State, Path | None]]:
    """Yield the database, and where samples go if not beside the results.

    A plan writes nothing that stays, and takes no lock.
    """
    path = state_path(out_dir, options)
    if not options.plan_only:
        with locked_folder(out_dir), closing(State(path)) as state:
            yield state, None
        return
    # A cluster reaches only what it shares with this machine.
    shared = None if options.ray is None else nearest_folder(out_dir)
    folder = tempfile.TemporaryDirectory(prefix=".carfilter-", dir=shared)
    with folder as samples, closing(State.copy_of(path)) as state:
        yield state, Path(samples)


def _weights_sha256(options: ArchiveOptions) -> str:
    if options.filter.restore.strength == 0:
        return ""
    return load_weights(options.weights).sha256


def _check_any(found: Scan, in_dir: Path, options: ArchiveOptions) -> None:
    if not found.videos and not options.watch:
        left = [f"{key}: {reason}" for key, reason in found.left[:3]]
        left += ["..."] if len(found.left) > len(left) else []
        what = f" ({'; '.join(left)})" if left else ""
        raise CarfilterError(f"{in_dir}: holds no video{what}; check the folder")


def _check_outputs(found: Scan, out_dir: Path, state: Path, options: ArchiveOptions) -> None:
    report, log = options.report, options.log_json
    check_run_outputs(found.videos, out_dir, report=report, log_json=log, state=state)


def _scan_text(found: Scan) -> str:
    count = len(found.left)
    rest = f"; {count} other{' is' if count == 1 else 's are'} left alone" if count else ""
    return f"{len(found.videos)} videos, {size_text(found.bytes)}{rest}"


class _Drive:
    """One run: it owns the workers, and every change of the book is made from here."""

    def __init__(
        self,
        in_dir: Path,
        out_dir: Path,
        options: ArchiveOptions,
        book: Book,
        watch: Watch | None,
        samples: Path | None,
        observe: Observer,
        stop: threading.Event,
    ) -> None:
        self.in_dir, self.out_dir, self.options = in_dir, out_dir, options
        self.book, self.observe, self.stop = book, observe, stop
        self.watch, self.samples, self.totals = watch, samples, Totals()
        restore = options.filter.restore
        # A cluster has other devices than the driver's machine; there it only gives the threads.
        here = restore if options.ray is None else replace(restore, device="cpu")
        self.workers = choose_workers(here, options.jobs)
        self._pool: Pool | None = None
        filtering = options.filter
        threads = filtering.target.threads or self.workers.encoder_threads
        self.template = Job(
            action=RESTORE,
            key="",
            source=in_dir,
            in_dir=in_dir,
            options=replace(
                filtering,
                source=replace(filtering.source, threads=filtering.source.threads or threads),
                target=replace(filtering.target, threads=threads),
            ),
            weights=options.weights,
            verify=options.verify,
        )
        self._look = Look(self.template)

    def run(self, found: Scan) -> Totals:
        """Plan, restore, report."""
        started = time.perf_counter()
        pending = self._pending([f for f in found.videos if self._is_complete(f)])
        for path, reason in found.unreadable:
            self.totals.failed += 1
            self.totals.failures.append((path, f"cannot be read ({reason})"))
        pool = self._open_pool(len(pending))
        self._look.into(pending, pool, self.stop)
        left = self._look.without_video(pending)
        found.leave(left)
        pending = [f for f in pending if f.key not in left]
        self.totals.files -= len(left)
        check_collisions(found.videos)
        _check_any(found, self.in_dir, self.options)
        lengths = probe_lengths(pool, pending, self.book, self.template, self.stop)
        count = self._sample_count(pending, lengths)
        expected = estimate(pool, pending, lengths, self.template, count, self.samples, self.stop)
        plan = self._plan(found, pending, lengths, expected)
        rows = []
        if self.options.plan_only:
            rows = look_at_files(pool, pending, self.template, self.stop)
        self.observe(Event(PLANNED, values={"plan": plan, "lengths": lengths, "files": rows}))
        self._check_space(plan)
        if not self.options.plan_only:
            begun = time.perf_counter()
            self._restoring(pool, lengths, plan).run(self._ordered(pending, lengths))
            self.totals.elapsed_seconds = time.perf_counter() - begun
            self._report(found, pool)
        self.totals.interrupted = self.stop.is_set()
        self.totals.elapsed_seconds = self.totals.elapsed_seconds or time.perf_counter() - started
        self.observe(Event(ENDED, values={"totals": self.totals}))
        return self.totals

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()

    def _pending(self, videos: Sequence[Found]) -> list[Found]:
        """Return what is to be done, and count what is not."""
        pending, undescribed = list[Found](), list[Path]()
        for found in videos:
            if not self.book.is_finished(found, retry_failed=self.options.retry_failed):
                pending.append(found)
                continue
            row = self.book.row(found)
            self.totals.finished_before += 1
            if row.status == FAILED:
                self.totals.failed += 1
                self.totals.failures.append((found.key, f"{row.error} (as before)"))
            elif self.options.filter.sidecar and not sidecar_of(found.target).exists():
                undescribed.append(found.target)
        if undescribed:
            text = (
                f"{len(undescribed)} results of earlier runs have no .json beside them, which is"
                f" written with a result: remove those to have both, {undescribed[0]} first"
            )
            self.observe(Event(NOTE, text))
        self.totals.files = len(videos)
        return pending

    def _ordered(self, pending: list[Found], lengths: dict[str, float]) -> list[Found]:
        """Longest first, so that no long file is left for the end; last what was in work when an
        earlier run died, since it may have been the reason."""

        def rank(found: Found) -> tuple[int, float, str]:
            interrupted = self.book.row(found).interrupted
            return interrupted, -lengths.get(found.key, 0.0), found.key

        return sorted(pending, key=rank)

    def _open_pool(self, files: int) -> Pool:
        options, workers = self.options, self.workers
        if options.ray is not None:
            from carfilter.archive.cluster import RayPool

            self._pool = RayPool(
                options.ray,
                self.template.options.target.threads,
                use_gpus=wants_gpu(options.filter.restore),
                recycle=options.recycle,
                stall_seconds=options.stall_seconds,
            )
            return self._pool
        devices = workers.devices
        if not options.watch:
            devices = devices[: max(files, 1)]
        # The encoder's threads shape its result and stay as they are; the network's do not.
        threads = max(cores() // len(devices), 1)
        self._pool = LocalPool(devices, threads, options.recycle, options.stall_seconds)
        return self._pool

    def _sample_count(self, pending: list[Found], lengths: dict[str, float]) -> int:
        """Sample where it costs little beside the work itself, and always for a plan alone."""
        seconds = sum(lengths.get(found.key, 0.0) for found in pending)
        if self.options.plan_only or seconds > 120 * self.options.samples:
            return self.options.samples
        return 0

    def _plan(
        self, found: Scan, pending: list[Found], lengths: dict[str, float], expected: Estimate
    ) -> Plan:
        assert self._pool is not None
        known = [lengths[f.key] for f in pending if f.key in lengths]
        return Plan(
            files=len(found.videos),
            finished=self.totals.finished_before,
            pending=len(pending),
            pending_bytes=sum(f.size for f in pending),
            pending_seconds=sum(known),
            unknown_lengths=len(pending) - len(known),
            left=tuple(found.left),
            unreadable=tuple(found.unreadable),
            workers=self._pool.places(),
            free_bytes=shutil.disk_usage(nearest_folder(self.out_dir)).free,
            estimate=expected,
        )

    def _check_space(self, plan: Plan) -> None:
        needed = plan.estimate.new_bytes
        if needed is not None and needed > plan.free_bytes and not self.options.ignore_space:
            raise CarfilterError(
                f"{self.out_dir}: about {size_text(needed)} are needed and"
                f" {size_text(plan.free_bytes)} are free; give a higher -crf, another OUT_DIR,"
                " or --ignore-space to go as far as it goes"
            )

    def _restoring(self, pool: Pool, lengths: dict[str, float], plan: Plan) -> Restoring:
        growth = plan.estimate.growth or 1.0

        def has_space(found: Found) -> bool:
            free = shutil.disk_usage(self.out_dir).free
            return free > max(found.size * growth, _SPARE_BYTES)

        restoring = Restoring(
            pool,
            self.book,
            self.template,
            lengths,
            self.options.retries,
            self.observe,
            self.stop,
            self.totals,
            has_space=has_space,
        )
        if self.watch is not None:
            restoring.refill_seconds = self.watch.look_seconds
            restoring.refill = lambda: self._arrived(restoring)
        return restoring

    def _is_complete(self, found: Found) -> bool:
        return self.watch is None or self.watch.is_complete(found)

    def _arrived(self, restoring: Restoring) -> list[Found]:
        """Return the files that are complete, need work, and do not wait for it already."""
        assert self.watch is not None
        videos = self.watch.videos()
        self._look_at_arrived([f for f in videos if self.watch.is_complete(f)])
        left = self._look.without_video(videos)
        taken = {row.target for row in self.book.rows.values()}
        refused = {
            found.key: f"would become {text_of(found.target.name)}, and so would {group[0].key}"
            for group in colliding(videos)
            for found in group
            if found.key not in self.book.rows
            and (text_of(found.target.relative_to(self.out_dir)) in taken or found is not group[0])
        }
        arrived: list[Found] = []
        for found in videos:
            if (
                found.key in left
                or restoring.is_known(found.key)
                or not self.watch.is_complete(found)
            ):
                continue
            if self.book.is_finished(found, retry_failed=False):
                continue
            self.totals.files += found.key not in self.book.rows
            if found.key in refused:
                restoring.refuse(found, refused[found.key])
            else:
                arrived.append(found)
        return arrived

    def _look_at_arrived(self, files: list[Found]) -> None:
        """Look into them with a worker of their own: the others are busy for long."""
        files = [f for f in files if f.key not in self.book.rows]
        if self._look.is_needed(files):
            pool = LocalPool([""], 1, len(files), self.options.stall_seconds)
            try:
                self._look.into(files, pool, self.stop)
            finally:
                pool.close()

    def _report(self, found: Scan, pool: Pool) -> None:
        path, stop = self.options.report, self.stop
        if self.watch is not None and stop.is_set():  # its usual end, and files came since
            found, stop = replace(found, videos=self.watch.videos()), threading.Event()
            _check_outputs(found, self.out_dir, self.book.state.path, self.options)
        if path is not None and not stop.is_set() and not self.totals.stopped:
            write_report(path, found, self.book, self.totals, pool, self.template, stop)
