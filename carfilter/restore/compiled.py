"""A network on CUDA that is compiled, or run by kernels of ours, where that pays.

Compiled by torch's inductor, bias, activation and skip are one pass over memory after each
convolution instead of one each. Without CUDA graphs: those of torch.compile fail outside the main
thread (https://github.com/pytorch/pytorch/issues/123177), and here the network has one of its own.
"""

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carfilter.restore.engine import COMPILE_AFTER_SECONDS
from carfilter.restore.failures import in_a_line, is_out_of_memory
from carfilter.restore.network import Car

logger = logging.getLogger("carfilter")

# Compiling stops the network, for half a minute perhaps or for some seconds where the cache on disk
# has it, and is expected to save a third of the time from then on (no card has measured either
# yet). How long a stream will be nobody knows, so it begins once the network was waited for that
# long: a clip that ends then has lost one compilation, a shorter one nothing, and a longer one less
# and less. Time spent on decoding or encoding does not count: where they are the slower part, a
# faster network would gain nothing. See COMPILE_AFTER_SECONDS.

# torch compiles a network for no more shapes than that in a process (recompile_limit).
_MOST_SHAPES = 8
_GREY_LEVEL = 1 / 128  # of 8 bits, in a correction
_MOST_SAMPLES, _COMPARED = 0.999, 1 << 20
_SMALL = (2, 1, 37, 53)  # shape of what a fused network is compared by
_LARGE = (1, 1, 512, 912)  # and timed by
_TIMES = 5


@dataclass
class Ledger:
    """What is known of shapes, for all networks of a process: an archive is many short runs."""

    waited: defaultdict[Hashable, float] = field(default_factory=lambda: defaultdict(float))
    tried: set[Hashable] = field(default_factory=set)  # to compile
    failed: set[Hashable] = field(default_factory=set)


_PROCESS = Ledger()


