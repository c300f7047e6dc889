"""The Restorer: luma in presentation order in, restored luma in the same order out.

Which pictures help which, what is computed once, what is averaged; an engine computes. Video does
not live here: this module knows arrays only and runs without PyAV, and without torch.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from carfilter.pictures import Luma, Picture, split_fields, with_qp
from carfilter.prefetch import Prefetch
from carfilter.restore.door import open_engine
from carfilter.restore.engine import RestoreOptions
from carfilter.restore.follow import followed
from carfilter.restore.planes import CpuPlanes, Plane, Planes
from carfilter.restore.references import with_references
from carfilter.restore.reuse import Reuse, settle
from carfilter.restore.steady import Noted, keep_unchanged, noting, steadied
from carfilter.restore.weights import SUITS, Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RestoreOptions", "Restorer"]

_PATIENCE = 16  # pictures; so few that the frames behind them do not fill the memory
_AHEAD, _AHEAD_BYTES = 8, 8 << 20  # restored pictures that wait to be averaged


class Restorer:
    """Restore a stream of pictures.

    Attributes:
        suits: what the network is for, where the model holds several.

    Results come at most `lookahead` pictures late, half as many and one more where they are
    averaged over time, plus batching.

    Args:
        network: a loaded model; or a network that maps luma in [-1, 1] to the correction that is
            added, see carfilter.restore.network.
        size: height and width that the default batch and tile are chosen for.
        int8_ranges: of such a network's activations; None keeps to fp32 on a CPU.
        codec: FFmpeg's name of what the pictures were coded with; "" where that is not known. A
            model may hold a network that suits it better, as one for past frames alone.

    Raises:
        DeviceError: the device or the precision is not to be had here.
    """

    def __init__(
        self,
        network: "Model | nn.Module",
        options: RestoreOptions | None = None,
        size: tuple[int, int] = (1080, 1920),
        int8_ranges: list[float] | None = None,
        codec: str = "",
    ) -> None:
        options = options or RestoreOptions()
        if isinstance(network, Model):
            model = network.suited(codec, past=not options.lookahead)
        else:
            model = Model(network, "", "", int8_ranges=int8_ranges)
        self.engine = engine = open_engine(model, options, size)
        self.suits = SUITS.get(model.suits, "")
        self.strength = options.strength
        self.references = model.references
        self.lookahead = options.lookahead if self.references else 0
        self.assumed_qp = options.qp if model.uses_qp else None
        self._reuse = Reuse(
            engine.restore,
            engine.start_box if engine.on_cpu else None,
            engine.halo,
            spreads=not self.references,  # theirs is kept by keep_unchanged()
            doubtful=not engine.rounds_alike,
            ahead=engine.ahead,
            # With --live, whose batches are of one, nothing waits.
            patience=0 if options.batch_size == 1 else _PATIENCE,
        )
        self._reuses = options.reuse

    @property
    def precision(self) -> str:
        """In what the network computes."""
        return self.engine.precision

    @property
    def batch_size(self) -> int:
        """Pictures that are worked on at a time."""
        return self.engine.batch_size

    @property
    def tile(self) -> int:
        """Side of the pieces that a picture is cut into, or 0."""
        return self.engine.tile

    @property
    def on_cpu(self) -> bool:
        """Whether the network runs on the CPU."""
        return self.engine.on_cpu

    @property
    def is_compiling(self) -> bool:
        """Whether the network is being compiled, for a minute perhaps, which nothing ends."""
        return self.engine.is_compiling

    @property
    def busy_seconds(self) -> float:
        """How long the network was waited for so far."""
        return self.engine.busy_seconds

    def describe(self, depth: int = 8) -> str:
        """Say in a few words on what and how the network runs, for samples of so many bits."""
        return self.engine.describe(depth)

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        """Yield the restored luma of each picture, same dtype and shape, in order.

        Interlaced pictures are restored field by field: their lines belong to two moments.

        Raises:
            DeviceError: not even one small tile fits into memory, or the device has failed.
        """
        if self.assumed_qp is not None:
            pictures = with_qp(pictures, self.assumed_qp)
        with self.engine.working():
            yield from self._restore_scenes(pictures)

    def _restore_scenes(self, pictures: Iterable[Picture]) -> Iterator[Luma]:
        """Restore pictures, with what a multi-frame network needs of others before and after it."""
        if not self.references:
            yield from self._restore_frames(pictures, CpuPlanes())
            return
        noted: deque[Noted] = deque()
        planes, moves = self.engine.planes(), self.engine.on_cpu
        helped = with_references(settle(pictures), self.lookahead, moves=moves)
        kept = keep_unchanged(self._restore_frames(noting(helped, noted), planes), noted, planes)
        if not self.lookahead:
            moving = followed(kept, 0, self.strength, planes)
            yield from steadied(moving, 0, self.strength, planes)
            return
        # Averages come out many at a time; the network goes on meanwhile.
        ahead = Prefetch(kept, _AHEAD, _AHEAD_BYTES, lambda one: one.luma.nbytes)
        try:
            moving = followed(ahead, self.lookahead, self.strength, planes)
            yield from steadied(moving, self.lookahead // 2, self.strength, planes)
        finally:
            ahead.close()

    def _restore_frames(self, pictures: Iterable[Picture], planes: Planes) -> Iterator[Plane]:
        """Restore pictures, the interlaced ones as two fields."""
        field_counts: deque[int] = deque()
        fields = split_fields(pictures, field_counts)
        if not self.references:  # else they were settled before others became their references
            fields = settle(fields)
        restored = self._reuse.restore(fields) if self._reuses else self.engine.restore(fields)
        for plane in restored:
            if field_counts.popleft() == 1:
                yield plane
            else:
                yield planes.weave(plane, next(restored))

    @property
    def saved(self) -> float:
        """Share of the network's work so far that reuse saved, 0..1."""
        return self._reuse.saved
