"""Pictures through rows.c: side by side, a core each, or one of them by all cores."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

from carfilter.errors import DeviceError
from carfilter.pictures import Luma, Picture, cropped
from carfilter.process import thread_count
from carfilter.restore.batches import default_batch
from carfilter.restore.engine import Engine, RestoreOptions
from carfilter.restore.int8.rows import Restoring, Rows
from carfilter.restore.planes import CpuPlanes, Planes
from carfilter.restore.reuse import Box

_MOST_SIDE_BY_SIDE = 4  # pictures; more cores than that work on each together
# Pictures that are begun, and pixels of them, where no batch is asked for: while motion to a new
# key frame is searched, for each picture up to it, they keep the threads busy.
_MOST_AHEAD, _AHEAD_PIXELS = 8, 8 * 912 * 512
_Pool = futures.ThreadPoolExecutor


@dataclass(frozen=True)
class _Begun:
    """A picture that threads are working on."""

    restoring: Restoring
    parts: list["futures.Future[None]"]


class RowsEngine:
    """`fast` or `best` in int8 on a CPU; see carfilter.restore.engine.Engine.

    Needs no tiles: between the layers lie a few rows at a time.

    Args:
        by_torch: opens what computes pictures of more than 8 bits.
    """

    precision, tile, rounds_alike, on_cpu, is_compiling = "int8", 0, True, True, False

    def __init__(
        self,
        rows: Rows,
        by_torch: Callable[[], Engine],
        options: RestoreOptions,
        size: tuple[int, int],
    ) -> None:
        self._rows, self._open_deep = rows, by_torch
        self._deep: Engine | None = None
        self._strength = options.strength
        self.threads = thread_count()
        side_by_side = min(self.threads, _MOST_SIDE_BY_SIDE)
        self.batch_size = options.batch_size or max(default_batch("cpu", size), side_by_side)
        fitting = min(_MOST_AHEAD, _AHEAD_PIXELS // (size[0] * size[1]))
        self._most_ahead = options.batch_size or max(self.batch_size, fitting)
        self.halo = rows.halo
        self.busy_seconds = 0.0
        self._pool: _Pool | None = None

    @property
    def ahead(self) -> int:
        """Pictures that are begun before the first of them is waited for."""
        return self._most_ahead if self.threads > 1 and self.batch_size > 1 else 0

    def planes(self) -> Planes:
        """Return what works on restored planes."""
        return CpuPlanes()

    def describe(self, depth: int = 8) -> str:
        """Say in a few words on what and how the network runs, for samples of so many bits."""
        if depth > 8:
            return self._deeper().describe(depth)
        return f"CPU ({self.threads} threads), {self._rows.label}, batch {self.batch_size}"

    def working(self) -> AbstractContextManager[object]:
        """Return the engine with its threads, which end with the context."""
        return nullcontext() if self.threads == 1 else self

    def __enter__(self) -> "RowsEngine":
        self._pool = _Pool(self.threads, "carfilter-network")
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        """Yield the restored luma of each picture, in order; deeper ones go through torch."""
        for itemsize, alike in groupby(pictures, lambda one: one.luma.itemsize):
            restore = self._restore if itemsize == 1 else self._deeper().restore
            yield from restore(alike)

    def start_box(self, picture: Picture, box: Box) -> Callable[[], Luma]:
        """Begin to restore a part of a picture; return what waits for it."""
        if picture.luma.itemsize > 1:
            return self._deeper().start_box(picture, box)
        begun = self._begin(cropped(picture, box.area))
        return lambda: self._finish(begun)

    def _deeper(self) -> Engine:
        if self._deep is None:
            self._deep = self._open_deep()
        return self._deep

    def _restore(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        begun: deque[_Begun] = deque()
        for picture in pictures:
            begun.append(self._begin(picture))
            while len(begun) > self.ahead:
                yield self._finish(begun.popleft())
        while begun:
            yield self._finish(begun.popleft())

    def _begin(self, picture: Picture) -> _Begun:
        restoring = self._rows.begin(picture, 128.0 * self._strength)
        if self._pool is None:
            return _Begun(restoring, [])
        side_by_side = min(self.threads, _MOST_SIDE_BY_SIDE) if self.ahead else 1
        bands = restoring.bands(self.threads // side_by_side)
        return _Begun(restoring, [self._pool.submit(restoring.rows, *band) for band in bands])

    def _finish(self, begun: _Begun) -> Luma:
        started, restoring = time.perf_counter(), begun.restoring
        futures.wait(begun.parts)  # all of them: a part that still runs reads these planes
        try:
            for part in begun.parts:
                part.result()
            if not begun.parts:
                restoring.rows(0, restoring.height)
        except MemoryError:
            self._finish_in_turn(restoring)
        self.busy_seconds += time.perf_counter() - started
        return restoring.luma

    def _finish_in_turn(self, restoring: Restoring) -> None:
        """Try again in this thread: as many at once are too many for this memory."""
        self.batch_size = 1
        try:
            restoring.rows(0, restoring.height)
        except MemoryError as error:
            height, width = restoring.luma.shape
            raise DeviceError(
                f"out of memory even for the rows of one picture of {width}x{height}; free some"
            ) from error
