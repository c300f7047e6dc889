"""Keep a pool busy with jobs, try again what a lost worker left, and carry on after failures."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from carfilter.archive.book import Book
from carfilter.archive.events import DONE, FAILED, NOTE, PROGRESS, RETRIED, STARTED, Event, Totals
from carfilter.archive.plan import Found
from carfilter.archive.pool import Message, Pool
from carfilter.archive.worker import RESTORE, Job, Outcome
from carfilter.errors import CarfilterError

_WAIT_SECONDS = 0.2  # how soon a signal is noticed
_BEAT_SECONDS = 5.0  # between two notes for --status
_DEVICE_FAILURES = 3  # in a row, of files of their own, that no file is to blame for
_LOST_MACHINES = 10  # losses of a file without blame before it is blamed after all

Observer = Callable[[Event], object]


def run_jobs(
    pool: Pool, jobs: Iterable[Job], stop: threading.Event, take: Callable[[Job, Outcome], object]
) -> None:
    """Do jobs that leave nothing behind, each one once; a worker's death is an outcome, too."""
    waiting = deque(jobs)
    while (waiting or pool.busy()) and not stop.is_set():
        while waiting and pool.free():
            pool.submit(waiting.popleft())
        for message in pool.wait(_WAIT_SECONDS):
            if message.lost:
                take(message.job, Outcome(message.job.key, error=message.lost))
            elif message.outcome is not None:
                take(message.job, message.outcome)


