"""What a run over an archive tells those who watch it, and what it comes to in the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from carfilter.errors import CarfilterError

# Kinds of events: for people `text` says the same as `values` do for programs.
SCANNED, PLANNED, STARTED, PROGRESS = "scanned", "planned", "started", "progress"
DONE, RETRIED, FAILED, NOTE, ENDED = "done", "retried", "failed", "note", "ended"


@dataclass(frozen=True)
class Event:
    """One thing that happened; `slot` is the worker it happened in, -1 for none."""

    kind: str
    text: str = ""
    path: str = ""
    slot: int = -1
    frames: int = 0
    video_seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What a few restored seconds let expect; None where nothing was sampled."""

    work_seconds: float | None = None  # until the end, with all workers
    growth: float | None = None  # bytes of results per byte of sources
    new_bytes: int | None = None
    sampled: int = 0  # files
    engine: str = ""


@dataclass(frozen=True)
class Plan:
    """What is there and what is to be done."""

    files: int
    finished: int  # of them: done before, or failed before and unchanged
    pending: int
    pending_bytes: int
    pending_seconds: float  # of video, as far as the containers say
    unknown_lengths: int  # pending files that do not say
    left: tuple[tuple[str, str], ...]  # what is no video: path and reason
    unreadable: tuple[tuple[str, str], ...]  # path and reason
    workers: int
    free_bytes: int
    estimate: Estimate


@dataclass
class Totals:
    """What a run has come to."""

    files: int = 0  # videos of the archive
    done: int = 0  # by this run
    finished_before: int = 0
    failed: int = 0  # of the archive, by this run or an earlier one
    damaged: int = 0  # results of this run with concealed damage
    frames: int = 0
    video_seconds: float = 0.0
    source_bytes: int = 0
    target_bytes: int = 0
    elapsed_seconds: float = 0.0
    interrupted: bool = False
    stopped: str = ""  # why the run ended early by itself, such as a full disk
    failures: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    concealed: list[tuple[str, str]] = field(default_factory=list)  # path, verdict

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if anything failed."""
        return 1 if self.failed or self.stopped else 0


class JsonLog:
    """Write each event but progress as one JSON object a line, for programs.

    Args:
        where: a file, which is appended to, or "-" for stdout.

    Raises:
        CarfilterError: it cannot be written.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        try:
            self._file = sys.stdout if where == "-" else Path(where).open("a")  # noqa: SIM115
        except OSError as error:
            raise CarfilterError(
                f"--log-json {where}: cannot be written ({error.strerror})"
            ) from error

    def __call__(self, event: Event) -> None:
        if event.kind == PROGRESS or self._file.closed:
            return
        values = {key: _as_json(value) for key, value in event.values.items() if key != "lengths"}
        record = {"time": round(time.time(), 3), "event": event.kind, **values}
        if event.path:
            record["path"] = event.path
        if event.text:
            record["text"] = event.text
        if event.frames:
            record |= {"frames": event.frames, "video_seconds": round(event.video_seconds, 3)}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            if event.kind == ENDED and self._file is not sys.stdout:
                self._file.close()
        except OSError:
            return  # its disk or its reader has gone; the footage matters more


def logged(observe: Callable[[Event], object], where: str | None) -> Callable[[Event], object]:
    """Return an observer that also writes the events to a JsonLog, if one is wanted."""
    if where is None:
        return observe
    log = JsonLog(where)

    def both(event: Event) -> None:
        observe(event)
        log(event)

    return both


def _as_json(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
