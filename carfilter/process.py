"""The whole process: signals that end it, threads that sleep, memory that is kept, its CPU."""

import ctypes
import os
import signal
import sys
import threading
from functools import cache
from pathlib import Path

# Parameters of glibc's mallopt(3), by the numbers in its malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no larger one
_KEPT_BYTES = 1 << 30
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_CPU = Path("/proc/cpuinfo")
_FLAGS = ("flags", "Features")  # of x86-64, of ARM
# A terminal that closes sends SIGHUP; Windows has none.
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def prepare_process() -> None:
    """Set up threads and memory; call it before torch loads and before threads start.

    Settings of the user's own, by environment variables, win.
    """
    # Spinning, torch's idle threads would take the time of the encoder's: 6 % of the whole tool.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        keep_freed_memory()


def load_numpy() -> None:
    """Import numpy for a process of our own, in which nothing multiplies matrices.

    Its OpenBLAS starts a thread to a core, and they spin for a while: 0.1 s of the processor, a
    quarter of what one frame takes, with two cores. A setting of the user's own wins.
    https://github.com/OpenMathLib/OpenBLAS/blob/develop/Makefile.rule (THREAD_TIMEOUT)
    """
    given = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    try:
        import numpy  # noqa: F401 (reads that setting once)
    finally:
        if given is None:  # torch may link an OpenBLAS of its own, and needs its threads
            del os.environ[_BLAS_THREADS]


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the system.

    A network takes and frees buffers of many megabytes with each layer of each frame. Given back
    each time, they cost a page fault per 4 kB: 4,000 a frame at 912x512 in int8, a tenth of its
    time. One arena, since others hold only 64 MB and are given back whole.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_ARENA_MAX, 1)


def thread_count() -> int:
    """Return how many threads a network works with: OMP_NUM_THREADS, or one to a core.

    Where torch is loaded, its own setting counts.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else cores()


def limit_threads(count: int) -> None:
    """Let networks use so many threads from now on, in this process and those that it starts."""
    os.environ["OMP_NUM_THREADS"] = str(count)  # read by torch once, when it is loaded
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stop_on_signals() -> tuple[threading.Event, list[int]]:
    """Set the event on the first of these signals, and end the process at once on the second.

    A SIGHUP that was ignored when the process began, as by nohup(1), stays so.

    Returns the event, and the list into which the number of the first signal goes.
    """
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if received:
            os._exit(128 + number)  # no harm: a result has its name only when it is complete
        received.append(number)
        stop.set()

    for number in STOPPING:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, on_signal)
    return stop, received


@cache
def cpu_flags() -> frozenset[str]:
    """Return what this CPU can do, by the names that Linux has for it; elsewhere nothing is known.

    Only the first CPU is asked: on machines with several kinds of cores Linux shows what all have.
    """
    if not _CPU.exists():
        return frozenset()
    lines = (line.partition(":") for line in _CPU.read_text().splitlines())
    return next(
        (frozenset(has.split()) for name, _, has in lines if name.strip() in _FLAGS), frozenset()
    )
