"""What the Restorer asks of an engine, and what its user may ask of both."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from carfilter.errors import ImpossibleValueError
from carfilter.pictures import ASSUMED_QP, Luma, Picture
from carfilter.restore.planes import Plane, Planes
from carfilter.restore.reuse import Box

_MOST_QP = 51  # of H.264
COMPILE_AFTER_SECONDS = 60.0
"""See carfilter.restore.compiled."""


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore; 0 and "auto" leave the choice to the engine."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 0
    tile: int = 0
    strength: float = 1.0
    qp: int | None = ASSUMED_QP  # where a picture has none; None lets the network know that
    lookahead: int = 64  # pictures that a multi-frame network may wait for
    reuse: bool = True  # keep the result of what did not change, see carfilter.restore.reuse
    compile_after: float = COMPILE_AFTER_SECONDS  # of waiting for a network on CUDA; inf for never

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ImpossibleValueError: a strength beyond 0..1, a QP beyond 0..51, or less than none of
                something.
        """
        if not 0 <= self.strength <= 1:
            raise ImpossibleValueError(f"strength has to lie in 0..1, not {self.strength}")
        if self.qp is not None and not 0 <= self.qp <= _MOST_QP:
            raise ImpossibleValueError(f"qp has to lie in 0..{_MOST_QP}, not {self.qp}")
        if min(self.batch_size, self.tile, self.lookahead) < 0:
            raise ImpossibleValueError("batch_size, tile and lookahead cannot be less than 0")


class Engine(Protocol):
    """A network on a device, with buffers and threads of its own while it is entered.

    Attributes:
        precision: a name of devices.PRECISIONS, or "int8".
        batch_size: pictures that are worked on at a time.
        tile: side of the pieces that a picture is cut into, or 0.
        halo: pixels to each side that a restored pixel depends on.
        rounds_alike: a part of a picture gives the very bits that it has in the whole one.
        ahead: pictures that are begun before the first of them is waited for.
        on_cpu: a result is at hand when the next picture is looked at, as on a GPU it is not.
        is_compiling: the network is being compiled, for a minute perhaps.
        busy_seconds: that somebody waited for the network so far.
    """

    precision: str
    batch_size: int
    tile: int
    halo: int
    rounds_alike: bool
    on_cpu: bool
    busy_seconds: float

    @property
    def ahead(self) -> int: ...

    @property
    def is_compiling(self) -> bool: ...

    def describe(self, depth: int = 8) -> str:
        """Say in a few words on what and how the network runs, for samples of so many bits."""

    def working(self) -> AbstractContextManager[object]:
        """Return what holds its threads while pictures are restored."""

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Plane]:
        """Yield the restored luma of each picture, same dtype and shape, in order.

        It is what planes() works on where pictures help each other, and else Luma.
        """

    def planes(self) -> Planes:
        """Return what works on restored planes where they are."""

    def start_box(self, picture: Picture, box: Box) -> Callable[[], Luma]:
        """Begin to restore a part of a picture; return what waits for it."""
