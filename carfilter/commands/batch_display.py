"""What people see of a run over an archive: the plan, a bar for all and one a worker, failures."""

import logging
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from carfilter.archive import events
from carfilter.commands.display import passing_bar
from carfilter.commands.inspect_display import print_plan
from carfilter.inspection.summary import COLUMNS
from carfilter.pages.numbers import duration_text
from carfilter.pages.numbers import size_text as size

if TYPE_CHECKING:
    from carfilter.archive.state import Row

_LINE_SECONDS = 30.0  # between two lines where stderr is no terminal
_BAR_SECONDS = 0.2
_LISTED = 50  # rows of a table; the report has all
_NAME_WIDTH = 40


class BatchDisplay:
    """Show a run while it lasts; call it with each event."""

    def __init__(self, *, level: int, period_seconds: float | None = None) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False)
        self._level = level
        on_terminal = self.console.is_terminal
        self._period = period_seconds or (_BAR_SECONDS if on_terminal else _LINE_SECONDS)
        self._next = 0.0
        self._bars: Progress | None = None
        self._slots: dict[int, TaskID] = {}
        self._work = _Work()

    def __enter__(self) -> "BatchDisplay":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_bars()

    def __call__(self, event: events.Event) -> None:
        self._work.note(event)
        if event.kind == events.PLANNED:
            if event.values["files"] and self._level <= logging.INFO:
                print_plan(self.console, COLUMNS, event.values["files"])
            for line in plan_lines(event.values["plan"]):
                self._say(logging.INFO, line)
            self._start_bars()
        elif event.kind in (events.FAILED, events.RETRIED):
            self._say(logging.WARNING, event.text)
        elif event.kind == events.DONE:
            told = event.values["damaged"] or event.values["warnings"]
            self._say(logging.WARNING if told else logging.DEBUG, event.text)
        elif event.kind in (events.SCANNED, events.NOTE):
            self._say(logging.INFO, event.text)
        elif event.kind == events.ENDED:
            self._stop_bars()
            self._end(event.values["totals"])
        self._update(event)

    def _say(self, level: int, text: str) -> None:
        if level >= self._level:
            self.console.print(f"carfilter: {text}", markup=False, soft_wrap=True)

    def _start_bars(self) -> None:
        if not self.console.is_terminal or self._level > logging.INFO:
            return
        self._bars = passing_bar(self.console)
        self._all = self._bars.add_task("archive", total=None, state="")
        self._bars.start()

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _update(self, event: events.Event) -> None:
        now = time.monotonic()
        if self._bars is not None:
            self._update_slot(event)
            if now >= self._next:
                self._next = now + self._period
                done, total = self._work.seconds(), self._work.total_seconds
                state = self._work.describe()
                self._bars.update(self._all, completed=done, total=total or None, state=state)
        elif event.kind == events.PROGRESS and now >= self._next:
            if self._next:  # the first line after a period, not at once
                self._say(logging.INFO, self._work.describe())
            self._next = now + self._period

    def _update_slot(self, event: events.Event) -> None:
        assert self._bars is not None
        if event.slot < 0:
            return
        if event.slot not in self._slots:
            self._slots[event.slot] = self._bars.add_task("", total=None, state="")
        task = self._slots[event.slot]
        name = escape(event.path[-_NAME_WIDTH:])
        if event.kind == events.STARTED:
            self._bars.reset(task, description=name, total=event.values["seconds"], state="")
        elif event.kind == events.PROGRESS:
            self._bars.update(task, completed=event.video_seconds, state=f"{event.frames} frames")
        elif event.kind in (events.DONE, events.FAILED):
            self._bars.update(task, description="", state="")

    def _end(self, totals: events.Totals) -> None:
        for title, rows in (
            ("Concealed damage", totals.concealed),
            ("Failures", totals.failures),
        ):
            if rows and self._level <= logging.ERROR:
                self.console.print(_table(title, rows))
        for line in total_lines(totals):
            self._say(logging.INFO, line)


