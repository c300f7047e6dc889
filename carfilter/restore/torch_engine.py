"""Pictures through a network by torch: in floating point, on CUDA, or in int8 by oneDNN.

Devices, precision, batches, tiles and what happens when memory runs out live here.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor

from carfilter.errors import DeviceError
from carfilter.pictures import MACROBLOCK, Luma, Picture, cropped
from carfilter.restore.batches import MEASURED_AT_BATCH, batches, default_batch, fastest_batch
from carfilter.restore.card_planes import CardPlanes
from carfilter.restore.compiled import Compiling, fused
from carfilter.restore.devices import PRECISIONS, choose_device, choose_precision
from carfilter.restore.engine import RestoreOptions
from carfilter.restore.failures import in_a_line, is_device_failure, is_out_of_memory
from carfilter.restore.hand import hand
from carfilter.restore.int8.convolutions import Int8Fast, torch_is_exact
from carfilter.restore.network import Car
from carfilter.restore.planes import CpuPlanes, Plane, Planes
from carfilter.restore.reuse import Box
from carfilter.restore.ring import Ring
from carfilter.restore.samples import add, expand_qp, scaled
from carfilter.restore.slots import Inputs, Slot
from carfilter.restore.threads import Team, torch_threads
from carfilter.restore.weights import Model

_CPU_LIVE_BYTES = 1 << 30  # above it a frame is cut into tiles, before the system swaps
_MOST_SIDE_BY_SIDE = 4  # pictures; more cores than that work on each together
_SMALLEST_TILE = 64
_RING_SPARE = 8  # planes that stay on a card beyond those of a batch
_SMALL_WORK = 10**8  # multiply-accumulates of a picture, about a millisecond of one core


class LumaNetwork(Protocol):
    """What the Restorer asks of a network; see carfilter.restore.network."""

    uses_qp: bool
    halo: int
    live_bytes: int

    def __call__(self, luma: Tensor, qp: Tensor | None, *others: Tensor | None) -> Tensor: ...


class TorchEngine:
    """A network by torch; see carfilter.restore.engine.Engine."""

    def __init__(self, model: Model, options: RestoreOptions, size: tuple[int, int]) -> None:
        """Choose device, precision, batch and tile.

        Raises:
            DeviceError: the device or the precision is not to be had here.
        """
        network: Any = model.network
        self.device = choose_device(options.device)
        self._twin = _int8_twin(model, self.device, options.precision)
        has_int8, is_large = self._twin is not None, isinstance(network, Car)
        self.precision = choose_precision(
            self.device, options.precision, has_int8=has_int8, is_large=is_large
        )
        self.strength = options.strength
        # A network that says nothing of references takes none.
        self.references = int(getattr(network, "references", 0))
        self.batch_size = options.batch_size or default_batch(self.device.type, size)
        self._dtype = PRECISIONS.get(self.precision, torch.float32)
        on_cuda = self.device.type == "cuda"
        # A copy before it is moved or halved: the caller may use his network again.
        mine = deepcopy(network) if on_cuda or self._dtype != torch.float32 else network
        moved = self._moved(mine)
        self._network: LumaNetwork = moved
        weights = sum(parameter.numel() for parameter in network.parameters())
        small = weights * size[0] * size[1] < _SMALL_WORK
        self._threads = 1 if small else torch.get_num_threads()
        self._team = self._choose_team(size)
        if self._team is not None and not options.batch_size:
            self.batch_size = max(self.batch_size, self._team.members)
        self.tile = options.tile or self._default_tile(size)
        self.busy_seconds = 0.0
        self._ring: Ring | None = None
        self._run: Callable[..., Tensor] = self._network
        if on_cuda and options.compile_after != math.inf:
            ours = hand().do(lambda: fused(moved)) if is_large else None
            compiling = Compiling(moved, lambda: self.busy_seconds, options.compile_after)
            self._run = ours or compiling
        self._batches_to_measure = 0 if options.batch_size or not on_cuda else MEASURED_AT_BATCH
        self.halo = self._network.halo
        self.rounds_alike = self._twin is None
        self.on_cpu = not on_cuda
        if on_cuda:
            # It tries each new shape for a while, which is no more welcome there than compiling.
            torch.backends.cudnn.benchmark = options.compile_after != math.inf

    def _moved(self, network: Any) -> Any:
        """Bring a network to where and in what it computes."""
        try:
            moved = network.to(self.device, self._dtype).eval()
            moved = moved.to(memory_format=torch.channels_last)
            if self.device.type == "cuda":
                # Moved on the default stream, for which that of the batches does not wait.
                torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._full("the network") from error
            raise
        return moved

    def _full(self, for_what: str) -> DeviceError:
        return DeviceError(
            f"out of memory on {self.device} even for {for_what}; free memory there, or use"
            " --device cpu"
        )

    def planes(self) -> Planes:
        """Return what works on restored planes."""
        return CpuPlanes() if self.on_cpu else CardPlanes(self.device)

    def describe(self, depth: int = 8) -> str:
        """Say in a few words on what and how the network runs, for samples of so many bits."""
        precision = "fp32" if self._twin is not None and depth > 8 else self.precision
        if self.device.type == "cuda":
            where = f"{torch.cuda.get_device_name(self.device)}"
        else:
            where = f"CPU ({torch.get_num_threads()} threads)"
        tiles = f", tiles of {self.tile}" if self.tile else ""
        return f"{where}, {precision}, batch {self.batch_size}{tiles}"

    @property
    def ahead(self) -> int:
        """Pictures whose boxes are begun before those of one are waited for."""
        return self._team.members if self._team is not None and self.batch_size > 1 else 0

    @property
    def is_compiling(self) -> bool:
        """Whether the network is being compiled."""
        return isinstance(self._run, Compiling) and self._run.is_compiling

    def working(self) -> AbstractContextManager[object]:
        """Return what holds the team while pictures are restored."""
        return self._team or contextlib.nullcontext()

    def start_box(self, picture: Picture, box: Box) -> Callable[[], Luma]:
        """Begin to restore a part of a picture on a CPU; return what waits for it."""
        part = cropped(picture, box.area)
        slot = Slot(self.device, [part], 1, self.references)
        self._submit(slot, [part], self._team if self.batch_size > 1 else None)
        return lambda: next(self._collect(slot))

    def restore(self, pictures: Iterable[Picture]) -> Iterator[Plane]:
        """Yield the restored luma of each picture, same dtype and shape, in order.

        On a card it stays there as a tensor, where pictures help each other.

        Raises:
            DeviceError: not even one small tile fits into memory, or the device has failed.
        """
        try:
            yield from self._restore(pictures)
        except RuntimeError as error:
            if self.on_cpu or not is_device_failure(error):
                raise
            raise DeviceError(
                f"{self.device} has failed ({in_a_line(error)}); look at it with nvidia-smi and in"
                " the system's log, or use --device cpu"
            ) from error

    def _restore(self, pictures: Iterable[Picture]) -> Iterator[Plane]:
        slots: deque[Slot] = deque()
        free: list[Slot] = []
        try:
            for batch in batches(pictures, lambda: self.batch_size):
                left = batch
                while left:
                    slot = self._slot_for(left, free)
                    part, left = left[: slot.size], left[slot.size :]
                    team = self._team if len(part) > 1 else None
                    self._submit(slot, part, team)
                    slots.append(slot)
                    ahead = 1 if team is not None or self.device.type == "cuda" else 0
                    while len(slots) > ahead:
                        free.append(slots.popleft())
                        yield from self._collect(free[-1])
            while slots:
                yield from self._collect(slots.popleft())
        finally:
            # Left early: what is still on its way must not lose its buffers.
            for slot in slots:
                with contextlib.suppress(RuntimeError, MemoryError):
                    slot.wait()
            self._ring = None  # what was asked for may not have been brought there

    def _slot_for(self, batch: list[Picture], free: list[Slot]) -> Slot:
        """Take a free slot that fits, or make one, for a part of the batch if memory is short."""
        for slot in free:
            if slot.fits(batch):
                free.remove(slot)
                return slot
        free.clear()
        while True:
            try:
                ring = self._ring_for(batch)
                return Slot(self.device, batch, self.batch_size, self.references, ring)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if self.batch_size == 1:
                height, width = batch[0].luma.shape
                raise self._full(f"one frame of {width}x{height}")
            self._release_memory()
            self.batch_size //= 2

    def _ring_for(self, batch: list[Picture]) -> Ring | None:
        """Return what holds the pictures of some batches on a card, where they help each other."""
        if self.on_cpu or not self.references:
            return None
        luma = batch[0].luma
        kind = torch.uint8 if luma.itemsize == 1 else torch.int16
        count = self.batch_size * (1 + self.references) + _RING_SPARE
        if self._ring is None or not self._ring.fits(count, luma.shape, kind):
            self._ring = None  # before another one takes memory
            self._ring = Ring(self.device, count, luma.shape, kind)
        return self._ring

    def _submit(self, slot: Slot, batch: list[Picture], team: Team | None) -> None:
        """Start a batch; on CUDA and with a team this returns while it is still worked on."""
        started = time.perf_counter()
        slot.fill(batch, with_qp=self._network.uses_qp)
        if self.device.type == "cuda":
            hand().do(lambda: self._launch(slot))
        elif team is not None:
            slot.store_later(self._start(team, slot.inputs(), slot.bits))
        else:
            self._restore_in_turn(slot)
        self.busy_seconds += time.perf_counter() - started

    def _launch(self, slot: Slot) -> None:
        """Start a batch on CUDA."""
        try:
            slot.upload()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise self._full("a reference that is moved") from error
            raise
        with torch.cuda.stream(slot.compute_stream):
            slot.compute_stream.wait_event(slot.uploaded)
            slot.store(self._restore_batch(slot.inputs(), slot.bits))
            slot.computed.record(slot.compute_stream)
        slot.download()

    def _start(self, team: Team, inputs: Inputs, depth: int) -> list[Future[Tensor]]:
        """Share a batch among the team."""
        parts = inputs.parts(-(-len(inputs) // team.members))
        return team.start(lambda part: self._restore_tiled(part, depth, team.threads), parts)

    def _collect(self, slot: Slot) -> Iterator[Plane]:
        started = time.perf_counter()
        try:
            slot.wait()
        except (MemoryError, RuntimeError) as error:
            if self.device.type == "cuda" or not is_out_of_memory(error):
                raise
            self._team = None  # as many at once are too many for this memory
            self._restore_in_turn(slot)
        self.busy_seconds += time.perf_counter() - started
        yield from slot.results()

    def _restore_in_turn(self, slot: Slot) -> None:
        """Restore a batch on a CPU in this thread."""
        with torch_threads(1):
            slot.store(self._restore_batch(slot.inputs(), slot.bits))

    @torch.inference_mode()
    def _restore_batch(self, inputs: Inputs, depth: int) -> Tensor:
        """uint8 or int16 [N, H, W] in and out; smaller batches, then tiles, if memory runs out."""
        while True:
            try:
                self._measure_batch(inputs, depth)
                parts = [
                    self._restore_tiled(part, depth, self._threads)
                    for part in inputs.parts(self.batch_size)
                ]
                return torch.cat(parts) if len(parts) > 1 else parts[0]
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here, since the error's traceback holds the tensors that did not all fit.
            height, width = inputs.luma.shape[1:]
            self._shrink(height, width)

    def _measure_batch(self, inputs: Inputs, depth: int) -> None:
        """Find the fastest batch size, once, where nobody gave one; no larger than it is."""
        if not self._batches_to_measure or len(inputs) < self.batch_size:
            return
        self._batches_to_measure -= 1
        if self._batches_to_measure or self.batch_size == 1:
            return

        def restore(size: int) -> None:
            for part in inputs.parts(size):
                self._restore_tiled(part, depth, self._threads)
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()

        self.batch_size = fastest_batch(restore, self.batch_size)

    def _shrink(self, height: int, width: int) -> None:
        self._release_memory()
        if self.batch_size > 1:
            self.batch_size //= 2
            return
        tile = _round_to_macroblock((self.tile or max(height, width)) // 2)
        if tile < _SMALLEST_TILE:
            raise self._full(f"one tile of {self.tile or 'one frame'} of {width}x{height}")
        self.tile = tile

    def _release_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _restore_tiled(self, inputs: Inputs, depth: int, threads: int) -> Tensor:
        height, width = inputs.luma.shape[1:]
        tile = self.tile
        if not tile or (tile >= height and tile >= width):
            return self._forward(inputs, depth, threads)
        # Tiles start on the macroblock grid, so that space-to-depth meets the same phase.
        halo = _round_to_macroblock(self._network.halo + MACROBLOCK - 1)
        out = torch.empty_like(inputs.luma)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                y, x = max(top - halo, 0), max(left - halo, 0)
                bottom, right = min(top + tile + halo, height), min(left + tile + halo, width)
                restored = self._forward(inputs.crop((y, x, bottom, right)), depth, threads)
                inner = restored[:, top - y : top - y + tile, left - x : left - x + tile]
                out[:, top : top + tile, left : left + tile] = inner
        return out

    def _forward(self, inputs: Inputs, depth: int, threads: int) -> Tensor:
        centre = float(1 << (depth - 1))
        luma = inputs.luma
        if self._twin is not None and luma.dtype == torch.uint8:
            with torch_threads(threads):
                return self._twin.restored(inputs, centre * self.strength)
        x = scaled(luma[:, None], centre).to(self._dtype)
        plane = self._qp_plane(inputs.qp, luma)
        others: tuple[Tensor | None, ...] = ()
        if inputs.references is not None:
            references = scaled(inputs.references, centre).to(self._dtype)
            others = (references, self._qp_plane(inputs.reference_qp, luma))
        with torch_threads(threads):
            correction = self._run(x, plane, *others)
        return add(luma, correction[:, 0], centre * self.strength, 2 * centre - 1)

    def _qp_plane(self, qp: Tensor | None, luma: Tensor) -> Tensor | None:
        return None if qp is None else expand_qp(qp, *luma.shape[1:]).to(self._dtype)

    def _choose_team(self, size: tuple[int, int]) -> Team | None:
        """Restore pictures side by side in int8, as many as cores and memory allow."""
        if self._twin is None:
            return None
        fitting = _CPU_LIVE_BYTES // (self._network.live_bytes * size[0] * size[1])
        members = min(self._threads, _MOST_SIDE_BY_SIDE, fitting)
        return Team(members, self._threads) if members > 1 else None

    def _default_tile(self, size: tuple[int, int]) -> int:
        live = self._network.live_bytes * size[0] * size[1] * self.batch_size
        if self.device.type == "cuda" or live <= _CPU_LIVE_BYTES:
            return 0
        share = _CPU_LIVE_BYTES / (self._network.live_bytes * self.batch_size)
        return max(_round_to_macroblock(int(share**0.5)), _SMALLEST_TILE)


def _int8_twin(model: Model, device: torch.device, precision: str) -> Int8Fast | None:
    """Return the int8 network where it is wanted, and faster than fp32."""
    if precision not in ("auto", "int8") or device.type != "cpu" or model.int8 is None:
        return None
    return Int8Fast(model.int8) if torch_is_exact() else None


def _round_to_macroblock(value: int) -> int:
    return value // MACROBLOCK * MACROBLOCK
