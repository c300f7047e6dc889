"""Whether there is a video in files whose first bytes alone, and no ending, speak for one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from carfilter.archive.plan import Found
from carfilter.archive.pool import Pool
from carfilter.archive.schedule import run_jobs
from carfilter.archive.worker import PROBE, Job, Outcome


@dataclass
class Look:
    """Open such files, each one once, in workers: a damaged one may crash."""

    template: Job
    _reasons: dict[Found, str] = field(default_factory=dict)  # "" for a video

    def is_needed(self, files: Sequence[Found]) -> bool:
        """Say whether there are files that nobody has looked into."""
        return any(not f.claims and f not in self._reasons for f in files)

    def into(self, files: Sequence[Found], pool: Pool, stop: threading.Event) -> None:
        """Open those that were not opened yet.

        One that cannot be opened counts as a video: it fails in its turn, with its reason.
        """
        unknown = {f.key: f for f in files if not f.claims and f not in self._reasons}

        def take(job: Job, outcome: Outcome) -> None:
            self._reasons[unknown[job.key]] = "" if outcome.may_be_video else outcome.error

        jobs = [
            replace(self.template, action=PROBE, key=f.key, source=f.source)
            for f in unknown.values()
        ]
        run_jobs(pool, jobs, stop, take)

    def without_video(self, files: Sequence[Found]) -> dict[str, str]:
        """Return why files are left alone, by key."""
        reasons = {f.key: self._reasons.get(f, "") for f in files}
        return {key: reason for key, reason in reasons.items() if reason}