class _Work:
    """How far the whole is, counted in seconds of video."""

    def __init__(self) -> None:
        self.total_seconds = 0.0
        self._lengths: dict[str, float] = {}
        self._current: dict[str, float] = {}
        self._done_seconds = 0.0
        self._files = self._left = self._failed = 0
        self._started: float | None = None

    def note(self, event: events.Event) -> None:
        if event.kind == events.PLANNED:
            plan: events.Plan = event.values["plan"]
            self._lengths = dict(event.values["lengths"])
            self.total_seconds, self._left = plan.pending_seconds, plan.pending
        elif event.kind == events.STARTED:
            self._started = self._started or time.monotonic()
            self._current[event.path] = 0.0
        elif event.kind == events.PROGRESS:
            self._current[event.path] = max(event.video_seconds, 0.0)
        elif event.kind == events.DONE:
            self._current.pop(event.path, None)
            self._done_seconds += self._lengths.get(event.path, 0.0)
            self._files, self._left = self._files + 1, max(self._left - 1, 0)
        elif event.kind == events.RETRIED:
            self._current.pop(event.path, None)
        elif event.kind == events.FAILED:
            self._current.pop(event.path, None)
            self.total_seconds -= self._lengths.get(event.path, 0.0)
            self._failed, self._left = self._failed + 1, max(self._left - 1, 0)

    def seconds(self) -> float:
        """Seconds of video done, those of the files in work with them."""
        return self._done_seconds + sum(
            min(seconds, self._lengths.get(path, 0.0)) for path, seconds in self._current.items()
        )

    def describe(self) -> str:
        """Say how many files are done, at what speed, and how long the rest takes."""
        elapsed = time.monotonic() - (self._started or time.monotonic())
        speed = self.seconds() / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._files} done", f"{self._left} to do"]
        parts += [f"{self._failed} failed"] if self._failed else []
        if speed > 0:
            left = max(self.total_seconds - self.seconds(), 0.0) / speed
            parts += [f"{speed:.2f}x", f"{duration_text(left)} left"]
        return ", ".join(parts)


def plan_lines(plan: events.Plan) -> list[str]:
    """Return the plan as sentences."""
    unknown = f" and {plan.unknown_lengths} of unknown length" if plan.unknown_lengths else ""
    workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    lines = [
        f"to do: {plan.pending} files, {duration_text(plan.pending_seconds)} of video{unknown},"
        f" {size(plan.pending_bytes)}, on {workers}"
        f" ({plan.finished} files are finished already)"
    ]
    expected = plan.estimate
    if expected.work_seconds is not None and expected.growth is not None:
        lines.append(
            f"estimate from {expected.sampled} samples: {duration_text(expected.work_seconds)},"
            f" results {expected.growth:.1f} times as large as the sources"
            f" ({size(expected.new_bytes or 0)}; {size(plan.free_bytes)} are free)"
            + (f"; {expected.engine}" if expected.engine else "")
        )
    lines += [f"{path}: cannot be read ({reason})" for path, reason in plan.unreadable]
    lines += [f"left alone: {path}: {reason}" for path, reason in plan.left[:_LISTED]]
    if len(plan.left) > _LISTED:
        lines.append(f"left alone: {len(plan.left) - _LISTED} more, which --report names")
    return lines


def total_lines(totals: events.Totals) -> list[str]:
    """Return what a run has come to as sentences."""
    speed = totals.video_seconds / totals.elapsed_seconds if totals.elapsed_seconds else 0.0
    verb = "interrupted" if totals.interrupted else "stopped" if totals.stopped else "done"
    lines = [
        f"{verb}: {totals.done} restored ({totals.damaged} with concealed damage),"
        f" {totals.failed} failed, {totals.finished_before} finished before;"
        f" {totals.frames} frames, {duration_text(totals.video_seconds)} of video in"
        f" {duration_text(totals.elapsed_seconds)} ({speed:.2f}x);"
        f" {size(totals.source_bytes)} became {size(totals.target_bytes)}"
    ]
    if totals.stopped:
        lines.append(totals.stopped)
    if totals.failed:
        lines.append("--retry-failed tries the failed ones again")
    return lines


def show_status(rows: list["Row"], heartbeat: str, *, at_work: bool) -> None:
    """Print the state of an archive to stdout."""
    console = Console(highlight=False, emoji=False)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    state = "a run is at work" if at_work else "no run is at work"
    console.print(f"{state}; {', '.join(parts) or 'nothing was begun'}", markup=False)
    if at_work and heartbeat:
        ago = max(time.time() - float(heartbeat), 0.0)
        console.print(f"its last note of progress is {ago:.0f} s old", markup=False)
    for row in rows:
        if row.status == "running" and at_work:
            text = f"in work: {row.path}: {row.verdict or 'just begun'}, {row.frames} frames"
            console.print(text, markup=False, soft_wrap=True)
    done = [row for row in rows if row.status == "done"]
    if done:
        before, after = (
            size(sum(r.size for r in done)),
            size(sum(r.target_size or 0 for r in done)),
        )
        console.print(
            f"done: {sum(r.frames for r in done)} frames; {before} became {after};"
            f" {sum(r.damaged > 0 for r in done)} with concealed damage",
            markup=False,
        )
    failed = [(row.path, row.error) for row in rows if row.status == "failed"]
    if failed:
        console.print(_table("Failures", failed))


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=False, expand=False)
    table.add_column("File", overflow="fold")
    table.add_column("Reason", overflow="fold")
    for path, reason in rows[:_LISTED]:
        table.add_row(escape(path), escape(reason))
    if len(rows) > _LISTED:
        table.add_row("...", f"and {len(rows) - _LISTED} more; --report lists all")
    return table
