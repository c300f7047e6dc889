"""Run one stage of the pipeline in a thread of its own, with a bounded queue behind it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1  # how soon a waiting thread notices that the other side has gone
_STOP_SECONDS = 1.0  # that a stopped run waits for a source which sends nothing
_JOIN_SECONDS = 10.0  # a thread may sit in a read that nothing ends, such as an idle pipe


class Prefetch(Generic[T]):
    """Iterate over `items` while a thread computes the next ones.

    An exception of the thread is raised in the consumer, after the items before it. Always end it
    with close(): a thread left behind in a codec can crash the interpreter at its end.

    Args:
        count, size: how many items, and how much of size_of(item), may wait in the queue.
        upstream: the stage that `items` reads from; waiting for it does not count as busy.
        stop: once it is set, the items end where none comes for a moment, whatever the thread does.
        stuck: says that the thread is at something long that nothing ends. It is not waited for
            then; and for nothing else does `stop` end the items.
    """

    def __init__(
        self,
        items: Iterable[T],
        count: int,
        size: int,
        size_of: Callable[[T], int],
        upstream: "Prefetch[Any] | None" = None,
        stop: threading.Event | None = None,
        stuck: Callable[[], bool] | None = None,
    ) -> None:
        self.busy_seconds = 0.0  # spent computing items
        self.waited_seconds = 0.0  # spent by the consumer waiting for one
        self._items, self._upstream, self._stop = items, upstream, stop
        self._stuck = stuck
        self._count, self._size, self._size_of = count, size, size_of
        self._queue: deque[tuple[T, int]] = deque()  # with their sizes
        self._queued_size = 0
        self._change = threading.Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="carfilter-stage", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            with self._change:
                while not self._queue and not self._ended and not self._gives_up(started):
                    self._change.wait(_POLL_SECONDS)
                self.waited_seconds += time.perf_counter() - started
                if not self._queue:
                    break
                item, size = self._queue.popleft()
                self._queued_size -= size
                self._change.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def is_nearly_full(self) -> bool:
        """Say whether the thread is about to wait for room, or does so."""
        return len(self._queue) > self._count * 3 // 4 or self._queued_size > self._size * 3 // 4

    def close(self) -> bool:
        """Stop the thread; True if it has ended, False if it still sits in a blocking call."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._change.notify_all()
        is_stuck = self._stuck is not None and self._stuck()
        self._thread.join(_STOP_SECONDS if is_stuck else _JOIN_SECONDS)
        self._error = None  # raised by now; its traceback would keep all that the thread used
        return not self._thread.is_alive()

    def _gives_up(self, waiting_since: float) -> bool:
        if self._stop is None or not self._stop.is_set():
            return False
        is_over = self._stuck is None or self._stuck()
        return is_over and time.perf_counter() - waiting_since > _STOP_SECONDS

    def _run(self) -> None:
        iterator = iter(self._items)
        try:
            while not self._closed:
                started, waited = time.perf_counter(), self._upstream_wait()
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                busy = time.perf_counter() - started - (self._upstream_wait() - waited)
                self.busy_seconds += busy
                self._put(item)
                del item  # a frame must not stay alive while the next one is waited for
        except BaseException as error:  # noqa: BLE001 (handed to the consumer)
            self._error = error
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _put(self, item: T) -> None:
        size = self._size_of(item)
        with self._change:
            while (
                not self._closed
                and self._queue
                and (len(self._queue) >= self._count or self._queued_size + size > self._size)
            ):
                self._change.wait(_POLL_SECONDS)
            if not self._closed:
                self._queue.append((item, size))
                self._queued_size += size
                self._change.notify_all()

    def _upstream_wait(self) -> float:
        return 0.0 if self._upstream is None else self._upstream.waited_seconds
