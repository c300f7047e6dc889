"""How torch's threads share the work on a CPU: all on one picture, or pictures side by side."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
        self._pool.shutdown()
        self._pool = None

    def map(self, work: Callable[[Part], Result], parts: list[Part]) -> list[Result]:
        """Return work(part) of each part; an exception of the first that fails is raised."""
        assert self._pool is not None, "a team works while it is entered"

        @torch.inference_mode()  # each thread has a mode of its own
        def share(part: Part) -> Result:
            with torch_threads(self.threads):
                return work(part)

        return list(self._pool.map(share, parts))
