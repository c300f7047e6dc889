"""Find the files that a recorder has finished, while it goes on with the next ones."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from carfilter.archive.plan import Found, Naming, scan


@dataclass
class Watch:
    """Look at a folder again and again; a file is complete when nobody writes to it any more."""

    in_dir: Path
    out_dir: Path
    naming: Naming
    settle_seconds: float
    _seen: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # size, mtime, since

    @property
    def look_seconds(self) -> float:
        """Seconds between two looks: a walk over a large tree is not free."""
        return min(max(self.settle_seconds / 3, 0.2), 10.0)

    def videos(self) -> list[Found]:
        """Return everything that is there, complete or not."""
        return scan(self.in_dir, self.out_dir, self.naming).videos

    def is_complete(self, found: Found) -> bool:
        """Say whether a file has not changed for the settling time and nobody holds it open.

        The time counts from our first look at its present state, or from its mtime where that is
        older: a camera's clock that is ahead only makes us wait.
        """
        now = time.time()
        size, mtime_ns, since = self._seen.get(found.key, (-1, -1, 0.0))
        if (size, mtime_ns) != (found.size, found.mtime_ns):
            since = min(now, found.mtime_ns / 1e9) if size == -1 else now
            self._seen[found.key] = (found.size, found.mtime_ns, since)
        settled = now - since >= self.settle_seconds
        return settled and found.size > 0 and not _is_written_to(found.source)


def _is_written_to(path: Path) -> bool:
    """Ask the kernel for a read lease, which it refuses while anybody has the file open to write.

    Only local file systems know, and only for files of our own; elsewhere the settling time alone
    has to do.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return True  # gone, or not readable yet
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False
