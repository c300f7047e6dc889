"""What is done to one file of an archive, in a process that may die of it.

perform() is the whole of it, for local workers and Ray tasks alike: it takes paths and settings,
never frames, and answers with an Outcome. The name under which a result is found is not given
here: the driver does that, once it has noted that the result was verified.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from carfilter.archive.verify import check_result
from carfilter.errors import CarfilterError, DeviceError, MediaError, NotAVideoError
from carfilter.inspection.inspect import InspectOptions, inspect
from carfilter.inspection.inspection import Inspection
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, open_source
from carfilter.media.stills import shown
from carfilter.process import limit_threads, prepare_process
from carfilter.restore.weights import Model, load_weights
from carfilter.run.account import Run
from carfilter.run.announce import report_losses
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import filter_video
from carfilter.run.sidecar import sidecar_of
from carfilter.unfinished import check_name, written_whole

PROBE, INSPECT, SAMPLE, RESTORE, THUMBNAILS = "probe", "inspect", "sample", "restore", "thumbnails"
_HASH_BYTES = 8 << 20
_THUMBNAIL = (256, 192)  # pixels, cut from the centre at their own size, where artifacts show
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}

Report = Callable[[int, float], object]  # frames and video seconds done; says "I am alive", too


@dataclass(frozen=True)
class Job:
    """One thing to do with one file."""

    action: str
    key: str
    source: Path
    in_dir: Path  # without links; the source must lie in it
    options: FilterOptions
    weights: str | None = None
    part: Path | None = None  # temporary name of the result, or of its sample
    target: Path | None = None  # the result's name in the end
    thumbnails: tuple[Path, Path] | None = None  # before and after, to be written
    verify: str = "fast"
    start_seconds: float = 0.0  # of a sample or thumbnail, from the start of the source
    sample_seconds: float = 0.0


@dataclass(frozen=True)
class Setup:
    """What holds for all jobs of a worker; 0 and "" leave the choice to torch and the options."""

    torch_threads: int = 0
    device: str = ""


@dataclass
class Outcome:
    """What came of a job; `error` is empty where it went well."""

    key: str
    error: str = ""
    may_be_video: bool = True  # False where it was opened and holds none
    may_pass_again: bool = False  # not the file's fault for certain: worth another try
    disk_full: bool = False
    device_failed: bool = False  # which the next file meets as well
    seconds: float | None = None  # of video: by its container, or written
    work_seconds: float = 0.0
    frames: int = 0
    damaged: int = 0
    repaired: int = 0
    content_sha256: str = ""
    target_size: int = 0
    engine: str = ""
    seen: Inspection | None = None  # by an inspection
    worker: str = ""  # host and process
    warnings: tuple[str, ...] = ()  # what carfilter would have said of this file


def perform(job: Job, setup: Setup, report: Report) -> Outcome:
    """Do a job; what the file or the disk is at fault for comes back as an Outcome.

    Anything else ends the process with a traceback, and with it this one file.
    """
    started = time.perf_counter()
    prepare_process()
    if setup.torch_threads:
        limit_threads(setup.torch_threads)
    with _overheard() as said:
        outcome = _tried(job, setup, report)
    outcome.warnings = tuple(dict.fromkeys(text.removeprefix(f"{job.source}: ") for text in said))
    outcome.worker = f"{socket.gethostname()}:{os.getpid()}"
    outcome.work_seconds = outcome.work_seconds or time.perf_counter() - started
    return outcome


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect what is warned of meanwhile, but for what an Outcome counts by itself."""
    logger, said = logging.getLogger("carfilter"), list[str]()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.funcName != report_losses.__name__:
                said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)


def _tried(job: Job, setup: Setup, report: Report) -> Outcome:
    try:
        _check_inside(job)
        return _ACTIONS[job.action](job, setup, report)
    except (CarfilterError, OSError, MemoryError) as error:
        return _failed(job, error)


def _check_inside(job: Job) -> None:
    """Look once more, since the scan: a folder may have become a link that leads elsewhere."""
    if job.source.is_symlink() or job.in_dir not in job.source.resolve().parents:
        raise MediaError(f"{job.source}: is or goes through a link out of the archive; left alone")


def _probe(job: Job, _: Setup, report: Report) -> Outcome:
    report(0, 0.0)
    source = open_source(job.source, job.options.source)
    try:
        return Outcome(job.key, seconds=source.seconds)
    finally:
        source.close()


def _inspect(job: Job, setup: Setup, report: Report) -> Outcome:
    """Look at a file as carfilter-inspect does."""
    report(0, 0.0)
    restore = _settled(job, setup).restore
    options = InspectOptions(
        hashes=False,
        tries=restore.strength > 0,
        weights=job.weights,
        device=restore.device,
        precision=restore.precision,
    )
    return Outcome(job.key, seen=inspect(job.source, options))


def _sample(job: Job, setup: Setup, report: Report) -> Outcome:
    """Restore a few seconds to learn speed and size; nothing of it stays."""
    assert job.part is not None
    limits = replace(
        job.options.source,
        start_seconds=job.start_seconds,
        end_seconds=job.start_seconds + job.sample_seconds,
    )
    options = replace(_settled(job, setup), source=limits, sidecar=False)
    try:
        run = filter_video(job.source, job.part, _model(job), options, progress=_passed_to(report))
        size = job.part.stat().st_size
    finally:
        job.part.unlink(missing_ok=True)
    return Outcome(
        job.key,
        seconds=min(job.sample_seconds, run.video_seconds or job.sample_seconds),
        work_seconds=run.elapsed_seconds,
        frames=run.frames,
        target_size=size,
        engine=run.engine,
    )


