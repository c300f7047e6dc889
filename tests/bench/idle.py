"""How much of the time a CUDA device computes nothing while the network is the bottleneck.

Torch's profiler notes when each kernel ran. Copies between host and device count as idle: they are
to go on beside the kernels. No decoder and no encoder run, so that nothing else is slower.
"""

import json
import tempfile
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from torch.profiler import ProfilerActivity, profile

from carfilter.pictures import Picture, uniform_qp
from carfilter.restore.batches import MEASURED_AT_BATCH
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model

from .rows import Row, bar, size_name
from .timing import seconds_of

_MOST_IDLE = 0.05
_DISTINCT = 16  # pictures that are shown in turn


def measure(model: Model, device: str, size: tuple[int, int], frames: int) -> list[Row]:
    """Restore a long clip, with the network as it is and compiled; say how idle the device was."""
    shown = _pictures(size)
    rows: list[Row] = []
    for engine, compile_after in (("as it is", float("inf")), ("compiled", 0.0)):
        options = RestoreOptions(device, reuse=False, compile_after=compile_after)
        restorer = Restorer(model, options, size)

        def restore(count: int, restorer: Restorer = restorer) -> None:
            deque(restorer.restore(islice(cycle(shown), count)), maxlen=0)

        first = seconds_of(partial(restore, restorer.batch_size))
        restore(restorer.batch_size * (MEASURED_AT_BATCH + 1))  # then its size is settled
        fps = frames / seconds_of(partial(restore, frames))
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            restore(frames)
        rows.append({"part": "idle", "model": model.name, "size": size_name(size),
                     "engine": engine, "precision": restorer.precision,
                     "batch": restorer.batch_size, "first_batch_seconds": first,
                     "frames": frames, "fps": fps,
                     "idle": idle_share(kernels(profiled))})  # fmt: skip
    what = f"{model.name}, {size_name(size)}: share of the time in which no kernel ran"
    return [*rows, bar(what, rows[-1]["idle"], _MOST_IDLE, most=True)]


def _pictures(size: tuple[int, int]) -> list[Picture]:
    rng = np.random.default_rng(0)
    lumas = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(_DISTINCT)]
    return [Picture(luma, qp=uniform_qp(luma.shape, 33)) for luma in lumas]


def kernels(profiled: profile, kind: str = "kernel") -> list[tuple[float, float]]:
    """Return when each event of a kind began and ended, in microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == kind]


def idle_share(busy: Iterable[tuple[float, float]]) -> float:
    """Return the share of the time from the first beginning to the last end that none covers."""
    spans = sorted(busy)
    if not spans:
        raise ValueError("the profiler saw no kernel")
    covered, reached = 0.0, spans[0][0]
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - spans[0][0])
