"""The same jobs as tasks of a Ray cluster; paths must mean the same on every node.

Only paths and settings travel. The driver alone writes the database and gives results their names.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass
from typing import Any

from carfilter.archive.pool import Message
from carfilter.archive.worker import Job, Outcome, Setup, perform
from carfilter.errors import CarfilterError

_REPORT_SECONDS = 1.0  # between two messages of a task to the board, at least
_REPORTS_PER_SECOND = 500  # that the board takes from all tasks together without falling behind
_RESOURCES_SECONDS = 5.0  # between two looks at the size of the cluster
_AHEAD = 1.25  # tasks submitted per place, so that a node never waits for the driver
_START_SECONDS = 600.0  # a task may wait for a place; a node may come back


class Board:
    """An actor beside the driver: where each task runs and how far it is."""

    def __init__(self) -> None:
        self._notes: dict[int, tuple[str, int, float]] = {}

    def note(self, ticket: int, node: str, frames: int, video_seconds: float) -> None:
        """Take a task's note."""
        self._notes[ticket] = (node, frames, video_seconds)

    def read(self) -> dict[int, tuple[str, int, float]]:
        """Return the notes since the last look."""
        notes, self._notes = self._notes, {}
        return notes


def ray_perform(job: Job, setup: Setup, board: Any, ticket: int, period: float) -> Outcome:
    """Be a task: the same work as in a local worker, progress to the board each `period` s."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    next_at = 0.0

    def report(frames: int, video_seconds: float) -> None:
        nonlocal next_at
        now = time.monotonic()
        if now >= next_at:
            next_at = now + period
            board.note.remote(ticket, node, frames, video_seconds)

    report(0, 0.0)
    return perform(job, setup, report)


@dataclass
class _Task:
    ticket: int
    job: Job
    node: str = ""  # empty until it runs
    heard_at: float = 0.0
    stalled: bool = False


class RayPool:
    """Tasks on a cluster, each with its cores, or with a GPU and its share of them.

    Args:
        address: of the cluster; "" takes the one that runs here, or starts one for this run.
        threads: cores of a task.
        use_gpus: give each task a GPU, if the cluster has any.

    Raises:
        CarfilterError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self, address: str, threads: int, *, use_gpus: bool, recycle: int, stall_seconds: float
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise CarfilterError("--ray needs Ray; pip install carfilter[ray]") from error
        self._ray: Any = ray
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise CarfilterError(
                f"--ray {address}: no cluster answers there ({error}); start one with ray start"
            ) from error
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own there, which just exits
        self._use_gpus = use_gpus and self._total("GPU") >= 1
        self._threads, self._stall_seconds = threads, stall_seconds
        self._setup = Setup(threads)
        # The board stays with the driver: it must not be lost with a node.
        self._board: Any = ray.remote(num_cpus=0)(Board).options(**self._here()).remote()
        # A GPU task's process would end with each task by default, and the model with it.
        self._remote = ray.remote(
            num_cpus=threads, num_gpus=int(self._use_gpus), max_retries=0, max_calls=recycle
        )(ray_perform)
        self._tasks: dict[Any, _Task] = {}
        self._next_ticket = 0
        self._places = self._count_places()
        self._counted_at = time.monotonic()

    def places(self) -> int:
        return self._places

    def free(self) -> int:
        if time.monotonic() - self._counted_at > _RESOURCES_SECONDS:
            self._places, self._counted_at = self._count_places(), time.monotonic()
        return max(int(self._places * _AHEAD + 0.5) - len(self._tasks), 0)

    def busy(self) -> int:
        return len(self._tasks)

    def submit(self, job: Job) -> int:
        self._next_ticket += 1
        ticket = self._next_ticket
        period = max(_REPORT_SECONDS, self._places / _REPORTS_PER_SECOND)
        ref = self._remote.remote(job, self._setup, self._board, ticket, period)
        self._tasks[ref] = _Task(ticket, job, heard_at=time.monotonic())
        return ticket

    def wait(self, seconds: float) -> list[Message]:
        refs = list(self._tasks)
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=seconds)
        news = [self._result(ref) for ref in ready]
        return news + self._progress()

    def close(self) -> None:
        for ref in self._tasks:
            self._ray.cancel(ref, force=True)
        self._tasks.clear()
        self._ray.shutdown()

    def _result(self, ref: Any) -> Message:
        task = self._tasks.pop(ref)
        try:
            return Message(task.ticket, task.job, outcome=self._ray.get(ref))
        except self._ray.exceptions.RayError as error:
            if task.stalled:
                reason = f"no progress for {self._stall_seconds:g} s; its task was cancelled"
                return Message(task.ticket, task.job, lost=reason)
            if self._node_is_lost(task, error):
                return Message(task.ticket, task.job, lost="its node was lost", blamed=False)
            reason = str(error).strip().splitlines()[-1] or type(error).__name__
            return Message(task.ticket, task.job, lost=f"its task died: {reason}")

    def _node_is_lost(self, task: _Task, error: Exception) -> bool:
        if isinstance(error, self._ray.exceptions.NodeDiedError):
            return True
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        return not task.node or task.node not in alive

    def _progress(self) -> list[Message]:
        notes = self._ray.get(self._board.read.remote())
        now, news = time.monotonic(), []
        for ref, task in self._tasks.items():
            if task.ticket in notes:
                task.node, frames, video_seconds = notes[task.ticket]
                task.heard_at = now
                news.append(Message(task.ticket, task.job, frames, video_seconds))
            limit = self._stall_seconds if task.node else max(self._stall_seconds, _START_SECONDS)
            if now - task.heard_at > limit and not task.stalled:
                task.stalled = bool(task.node)
                self._ray.cancel(ref, force=True)
        return news

    def _total(self, name: str) -> float:
        return float(self._ray.cluster_resources().get(name, 0.0))

    def _count_places(self) -> int:
        """How many tasks run at once; at least one, since nodes may come later."""
        places = int(self._total("CPU") // self._threads)
        if self._use_gpus:
            places = min(places, int(self._total("GPU")))
        return max(places, 1)

    def _here(self) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}
