"""Local worker processes: one job each at a time, watched, replaced when they die or get old."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Protocol

from carfilter.archive.worker import RESTORE, Job, Outcome, Setup, perform
from carfilter.process import STOPPING

_REPORT_SECONDS = 0.2  # between two messages of a worker
_START_SECONDS = 120.0  # for a worker to load its libraries
_END_SECONDS = 10.0  # for a worker that was asked to end
_LAST_WORDS_BYTES = 4096
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Message:
    """News of a job: progress; its outcome; or, with `lost` set, the reason why there is none."""

    slot: int
    job: Job
    frames: int = 0
    video_seconds: float = 0.0
    outcome: Outcome | None = None
    lost: str = ""
    blamed: bool = True  # the job may be at fault for the loss; False where a machine went away


class Pool(Protocol):
    """Where jobs run: processes here, or tasks of a cluster."""

    def places(self) -> int:
        """How many jobs run at the same time."""

    def free(self) -> int:
        """How many jobs can be submitted now."""

    def busy(self) -> int:
        """How many jobs are in work."""

    def submit(self, job: Job) -> int:
        """Start a job; returns its slot."""

    def wait(self, seconds: float) -> list[Message]:
        """Return news, at the latest after `seconds`."""

    def close(self) -> None:
        """End everything that still runs, at once."""


class LocalPool:
    """Worker processes on this machine.

    Args:
        devices: one for each worker, "" where its options decide.
        torch_threads: of each worker.
        recycle: restored files after which a worker is replaced: libraries leak a little.
        stall_seconds: without any progress after which a worker is ended.
    """

    def __init__(
        self, devices: Sequence[str], torch_threads: int, recycle: int, stall_seconds: float
    ) -> None:
        self._setups = [Setup(torch_threads, device) for device in devices]
        self._workers: list[_Worker | None] = [None] * len(devices)
        self._recycle, self._stall_seconds = recycle, stall_seconds

    def places(self) -> int:
        return len(self._workers)

    def free(self) -> int:
        return len(self._workers) - self.busy()

    def busy(self) -> int:
        return sum(worker is not None and worker.job is not None for worker in self._workers)

    def submit(self, job: Job) -> int:
        slot = next(i for i, w in enumerate(self._workers) if w is None or w.job is None)
        worker = self._workers[slot]
        if worker is None or not worker.process.is_alive():
            worker = self._workers[slot] = _Worker(self._setups[slot])
        worker.start(job)
        return slot

    def wait(self, seconds: float) -> list[Message]:
        working = {i: w for i, w in enumerate(self._workers) if w is not None and w.job}
        ends = [w.connection for w in working.values()]
        multiprocessing.connection.wait([*ends, *(w.process.sentinel for w in working.values())],
                                        seconds)  # fmt: skip
        news = []
        for slot, worker in working.items():
            news += self._news_of(slot, worker)
        return news

    def close(self) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.kill()
        self._workers = [None] * len(self._workers)

    def _news_of(self, slot: int, worker: _Worker) -> list[Message]:
        job = worker.job
        assert job is not None
        alive = worker.process.is_alive()  # asked first: what a dead one has sent still counts
        latest = worker.received()
        if isinstance(latest, Outcome):
            # What failed on a card fails on it for all that the process still does.
            self._free(slot, worker, job, ends=latest.device_failed)
            return [Message(slot, job, outcome=latest)]
        if not alive or worker.broken:
            worker.kill()
            self._workers[slot] = None
            return [Message(slot, job, lost=worker.why_it_died())]
        limit = max(self._stall_seconds, 0.0 if worker.is_up else _START_SECONDS)
        if time.monotonic() - worker.heard_at > limit:
            worker.kill()
            self._workers[slot] = None
            reason = f"no progress for {limit:g} s; its worker was ended"
            return [Message(slot, job, lost=reason)]
        return [] if latest is None else [Message(slot, job, *latest)]

    def _free(self, slot: int, worker: _Worker, job: Job, *, ends: bool) -> None:
        worker.job = None
        worker.restored += job.action == RESTORE
        if ends or worker.restored >= self._recycle:
            worker.end()
            self._workers[slot] = None


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill())
        self.process = context.Process(
            target=_work,
            args=(theirs, setup, os.getpid(), self._stderr.fileno()),
            name="carfilter-worker",
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.restored = 0
        self.is_up = False
        self.broken = False  # its end of the pipe is closed
        self.heard_at = time.monotonic()

    def start(self, job: Job) -> None:
        self.job, self.heard_at = job, time.monotonic()
        with contextlib.suppress(OSError):  # it has died since: wait() will notice
            self.connection.send(job)

    def received(self) -> Outcome | tuple[int, float] | None:
        """Return the latest that came through the pipe; an outcome is always the last of a job."""
        latest = None
        try:
            while self.connection.poll():
                latest = self.connection.recv()
                self.is_up, self.heard_at = True, time.monotonic()
        except (EOFError, OSError):
            self.broken = True
        return latest

    def end(self) -> None:
        """Let an idle worker go."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(_END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it whatever it does, and keep in mind why it had ended before, if it had."""
        if self.broken:  # it is dying by itself: let it, so that its exit code tells why
            self.process.join(_END_SECONDS)
        self.process.kill()
        self.process.join()
        self.connection.close()
        if not self._stderr.closed:
            self._why = self._why_it_died()
            self._stderr.close()

    def why_it_died(self) -> str:
        """Return the reason, once kill() was called."""
        return self._why

    def _why_it_died(self) -> str:
        code = self.process.exitcode or 0
        if code < 0:
            reason = f"its worker died of {signal.Signals(-code).name}"
            reason += " (out of memory?)" if code == -signal.SIGKILL else ""
        else:
            reason = f"its worker ended with exit code {code}"
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(size - _LAST_WORDS_BYTES, 0))
        words = self._stderr.read().decode("utf-8", "backslashreplace").strip().splitlines()
        return f"{reason}: {words[-1]}" if words else reason


def _work(connection: Connection, setup: Setup, driver: int, stderr: int) -> None:
    """Be a worker: take jobs from the pipe until it closes or None comes."""
    _end_with(driver)
    _redirect_stderr(driver, stderr)
    # Ctrl-C, a terminal that closes and a service manager reach all of the group; the driver
    # decides.
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    next_at = 0.0

    def report(frames: int, video_seconds: float) -> None:
        nonlocal next_at
        now = time.monotonic()
        if now >= next_at:
            next_at = now + _REPORT_SECONDS
            connection.send((frames, video_seconds))

    with contextlib.suppress(EOFError, OSError):
        report(0, 0.0)
        while (job := connection.recv()) is not None:
            connection.send(perform(job, setup, report))


def _end_with(driver: int) -> None:
    """Die with the driver, even if it is killed: an orphan would go on writing behind its back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(1)


def _redirect_stderr(driver: int, descriptor: int) -> None:
    """Let libraries print into the driver's nameless file, for the case that it is a last word."""
    path = Path(f"/proc/{driver}/fd/{descriptor}")
    with contextlib.suppress(OSError), path.open("ab") as file:
        os.dup2(file.fileno(), 2)
