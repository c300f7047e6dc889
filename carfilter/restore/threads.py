"""How torch's threads share the work on a CPU: all on one picture, or pictures side by side."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads: all for the network, one for the small work around it.

    Beside a busy encoder a second thread is waited for longer than it saves: 7 against 3 ms a frame
    at 640x360 beside libx264 on two cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Team:
    """Members that work side by side while it is entered, each with its share of torch's threads.

    Threads on one picture wait for each other at each layer, and all of them for the one beside
    which an encoder runs. Members wait once per batch.
    """

    def __init__(self, members: int, threads: int) -> None:
        self.members = members
        self.threads = threads // members  # of each
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Team":
        self._pool = ThreadPoolExecutor(self.members, "carfilter-network")
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def start(self, work: Callable[[Part], Result], parts: list[Part]) -> list[Future[Result]]:
        """Begin work(part) of each part, after what was begun before."""
        assert self._pool is not None, "a team works while it is entered"
        return [self._pool.submit(self._share, work, part) for part in parts]

    @torch.inference_mode()  # each thread has a mode of its own
    def _share(self, work: Callable[[Part], Result], part: Part) -> Result:
        with torch_threads(self.threads):
            return work(part)
