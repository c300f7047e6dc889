"""What a run over an archive tells those who watch it, and what it comes to in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    others: int
    links: int
    unreadable: tuple[str, ...]
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
