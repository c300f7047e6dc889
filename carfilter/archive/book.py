"""Every step of a file through the archive, each one noted before it counts.

    pending -> running -> verified -> done
                  |  \\-> pending (another try)
                  \\-> failed

A result gets its name only after "verified" is on the disk, so that after a power cut a name with
nothing noted about it is a stranger's file, and never half of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carfilter.archive.plan import Found, text_of
from carfilter.archive.state import DONE, FAILED, PENDING, RUNNING, VERIFIED, Row, State
from carfilter.archive.worker import Outcome
from carfilter.errors import CarfilterError
from carfilter.run.options import FilterOptions
from carfilter.run.sidecar import drop_stale_sidecar, is_sidecar, sidecar_of
from carfilter.unfinished import check_name, place

# What is wrong with the name of a result; it may be right by the next run.
_FOREIGN, _LINK = "exists already and was not made here", "is a link"

# Our temporary names, and those that filter_video() makes of them; nothing else is swept.
_TEMPORARY = re.compile(
    r"^\.{1,2}carfilter-[0-9a-f]{16}(\.[0-9a-f]{8})?(\.part|\.partial)?\.\w{1,16}(\.json)?"
    r"(\.[0-9a-f]{8}\.part)?$"
)


@dataclass(frozen=True)
class Settings:
    """What a result depends on besides its source; a change of it is a reason to do it again."""

    weights_sha256: str
    options: str


def describe_options(options: FilterOptions) -> str:
    """Return the options as JSON, less those that do not change the result."""
    values: dict[str, Any] = asdict(options)
    del values["sidecar"]
    for group, name in (
        ("target", "overwrite"),
        ("target", "verbose_encoder"),
        ("restore", "batch_size"),
        ("restore", "tile"),
        ("restore", "reuse"),
    ):
        del values[group][name]
    return json.dumps(values, sort_keys=True)


def _same_options(noted: str, now: str) -> bool:
    """Compare what describe_options() gave, now and perhaps in an earlier version.

    An option that the earlier one did not have was at its default.
    """
    return noted == now or _completed(noted) == _completed(now)


def _completed(text: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(describe_options(FilterOptions()))
    for name, value in json.loads(text).items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return values


def _stretch(options: str) -> tuple[float | None, float | None]:
    source = _completed(options)["source"]
    return source["start_seconds"], source["end_seconds"]


class Book:
    """The rows of the database and the only place where they change."""

    def __init__(
        self,
        state: State,
        out_dir: Path,
        settings: Settings,
        *,
        overwrite: bool,
        sidecar: bool = False,
    ) -> None:
        self.state, self.out_dir, self.settings = state, out_dir, settings
        self.overwrite, self.sidecar = overwrite, sidecar
        self.rows = state.rows()
        self._run = os.urandom(8)  # so that an orphan of an earlier run writes to other names

    def recover(self) -> int:
        """Bring what an earlier run left to a defined state; returns how many files it was at."""
        left = [row for row in self.rows.values() if row.status in (RUNNING, VERIFIED)]
        for row in left:
            if row.status == VERIFIED and self._is_placed(row):
                row.status, row.finished_at = DONE, time.time()
            else:
                row.status, row.interrupted, row.verdict = PENDING, row.interrupted + 1, ""
        self.state.save(*left)
        self.sweep()
        return len(left)

    def sweep(self) -> None:
        """Remove the temporary files of this and earlier runs."""
        for path in _temporary_files(self.out_dir):
            path.unlink(missing_ok=True)

    def is_finished(self, found: Found, *, retry_failed: bool) -> bool:
        """Say whether a file needs no work: done, or failed for good, and nothing has changed."""
        row = self.rows.get(found.key)
        if row is None or not row.is_over or not self._is_same(row, found):
            return False
        if row.status == FAILED:
            return not retry_failed and not self._is_free_by_now(found, row)
        return self._size(found.target) == row.target_size

    def begin(self, found: Found, video_seconds: float | None) -> Path:
        """Note that work on a file starts; returns the temporary name of its result.

        Raises:
            CarfilterError: its name is taken by a file that is not ours, or leads out of OUT_DIR.
        """
        row = self.row(found)
        if row.target != text_of(found.target.relative_to(self.out_dir)):
            row.target_size = None  # what we placed has another name
        found.target.parent.mkdir(parents=True, exist_ok=True)
        self._check_target(found, row)
        row.attempts += 1
        token = hashlib.blake2b(
            found.key.encode() + self._run + bytes([row.attempts % 256]), digest_size=8
        ).hexdigest()
        part = found.target.with_name(f".carfilter-{token}{found.target.suffix}")
        self._describe(row, found)
        row.video_seconds, row.part = video_seconds, part.name
        row.status, row.verdict, row.error, row.frames = RUNNING, "", "", 0
        self.state.save(row)
        return part

    def accept(self, found: Found, part: Path, outcome: Outcome) -> Row:
        """Note a verified result, give it its name, and note that, in this order."""
        row = self.row(found)
        # Looked at again: hours have passed since begin().
        overwrite = self._check_target(found, row)
        row.status, row.target_size = VERIFIED, outcome.target_size
        row.content_sha256, row.frames, row.damaged = (
            outcome.content_sha256,
            outcome.frames,
            outcome.damaged,
        )
        row.video_seconds = outcome.seconds or row.video_seconds
        row.seconds, row.verdict = outcome.work_seconds, _verdict(outcome)
        self.state.save(row)
        _place(part, found.target, overwrite=overwrite)
        row.status, row.part, row.finished_at = DONE, "", time.time()
        self.state.save(row)
        return row

    def blame(self, found: Found, reason: str, *, again: bool) -> Row:
        """Note a failed attempt, and whether another one follows."""
        row = self.row(found)
        self._describe(row, found)
        row.status = PENDING if again else FAILED
        row.verdict, row.error, row.part = "" if again else "failed", reason, ""
        row.finished_at = None if again else time.time()
        self.state.save(row)
        return row

    def release(self, found: Found) -> None:
        """Note that work on a file was broken off and the file is not to blame."""
        row = self.row(found)
        row.status, row.part, row.verdict = PENDING, "", ""
        row.attempts, row.interrupted = max(row.attempts - 1, 0), row.interrupted + 1
        self.state.save(row)

    def length_of(self, found: Found) -> float | None:
        """Return the video seconds noted of a file, where it and its stretch are the same."""
        row = self.rows.get(found.key)
        if row is None or (row.size, row.mtime_ns) != (found.size, found.mtime_ns):
            return None
        same = bool(row.options) and _stretch(row.options) == _stretch(self.settings.options)
        return row.video_seconds if same else None

    def row(self, found: Found) -> Row:
        """Return the row of a file, a new one where there is none."""
        return self.rows.setdefault(found.key, Row(path=found.key))

    def progress(self, states: Mapping[str, tuple[int, float]]) -> None:
        """Note frames and video seconds of the files in work."""
        rows = []
        for key, (frames, video_seconds) in states.items():
            row = self.rows[key]
            row.frames, row.verdict = frames, f"at {video_seconds:.0f} s"
            rows.append(row)
        self.state.beat(rows)

    def _describe(self, row: Row, found: Found) -> None:
        row.target = text_of(found.target.relative_to(self.out_dir))
        row.size, row.mtime_ns = found.size, found.mtime_ns
        row.weights_sha256, row.options = self.settings.weights_sha256, self.settings.options

    def _is_same(self, row: Row, found: Found) -> bool:
        now = Row(path=row.path)
        self._describe(now, found)
        names = ("target", "size", "mtime_ns", "weights_sha256")
        same_file = all(getattr(row, name) == getattr(now, name) for name in names)
        return same_file and _same_options(row.options, now.options)

    def _check_target(self, found: Found, row: Row) -> bool:
        """See that neither the target's folder nor its name is somebody else's.

        Returns whether a file of that name may be replaced.
        """
        inside = found.target.parent.resolve()
        if inside != self.out_dir and self.out_dir not in inside.parents:
            raise CarfilterError(f"{found.target.parent}: a link leads out of OUT_DIR; remove it")
        check_name(found.target)
        if found.target.is_symlink():
            raise CarfilterError(f"{found.target}: {_LINK}; remove it, or give another OUT_DIR")
        size = self._size(found.target)
        is_ours = size is not None and size == row.target_size
        if size is not None and not is_ours and not self.overwrite:
            raise CarfilterError(f"{found.target}: {_FOREIGN}; give -y to replace it")
        beside = sidecar_of(found.target)
        if self.sidecar and beside.exists() and not (is_sidecar(found.target) or self.overwrite):
            raise CarfilterError(f"{beside}: {_FOREIGN}; give -y to replace it")
        return is_ours or self.overwrite

    def _is_free_by_now(self, found: Found, row: Row) -> bool:
        """Say whether a file that failed over its result's name may have it now."""
        if _FOREIGN not in row.error and _LINK not in row.error:
            return False
        try:
            self._check_target(found, row)
        except CarfilterError:
            return False
        return True

    def _is_placed(self, row: Row) -> bool:
        """Finish what a cut between "verified" and "done" has left; False if nothing is there."""
        target = self.out_dir / row.target
        part = target.with_name(row.part)
        if self._size(part) == row.target_size:
            _place(part, target, overwrite=True)
        elif self._size(target) == row.target_size:
            _place_sidecar(part, target)
        return self._size(target) == row.target_size

    @staticmethod
    def _size(path: Path) -> int | None:
        try:
            return path.lstat().st_size
        except OSError:
            return None


def _place(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; the folder goes to the disk, since a name lives there.

    Its sidecar comes last: where that lies beside the part, another run knows that it is to come.
    """
    if not sidecar_of(part).exists():
        drop_stale_sidecar(target)
    placed = place(part, target, overwrite=overwrite)
    _place_sidecar(part, placed)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if placed != target:
        raise CarfilterError(
            f"{target}: came to exist during the work; its result is complete and lies in {placed}"
        )


def _place_sidecar(part: Path, placed: Path) -> None:
    if sidecar_of(part).exists():
        sidecar_of(part).replace(sidecar_of(placed))


def _temporary_files(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):  # follows no links
        for name in names:
            if _TEMPORARY.match(name):
                yield Path(here, name)


def _verdict(outcome: Outcome) -> str:
    notes = []
    if outcome.damaged:
        notes.append(f"{outcome.damaged} damaged frames or packets concealed")
    if outcome.repaired:
        notes.append(f"{outcome.repaired} timestamps repaired")
    return "; ".join(["restored", *notes, *outcome.warnings])