class Compiling:
    """A network, called as it is, that compiles itself for the shapes it is waited for.

    Each shape is compiled for itself, so that the last, short batch of a clip and the tiles at its
    edges compile nothing. The first batch goes both ways: where the results differ by more than a
    grey level, or the compiler fails, a warning says so once and the network runs as it is.

    Args:
        network: takes and returns tensors [N, C, H, W]; an argument may be None.
        busy_seconds: tells how long somebody has waited for the network so far.
        after_seconds: of waiting for a shape, it is compiled.
        backend: of torch.compile.
        ledger: None shares what is known with all others of the process.
    """

    def __init__(
        self,
        network: nn.Module,
        busy_seconds: Callable[[], float],
        after_seconds: float = COMPILE_AFTER_SECONDS,
        backend: str | Callable[..., Any] = "inductor",
        ledger: Ledger | None = None,
    ) -> None:
        self.is_compiling = False
        self._network, self._busy_seconds = network, busy_seconds
        self._after_seconds, self._backend = after_seconds, backend
        self._ledger = _PROCESS if ledger is None else ledger
        self._compiled: Any = None
        self._ready: set[Hashable] = set()
        self._full: set[Hashable] = set()  # for which memory did not suffice
        self._pixels: Counter[Hashable] = Counter()  # not waited for yet
        self._seen_seconds = busy_seconds()

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Return what the network returns, within one grey level."""
        shape = self._shape(inputs)
        self._note(shape, inputs)
        if shape in self._ready:
            result: Tensor = self._compiled(*inputs)
            return result
        result = self._network(*inputs)
        if self._pays(shape):
            self._try(shape, inputs, result)
        return result

    def _shape(self, inputs: tuple[Tensor | None, ...]) -> Hashable:
        name = type(self._network).__name__
        return name, *(
            None if x is None else (x.dtype, x.device, x.shape, x.stride()) for x in inputs
        )

    def _note(self, shape: Hashable, inputs: tuple[Tensor | None, ...]) -> None:
        """Share the time that passed since the last call among the shapes that were called."""
        now, pixels = self._busy_seconds(), sum(self._pixels.values())
        if now > self._seen_seconds:
            for called, count in self._pixels.items():
                self._ledger.waited[called] += (now - self._seen_seconds) * count / pixels
            self._pixels.clear()
            self._seen_seconds = now
        self._pixels[shape] += sum(x.numel() for x in inputs if x is not None)

    def _pays(self, shape: Hashable) -> bool:
        known = self._ledger
        if shape in known.failed | self._full or self._ledger.waited[shape] < self._after_seconds:
            return False
        return shape in known.tried or len(known.tried) < _MOST_SHAPES

    def _try(self, shape: Hashable, inputs: tuple[Tensor | None, ...], wanted: Tensor) -> None:
        known = shape in self._ledger.tried  # then it takes a moment
        self._ledger.tried.add(shape)
        self.is_compiling = True
        if not known:
            logger.info("compiling the network; it goes on in a minute, and faster")
        try:
            if self._compiled is None:
                _keep_compiled_code()
                self._compiled = torch.compile(
                    self._network, fullgraph=True, dynamic=False, backend=self._backend
                )
            difference = _usual_difference(self._compiled(*inputs), wanted)
            if not difference <= _GREY_LEVEL:
                raise ArithmeticError(f"its results differ by {difference * 128:.3g} grey levels")
            self._ready.add(shape)
        except Exception as error:  # noqa: BLE001 (compilers fail in many ways; eager always works)
            if is_out_of_memory(error):
                self._full.add(shape)  # a smaller batch comes with another shape, if one has to
                return
            if not self._ledger.failed:
                logger.warning("the network runs uncompiled, which is slower: %s", _reason(error))
            self._ledger.failed.add(shape)
        finally:
            self.is_compiling = False


def _usual_difference(made: Tensor, wanted: Tensor) -> float:
    """Return what all but a few samples differ by at most.

    Those few may differ by more in half precision where a picture is all edges, as a test card is.
    """
    apart = (made - wanted).abs().float().flatten()
    return float(apart[:: -(-len(apart) // _COMPARED)].quantile(_MOST_SAMPLES))


def _reason(error: Exception) -> str:
    return in_a_line(getattr(error, "inner_exception", error))  # of torch's BackendCompilerFailed


def _keep_compiled_code() -> None:
    """Let inductor keep its cache where it outlives a restart and belongs to the user alone.

    Its own choice is a folder in /tmp. A setting of the user's own, by environment variable, wins.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "carfilter" / "inductor"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or no home at all
        return
    if os.access(folder, os.W_OK):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def fused(network: Car) -> Callable[..., Tensor] | None:
    """Return what computes a network on a card with one kernel a layer, where that pays.

    That is in half precision, where Triton is installed, the results are the network's within a
    grey level, and come sooner. Else None.
    """
    weight = network.head.weight
    if weight.dtype == torch.float32:
        return None

    def build(network: Car) -> Callable[..., Tensor]:
        from carfilter.restore.fused import FusedCar

        return FusedCar(network)

    return tried(network, build, weight.device, torch.cuda.synchronize)


@torch.inference_mode()
def tried(
    network: Any,
    build: Callable[[Any], Callable[..., Tensor]],
    device: torch.device,
    wait: Callable[[], object],
) -> Callable[..., Tensor] | None:
    """Return what is built of a network, where it gives the same on `device`, and sooner.

    Args:
        wait: returns when the device has done all that was begun.
    """
    try:
        faster, dtype = build(network), next(network.parameters()).dtype
        drawn = (torch.rand(_SMALL, device=device) * 2 - 1).to(dtype)
        apart = float((faster(drawn) - network(drawn)).abs().max())
        if not apart <= _GREY_LEVEL:
            raise ArithmeticError(f"its results differ by {apart * 128:.3g} grey levels")
        large = torch.zeros(_LARGE, dtype=dtype, device=device)
        taken, needed = (_seconds(run, large, wait) for run in (faster, network))
        return faster if taken < needed else None
    except Exception as error:  # noqa: BLE001 (compilers fail in many ways; torch's own always works)
        logger.debug("%s is not fused: %s", type(network).__name__, _reason(error))
        return None


def _seconds(run: Callable[..., Tensor], given: Tensor, wait: Callable[[], object]) -> float:
    run(given)  # kernels are compiled, or chosen, at the first time
    wait()
    began = time.perf_counter()
    for _ in range(_TIMES):
        run(given)
    wait()
    return time.perf_counter() - began