@dataclass
class Restoring:
    """The night's work: restore files until none is left, or until `stop` is set.

    Args:
        template: the job that each file's own is made of.
        lengths: video seconds of the files, where known.
        retries: further tries of a file whose worker died or whose failure may pass.
        refill: called now and then for files that have come since; None where none can come.
    """

    pool: Pool
    book: Book
    template: Job
    lengths: dict[str, float]
    retries: int
    observe: Observer
    stop: threading.Event
    totals: Totals
    refill: Callable[[], list[Found]] | None = None
    refill_seconds: float = 1.0
    has_space: Callable[[Found], bool] = lambda _: True
    _queue: deque[Found] = field(default_factory=deque)
    _waiting: set[str] = field(default_factory=set)  # keys of the queue
    _tries: Counter[str] = field(default_factory=Counter)
    _moved: Counter[str] = field(default_factory=Counter)
    _failures: int = 0  # of a device, since a file went well
    _working: dict[str, Found] = field(default_factory=dict)
    _states: dict[str, tuple[int, float]] = field(default_factory=dict)

    def run(self, files: Iterable[Found]) -> None:
        """Restore files; on return nothing is in work, whatever the reason was."""
        self._enqueue(files)
        next_beat = time.monotonic() + _BEAT_SECONDS
        next_refill = time.monotonic()
        try:
            while not self.stop.is_set() and not self.totals.stopped:
                now = time.monotonic()
                if self.refill is not None and now >= next_refill:
                    next_refill = now + self.refill_seconds
                    self._enqueue(self.refill())
                if self.refill is None and not self._queue and not self._working:
                    return
                self._fill()
                for message in self._news():
                    self._take(message)
                if now >= next_beat:
                    next_beat = now + _BEAT_SECONDS
                    self.book.progress(self._states)
        finally:
            self._break_off()

    def is_known(self, key: str) -> bool:
        """Say whether a file waits or is in work."""
        return key in self._working or key in self._waiting

    def _enqueue(self, files: Iterable[Found]) -> None:
        for found in files:
            self._queue.append(found)
            self._waiting.add(found.key)

    def _fill(self) -> None:
        while self._queue and self.pool.free() and not self.totals.stopped:
            found = self._queue.popleft()
            self._waiting.discard(found.key)
            if not self.has_space(found):
                self.totals.stopped = (
                    f"{self.book.out_dir}: its disk is nearly full; make room and run this again"
                )
                return
            try:
                found = found.as_it_is()  # hours may have passed since the scan
                part = self.book.begin(found, self.lengths.get(found.key))
            except (CarfilterError, OSError) as error:
                self.refuse(found, getattr(error, "strerror", None) or str(error))
                continue
            self._start(found, part)

    def _start(self, found: Found, part: Path) -> None:
        job = replace(
            self.template,
            action=RESTORE,
            key=found.key,
            source=found.source,
            part=part,
            target=found.target,
        )
        self._working[found.key] = found
        self._states[found.key] = (0, 0.0)
        slot = self.pool.submit(job)
        expected = self.lengths.get(found.key)
        self.observe(Event(STARTED, path=found.key, slot=slot, values={"seconds": expected}))

    def _news(self) -> list[Message]:
        if self._working:
            return self.pool.wait(_WAIT_SECONDS)
        self.stop.wait(_WAIT_SECONDS)  # watching: nothing to do until a file comes
        return []

    def _take(self, message: Message) -> None:
        key = message.job.key
        if message.outcome is None and not message.lost:
            self._states[key] = (message.frames, message.video_seconds)
            self.observe(
                Event(PROGRESS, "", key, message.slot, message.frames, message.video_seconds)
            )
            return
        found = self._working.pop(key)
        del self._states[key]
        if message.lost:
            self._lose(found, message)
            return
        assert message.outcome is not None
        if message.outcome.disk_full:
            self.book.release(found)
            self.totals.stopped = message.outcome.error
        elif message.outcome.device_failed and self._failures + 1 >= _DEVICE_FAILURES:
            self.book.release(found)
            self.totals.stopped = (
                f"{message.outcome.error}; it failed {_DEVICE_FAILURES} times in a row, and the"
                " next run goes on with the rest"
            )
        elif message.outcome.error:
            self._failures += message.outcome.device_failed
            self._blame(found, message.outcome.error, again=message.outcome.may_pass_again)
        else:
            assert message.job.part is not None
            self._accept(found, message.job.part, message.outcome, message.slot)

    def _lose(self, found: Found, message: Message) -> None:
        if message.job.part is not None:
            for path in message.job.part.parent.glob(f"*{message.job.part.stem.lstrip('.')}*"):
                path.unlink(missing_ok=True)
        self._moved[found.key] += 1
        if message.blamed or self._moved[found.key] > _LOST_MACHINES:
            self._blame(found, message.lost, again=True)
            return
        self.book.release(found)
        self._enqueue([found])
        self.observe(Event(RETRIED, f"{found.key}: {message.lost}; done again", found.key))

    def _accept(self, found: Found, part: Path, outcome: Outcome, slot: int) -> None:
        try:
            row = self.book.accept(found, part, outcome)
        except CarfilterError as error:
            self.refuse(found, str(error))
            return
        except OSError as error:
            self._blame(found, f"cannot get its name ({error.strerror})", again=True)
            return
        totals, self._failures = self.totals, 0
        self._forgive(found.key)
        totals.done += 1
        totals.frames += outcome.frames
        totals.video_seconds += outcome.seconds or 0.0
        totals.source_bytes += found.size
        totals.target_bytes += outcome.target_size
        if outcome.damaged:
            totals.damaged += 1
            totals.concealed.append((found.key, row.verdict))
        values = {
            "verdict": row.verdict,
            "warnings": list(outcome.warnings),
            "damaged": outcome.damaged,
            "bytes": outcome.target_size,
            "work_seconds": round(outcome.work_seconds, 3),
            "worker": outcome.worker,
        }
        seconds = outcome.seconds or 0.0
        text = f"{found.key}: {row.verdict}, {outcome.frames} frames"
        self.observe(Event(DONE, text, found.key, slot, outcome.frames, seconds, values))

    def _blame(self, found: Found, reason: str, *, again: bool) -> None:
        self._tries[found.key] += 1
        if not again or self._tries[found.key] > self.retries:
            self.refuse(found, reason)
            return
        self.book.blame(found, reason, again=True)
        self._enqueue([found])
        self.observe(Event(RETRIED, f"{found.key}: {reason}; tried again", found.key))

    def refuse(self, found: Found, reason: str) -> None:
        """Note a file as failed for good."""
        self.book.blame(found, reason, again=False)
        self._forgive(found.key)
        self.totals.failed += 1
        self.totals.failures.append((found.key, reason))
        text, values = f"{found.key}: {reason}", {"reason": reason}
        self.observe(Event(FAILED, text, found.key, values=values))

    def _forgive(self, key: str) -> None:
        """Count a file as failed no more: while an archive is watched, a whole one may follow."""
        failures = self.totals.failures
        left = [failure for failure in failures if failure[0] != key]
        self.totals.failed -= len(failures) - len(left)
        failures[:] = left

    def _break_off(self) -> None:
        """End what is in work; it is done again by the next run, as if it had not begun."""
        if not self._working:
            return
        self.pool.close()
        for found in self._working.values():
            self.book.release(found)
        count = len(self._working)
        self._working.clear()
        self.observe(Event(NOTE, f"broke off {count} files; the next run takes them up again"))
