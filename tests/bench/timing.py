"""Take times so that ratios hold on a machine whose clock drifts: everything in turn, many times.

Two runs a minute apart differ by more than what is measured. Each round runs every job once, a
ratio is taken within a round, and the median over the rounds is the result.
"""

import statistics
import time
from collections.abc import Callable, Mapping

Jobs = Mapping[str, Callable[[], object]]
Times = dict[str, list[float]]


def take_times(jobs: Jobs, runs: int, *, warm: bool = True) -> Times:
    """Return the seconds that each job took in each round; every other round runs backwards.

    Args:
        warm: run each once beforehand, unmeasured.
    """
    for job in jobs.values() if warm else ():
        job()
    times: Times = {name: [] for name in jobs}
    for turn in range(runs):
        for name in list(jobs)[:: -1 if turn % 2 else 1]:
            times[name].append(seconds_of(jobs[name]))
    return times


def seconds_of(job: Callable[[], object]) -> float:
    """Run a job; return the seconds it took."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def median_ms(times: Times, name: str) -> float:
    """Return the median of a job in milliseconds."""
    return statistics.median(times[name]) * 1e3


def ratio(times: Times, a: str, b: str) -> float:
    """Return how many times as long as b a took, the median of the rounds."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))
