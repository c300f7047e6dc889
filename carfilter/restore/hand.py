"""The one thread of a process that runs networks on CUDA, whoever asks and for whichever file.

cuDNN keeps its plans, and what it found out by trying, for each thread by itself: the stages have
a new thread for each file, which would pay for them again.
"""

import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Hand:
    """A thread that does one thing after the other; it ends with the process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        # A daemon: a compiler that is at work must not keep a process from ending.
        threading.Thread(target=self._run, name="cuda-compute", daemon=True).start()

    def do(self, work: Callable[[], T]) -> T:
        """Return what work() returns, or raise what it raises."""
        future: Future[T] = Future()
        self._jobs.put((future, work))
        try:
            return future.result()
        finally:
            del future  # an error's traceback holds what it was about

    def _run(self) -> None:
        while True:
            future, work = self._jobs.get()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 (raised in who asked)
                future.set_exception(error)
            del future, work


@functools.cache
def hand() -> Hand:
    """Return the thread, which the first call starts."""
    return Hand()
