"""Whether the machine was left alone: what others took of its cores while something ran (Linux)."""

import os
import time
from pathlib import Path

from .rows import Row

_STAT = Path("/proc/stat")


class Others:
    """Counts from its making on what other programs, and other tenants of the host, take."""

    def __init__(self) -> None:
        self._began, self._busy, self._stolen = time.monotonic(), *_cpu_seconds()
        self._own = _own_seconds()

    def row(self, of: str) -> Row:
        """Return cores that were not ours, as means since the making; ended children are ours."""
        elapsed = time.monotonic() - self._began
        busy, stolen = _cpu_seconds()
        others = busy - self._busy - (_own_seconds() - self._own)
        return {"part": "others", "of": of, "seconds": elapsed,
                "busy_cores": max(others, 0.0) / elapsed,
                "stolen_cores": (stolen - self._stolen) / elapsed}  # fmt: skip


def _cpu_seconds() -> tuple[float, float]:
    """Return the seconds that all programs ran since the machine's start, and those stolen."""
    if not _STAT.exists():
        return 0.0, 0.0
    user, nice, system, _, _, irq, soft_irq, stolen = map(
        int, _STAT.read_text().split("\n", 1)[0].split()[1:9]
    )
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft_irq) / tick, stolen / tick


def _own_seconds() -> float:
    return sum(os.times()[:4])
