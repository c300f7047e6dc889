"""Run a command; print as JSON how long it took, on how much CPU, and its peak of memory.

    python launch.py CORES COMMAND...         (0 cores: all there are)

A process of its own, and a small one: Linux counts into a child's peak what the process that
forked it held at the time, which for a benchmark with torch and two networks is more than most
children ever need. Standard library only, so that it stays small.
"""

import json
import os
import sys
import time


def main() -> None:
    cores, command = int(sys.argv[1]), sys.argv[2:]
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=silent)
    _, status, used = os.wait4(child, 0)
    took = time.perf_counter() - began
    print(json.dumps({
        "code": os.waitstatus_to_exitcode(status),
        "seconds": took,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
