"""How many workers this machine carries, and which GPU each one gets."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from carfilter.process import cores
from carfilter.restore.door import count_gpus, may_have_card
from carfilter.restore.restorer import RestoreOptions

_WORKER_BYTES = 1536 << 20  # torch, a model and the frames in flight of a 1080p file


@dataclass(frozen=True)
class Workers:
    """How many local workers, on which devices, with how many encoder threads each."""

    devices: tuple[str, ...]
    encoder_threads: int


def choose_workers(restore: RestoreOptions, jobs: int) -> Workers:
    """One process per GPU, or else one per core as far as the memory goes.

    A file in one thread each uses the cores better than one file in many. The number depends on
    the machine alone, not on the files: the encoder's threads, and with them the result's bytes,
    must not differ between a run and its continuation.

    Raises:
        DeviceError: there is no such device.
    """
    gpus = _gpus_for(restore.device) if wants_gpu(restore) else 0
    if restore.device not in ("auto", "cuda"):
        gpus = min(gpus, 1)
    count = jobs or gpus or max(min(cores(), _memory() // _WORKER_BYTES), 1)
    devices = tuple(f"cuda:{i % gpus}" if gpus else "" for i in range(count))
    return Workers(devices, max(cores() // count, 1))


def _gpus_for(device: str) -> int:
    """Count in a process of its own where there may be cards.

    To try a card takes memory on it, and where it serves one process at a time, it takes the card.
    """
    if not may_have_card() or not _sees_card():
        return count_gpus(device)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(count_gpus, device).result()


def _sees_card() -> bool:
    from carfilter.restore.devices import has_card

    return has_card()[0]


def wants_gpu(restore: RestoreOptions) -> bool:
    """Say whether a GPU would be of use."""
    return restore.strength > 0 and restore.device != "cpu"


def _memory() -> int:
    """Bytes that the machine has, or that the control group may take if that is less."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or "max"
    return memory