def _restore(job: Job, setup: Setup, report: Report) -> Outcome:
    assert job.part is not None
    if job.options.sidecar and job.target is not None:
        check_name(sidecar_of(job.target))
    before = job.source.stat()
    # FFmpeg reads through its own eyes, so the hash is a second read. Taken just before the
    # decoder's it is the one that touches the disk; the decoder then finds the page cache warm.
    digest = _sha256(job.source, report)
    options = replace(_settled(job, setup), sidecar=job.options.sidecar)

    run = filter_video(job.source, job.part, _model(job), options, progress=_passed_to(report))
    after = job.source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        job.part.unlink(missing_ok=True)
        raise OSError(errno.EAGAIN, "changed while it was read; is it still being recorded?")
    check_result(job.part, job.source, job.options, run, decode=job.verify, report=report)
    if job.options.sidecar:
        _name_in_sidecar(job)
    _keep_times(job.part, before)
    return Outcome(
        job.key,
        seconds=run.video_seconds,
        frames=run.frames,
        damaged=run.damaged,
        repaired=run.repaired,
        content_sha256=digest,
        target_size=job.part.stat().st_size,
        engine=run.engine,
    )


def _thumbnails(job: Job, _: Setup, report: Report) -> Outcome:
    """Write the same piece of one moment of source and target as two PNG files, since JPEG
    would add artifacts of its own."""
    assert job.thumbnails is not None
    assert job.target is not None
    report(0, 0.0)
    begin = job.options.source.start_seconds or 0.0
    shown = _write_thumbnail(job.source, job.thumbnails[0], job.start_seconds)
    # A container may round time to the millisecond; a little earlier finds the same frame.
    at, is_pair = max(shown - begin - 0.002, 0.0), job.options.compare
    _write_thumbnail(job.target, job.thumbnails[1], at, is_pair=is_pair)
    return Outcome(job.key)


def _write_thumbnail(path: Path, image: Path, seconds: float, *, is_pair: bool = False) -> float:
    """Write the first frame at or after `seconds`, as a player shows it; return its time.

    Args:
        is_pair: its right half is the picture.
    """
    options = SourceOptions(start_seconds=seconds, audio=False, subtitles=False, data=False)
    source = open_source(path, options)
    try:
        event = next((e for e in source.events() if isinstance(e, Decoded)), None)
        if event is None:
            raise MediaError(f"{path}: no frame at {seconds:.1f} s")
        pixels = shown(event.frame)
        pixels = pixels[:, pixels.shape[1] // 2 :] if is_pair else pixels
        width, height = min(_THUMBNAIL[0], pixels.shape[1]), min(_THUMBNAIL[1], pixels.shape[0])
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        piece = pixels[top : top + height, left : left + width].copy()
        with written_whole(image, ends_alike=True) as part:  # PyAV knows the format by the ending
            type(event.frame).from_ndarray(piece, format="rgb24").save(str(part))
        return seconds + float((event.frame.pts or 0) * source.time_base)
    finally:
        source.close()


_ACTIONS: dict[str, Callable[[Job, Setup, Report], Outcome]] = {
    PROBE: _probe,
    INSPECT: _inspect,
    SAMPLE: _sample,
    RESTORE: _restore,
    THUMBNAILS: _thumbnails,
}


def _settled(job: Job, setup: Setup) -> FilterOptions:
    """Return the job's options with this worker's device, writing to the temporary name."""
    restore = job.options.restore
    if setup.device and restore.device in ("auto", "cuda"):
        restore = replace(restore, device=setup.device)
    return replace(job.options, restore=restore, target=replace(job.options.target, overwrite=True))


def _model(job: Job) -> Model | None:
    return None if job.options.restore.strength == 0 else _loaded(job.weights)


@functools.lru_cache(maxsize=1)
def _loaded(weights: str | None) -> Model:
    """Load the model once in the life of a worker."""
    return load_weights(weights)


def _passed_to(report: Report) -> Callable[[Run], object]:
    return lambda run: report(run.frames, run.video_seconds)


def _sha256(path: Path, report: Report) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
            report(0, 0.0)
    return digest.hexdigest()


def _name_in_sidecar(job: Job) -> None:
    """Put the result's name in the end where its temporary one stands."""
    assert job.part is not None
    assert job.target is not None
    path = sidecar_of(job.part)
    record = json.loads(path.read_text())
    record["target"]["name"] = job.target.name
    path.write_text(json.dumps(record, indent=2) + "\n")


def _keep_times(path: Path, source: os.stat_result) -> None:
    os.utime(path, ns=(source.st_atime_ns, source.st_mtime_ns))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(job: Job, error: BaseException) -> Outcome:
    """Turn an error into an outcome; only what may end otherwise next time is tried again."""
    partial = error.partial if isinstance(error, DeviceError) else None
    for path in () if job.part is None else (job.part, sidecar_of(job.part), partial):
        if path is not None:
            path.unlink(missing_ok=True)
    numbers = set()
    cause: BaseException | None = error
    while cause is not None:
        numbers.add(getattr(cause, "errno", None))
        cause = cause.__cause__
    text = str(error.__cause__) if partial is not None else str(error)
    if isinstance(error, MemoryError):
        text = "out of memory; give fewer --jobs"
    elif isinstance(error, OSError):
        text = f"{job.source}: {error.strerror or error}"
    if job.part is not None and job.target is not None:
        text = text.replace(str(job.part), str(job.target))
    return Outcome(
        job.key,
        error=text.removeprefix(f"{job.source}: "),
        may_be_video=not isinstance(error, NotAVideoError),
        may_pass_again=isinstance(error, OSError | MemoryError | DeviceError),
        disk_full=bool(numbers & _NO_SPACE),
        device_failed=isinstance(error, DeviceError),
    )
