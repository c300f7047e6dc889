"""What people see of a run on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from carfilter.commands.progress import eta_seconds

if TYPE_CHECKING:
    from carfilter.run.account import Run

_LINE_SECONDS = 5.0  # between two lines where stderr is no terminal
_BAR_SECONDS = 0.1
_MEGABYTE = 1e6
_ENCODER_BOUND = 0.8  # share of its time that a run held up by its encoder spends there


def wide_in_a_pipe(console: Console, width: int) -> Console:
    """Return the console, or one so wide on the same file where that is no terminal."""
    if console.is_terminal:
        return console
    return Console(file=console.file, width=width, highlight=False, emoji=False)


def passing_bar(console: Console) -> Progress:
    """Return bars that vanish at the end; a task has a field `state`, the text behind its bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


class RunDisplay:
    """Show a run while it lasts; call it with the run after each frame."""

    def __init__(self, *, quiet: bool, period_seconds: float | None = None) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._bar: Progress | None = None
        self._quiet = quiet
        on_terminal = self.console.is_terminal
        self._period = period_seconds or (_BAR_SECONDS if on_terminal else _LINE_SECONDS)
        self._next = time.monotonic() + (0.0 if on_terminal else self._period)

    def __enter__(self) -> "RunDisplay":
        if self.console.is_terminal and not self._quiet:
            self._bar = passing_bar(self.console)
            self._task = self._bar.add_task("restoring", total=None, state="")
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, run: "Run") -> None:
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + self._period
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=run.seconds_expected,
                completed=max(run.video_seconds, 0.0),
                state=_state(run),
            )
        else:
            self.console.print(f"carfilter: {_state(run)}", soft_wrap=True)


def _state(run: "Run") -> str:
    speed = run.video_seconds / run.elapsed_seconds if run.elapsed_seconds else 0.0
    left = eta_seconds(run)
    parts = [
        f"{run.frames} frames",
        f"{run.fps:.1f} fps",
        f"{speed:.2f}x",
        *([] if left is None else [f"{left:.0f} s left"]),
        f"{run.bottleneck} is the bottleneck",
    ]
    return ", ".join(parts)


def summary(run: "Run") -> str:
    """Return what a finished run did: frames, speed, bottleneck, mean QP, damage, size."""
    if run.interrupted and not run.frames and not run.partial:
        return "interrupted before the first frame; nothing is written"
    busy = ", ".join(
        f"{stage} {seconds / max(run.elapsed_seconds, 1e-9):.0%}"
        for stage, seconds in run.busy_seconds.items()
    )
    qp = "unknown" if run.mean_qp is None else f"{run.mean_qp:.1f}"
    if run.mean_qp is not None:
        qp += " (measured)" if run.qp_measured else " (as H.264's)" if run.qp_converted else ""
    jumps = f" {run.jumps} clock jumps;" if run.jumps else ""
    jumps += f" {run.changed} frames of another form;" if run.changed else ""
    reused = f" reuse saved {run.saved:.0%} of the network's work;" if run.saved >= 0.005 else ""
    verb = "interrupted after" if run.interrupted else "done:"
    where = run.partial or run.target
    return (
        f"{verb} {run.frames} frames in {run.elapsed_seconds:.1f} s ({run.fps:.1f} fps);"
        f" bottleneck {run.bottleneck} (busy: {busy}){_advice(run)};{reused} mean QP {qp};"
        f"{_live_part(run)} {run.damaged} damaged;{jumps}"
        f" {run.bytes_written / _MEGABYTE:.2f} MB in {where}"
    )


def _live_part(run: "Run") -> str:
    passed = f" {run.passed} passed unrestored;" if run.passed else ""
    return passed + (f" {run.reconnects} reconnects;" if run.reconnects else "")


def _advice(run: "Run") -> str:
    """Return what would speed up a run that waited for its encoder, which users take for us."""
    waited = run.busy_seconds.get("encode", 0.0) >= _ENCODER_BOUND * run.elapsed_seconds
    return ", a faster -preset would help" if run.bottleneck == "encode" and waited else ""


class StderrLog(logging.Handler):
    """Print the records of the logger "carfilter" above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        self._console.print(
            f"carfilter: {prefix}{record.getMessage()}", markup=False, soft_wrap=True
        )
