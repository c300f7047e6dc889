"""The CUDA path against the CPU path: the same pictures within one grey level, nothing lost."""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench import idle
from carfilter.pictures import Luma, Picture, uniform_qp
from carfilter.restore import torch_engine
from carfilter.restore.batches import MEASURED_AT_BATCH
from carfilter.restore.card_planes import CardPlanes
from carfilter.restore.compiled import Compiling
from carfilter.restore.follow import followed
from carfilter.restore.network import build_network
from carfilter.restore.planes import CpuPlanes
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.steady import Noted, keep_unchanged, steadied
from carfilter.restore.weights import load_weights
from moving import pan, passing, scene_of

# The compiler warns about much that is not ours.
pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("default")]


def trained_like(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    network = build_network(name)
    with torch.no_grad():
        network.tail.weight.mul_(30)  # corrections of some grey levels, as after training
    return network


def clip(count: int, size: tuple[int, int], depth: int = 8) -> list[Picture]:
    rng = np.random.default_rng(2)
    kind = np.uint8 if depth == 8 else np.uint16
    blocks = (-(-size[0] // 16), -(-size[1] // 16))
    return [
        Picture(
            rng.integers(0, 1 << depth, size).astype(kind),
            depth,
            rng.integers(0, 52, blocks).astype(np.int16) if i % 2 else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["fast", "car"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("depth", [8, 10])
def test_cuda_equals_cpu_within_one_grey_level(name: str, precision: str, depth: int) -> None:
    pictures = clip(7, (129, 190), depth)
    cpu = list(Restorer(trained_like(name), RestoreOptions("cpu")).restore(pictures))
    options = RestoreOptions("cuda", precision, batch_size=3)
    cuda = list(Restorer(trained_like(name), options).restore(pictures))
    level = 1 << (depth - 8)  # one grey level of 8 bits
    for a, b in zip(cpu, cuda, strict=True):
        assert np.abs(a.astype(int) - b).max() <= level


def test_both_slots_in_flight_keep_the_order() -> None:
    pictures = clip(41, (64, 64))
    restorer = Restorer(trained_like("fast"), RestoreOptions("cuda", "fp32", batch_size=4))
    together = list(restorer.restore(pictures))
    alone = [next(restorer.restore([picture])) for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("name", ["fast", "car", "best"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_compiled_network_gives_the_same_to_the_last_short_batch(
    name: str,
    precision: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_engine, "fused", lambda _: None)
    pictures, results = clip(11, (129, 190)), []
    for compile_after in (float("inf"), 0.0):
        options = RestoreOptions("cuda", precision, batch_size=4, compile_after=compile_after)
        restorer = Restorer(trained_like(name), options)
        results.append(list(restorer.restore(pictures)))
    assert isinstance(restorer.engine._run, Compiling)
    assert restorer.engine._run._ready
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for plain, compiled in zip(*results, strict=True):
        assert np.abs(plain.astype(int) - compiled).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_one_kernel_a_layer_gives_what_car_gives(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    from carfilter.restore.fused import FusedCar

    network: Any = trained_like("car").to("cuda", dtype).to(memory_format=torch.channels_last)
    for size in ((37, 53), (270, 480)):
        luma = (torch.rand(2, 1, *size, device="cuda") * 2 - 1).to(dtype)
        assert (FusedCar(network)(luma) - network(luma)).abs().max() <= 1 / 128


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("shot", [pan, passing])
def test_what_is_kept_moved_and_averaged_on_a_card_is_what_a_cpu_makes_of_it(
    shot: Callable[..., list[Luma]], depth: int
) -> None:
    rng, size, kind = np.random.default_rng(5), (96, 160), np.uint8 if depth == 8 else np.uint16
    lumas = shot(12, size, (2.3, 1.1), depth) if shot is pan else shot(12, size, depth)
    motion = scene_of(lumas, depth)
    notes = [
        Noted(depth, rng.random((6, 10)) < 0.5 if at else None, 38.0, motion.around(at))
        for at in range(12)
    ]
    noisy = [one + rng.normal(0, 2 << (depth - 8), size) for one in lumas]
    given = [one.clip(0, (1 << depth) - 1).round().astype(kind) for one in noisy]
    stored = np.uint8 if depth == 8 else np.int16
    there = [torch.from_numpy(one.view(stored)).to("cuda", copy=True) for one in given]
    here = [one.copy() for one in given]
    results = []
    for planes, restored in ((CardPlanes(torch.device("cuda")), there), (CpuPlanes(), here)):
        kept = keep_unchanged(restored, deque(notes), planes)
        results.append(list(steadied(followed(kept, 8, planes=planes), 8, planes=planes)))
    for card, cpu, plain in zip(*results, given, strict=True):
        assert np.abs(card.astype(int) - cpu).max() <= 1
        assert not np.array_equal(cpu, plain)


@pytest.mark.parametrize("lookahead", [0, 64])
def test_best_restores_a_moving_camera_on_a_card_as_on_a_cpu(lookahead: int) -> None:
    pictures = [
        Picture(luma, 8, uniform_qp(luma.shape, 38), frame_type=1 if i % 5 == 0 else 2)
        for i, luma in enumerate(pan(12, (128, 192), (2.3, 1.1)))
    ]
    results = []
    for device in ("cpu", "cuda"):
        options = RestoreOptions(device, "fp32", batch_size=3, lookahead=lookahead)
        results.append(list(Restorer(trained_like("best"), options).restore(pictures)))
    apart = np.abs(np.stack(results[0]).astype(int) - np.stack(results[1]))
    # A block that is hardly more alike once it is moved may be moved on one of them alone.
    assert np.quantile(apart, 0.999) <= 1


def test_a_measured_batch_loses_no_frame_and_keeps_the_order() -> None:
    pictures = clip(16, (96, 128)) * (2 * MEASURED_AT_BATCH + 3)
    restorer = Restorer(trained_like("fast"), RestoreOptions("cuda", reuse=False), (96, 128))
    assert restorer.batch_size == 32
    together = list(restorer.restore(pictures))
    assert restorer.engine._batches_to_measure == 0
    assert restorer.batch_size in (32, 16, 8, 4)
    alone = [next(restorer.restore([picture])) for picture in pictures[:16]]
    assert len(together) == len(pictures)
    for a, b in zip(together, alone * (len(pictures) // 16), strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_a_full_card_ends_in_smaller_batches_or_tiles_and_not_in_a_lost_frame() -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.5e9, free) / total)
    try:
        pictures = clip(4, (1080, 1920))
        restorer = Restorer(trained_like("car"), RestoreOptions("cuda", "fp16", batch_size=4))
        restored = list(restorer.restore(pictures))
        assert len(restored) == 4
        assert restorer.batch_size < 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_how_idle_a_card_is_gets_measured() -> None:
    *rows, held = idle.measure(load_weights("fast"), "cuda", (128, 192), 100)
    assert [row["engine"] for row in rows] == ["as it is", "compiled"]
    assert all(0 <= row["idle"] < 1 for row in rows)
    assert held["measured"] == rows[-1]["idle"]
