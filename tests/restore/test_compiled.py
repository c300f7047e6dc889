"""Networks that compile themselves, and batches of measured size, as far as a CPU can tell.

torch.compile runs for real; only its backend, which on CUDA is inductor, is another one.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter.pictures import Picture
from carfilter.restore.batches import fastest_batch
from carfilter.restore.compiled import Compiling, Ledger, tried
from carfilter.restore.network import Network, build_network
from carfilter.restore.restorer import RestoreOptions, Restorer


@pytest.fixture(autouse=True)
def _nothing_is_left_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Clock:
    """Seconds that somebody waited for the network."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Backend:
    """A backend of torch.compile that counts what it was given, and breaks it on request."""

    def __init__(self, change: float = 0.0, error: Exception | None = None) -> None:
        self.change, self.error = change, error
        self.compiled = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.compiled += 1
        if self.error is not None:
            raise self.error
        return lambda *inputs: [x + self.change for x in graph.forward(*inputs)]


def awake(name: str = "fast") -> Network:
    network = build_network(
        name, {"channels": 16} | ({"blocks": 2} if name == "car" else {})
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.08)
    return network


def batch(count: int, height: int = 32, width: int = 48) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, height, width) * 2 - 1, torch.rand(count, 1, height, width)


def pictures(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[Picture]:
    return [Picture(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(count)]


@torch.inference_mode()
def test_a_network_is_compiled_once_it_was_waited_for_and_short_batches_never() -> None:
    network, clock, backend = awake(), Clock(), Backend()
    run = Compiling(network, clock, 60, backend, Ledger())
    full, short = batch(4), batch(3)
    for seconds, compiled in ((0, 0), (30, 0), (59, 0), (61, 1), (90, 1), (500, 1)):
        clock.seconds = seconds
        assert torch.equal(run(*full), network(*full))
        assert backend.compiled == compiled
    assert torch.equal(run(*short), network(*short))
    assert torch.equal(run(*full), network(*full))
    assert backend.compiled == 1


@torch.inference_mode()
def test_tiles_share_the_time_that_their_picture_was_waited_for() -> None:
    network, clock, backend = awake(), Clock(), Backend()
    run = Compiling(network, clock, 60, backend, Ledger())
    large, small = batch(1, 64, 64), batch(1, 64, 16)
    for seconds in (0, 70):  # 56 of them for the large tile, 14 for the small one
        clock.seconds = seconds
        run(*large), run(*small)
    assert backend.compiled == 0
    clock.seconds = 80
    run(*large), run(*small)
    assert backend.compiled == 1


@torch.inference_mode()
def test_the_next_run_of_a_process_knows_what_was_compiled() -> None:
    ledger, clock, backend = Ledger(), Clock(), Backend()
    first = Compiling(awake(), clock, 60, backend, ledger)
    given = batch(4)
    for clock.seconds in (0, 70):
        first(*given)
    other = awake()
    second = Compiling(other, clock, 60, backend, ledger)
    assert torch.equal(second(*given), other(*given))
    assert torch.equal(second(*given), other(*given))
    assert second._ready
    assert backend.compiled == 1  # weights are not part of what is compiled


@torch.inference_mode()
@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (Backend(error=RuntimeError("Cannot find a working triton installation.")), "triton"),
        (Backend(error=OSError("gcc: not found")), "gcc"),
        (Backend(change=0.02), "differ by 2.56 grey levels"),
        (Backend(change=float("nan")), "differ by nan grey levels"),
        ("no-such-backend", "no-such-backend"),
    ],
)
def test_where_compiling_fails_one_warning_says_so_and_nothing_else_changes(
    caplog: pytest.LogCaptureFixture, backend: Backend | str, reason: str
) -> None:
    network = awake()
    run = Compiling(network, Clock(), 0, backend, Ledger())
    for given in (batch(4), batch(4), batch(4, 48), batch(4)):
        assert torch.equal(run(*given), network(*given))
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "runs uncompiled" in warning.getMessage()
    assert reason in warning.getMessage()
    if isinstance(backend, Backend):
        assert backend.compiled == 2  # once for each shape


@torch.inference_mode()
def test_a_few_samples_of_a_test_card_do_not_ban_compiling() -> None:
    network, given = awake(), batch(4)

    def differs(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        def run(*inputs: Tensor) -> list[Tensor]:
            made = [x.clone() for x in graph.forward(*inputs)]
            made[0][0, 0, 0, 0] += 0.1
            return made

        return run

    run = Compiling(network, Clock(), 0, differs, Ledger())
    run(*given)
    assert run._ready


@torch.inference_mode()
def test_memory_that_runs_out_is_no_failed_compile(caplog: pytest.LogCaptureFixture) -> None:
    network, ledger = awake(), Ledger()
    full = Backend(error=torch.OutOfMemoryError("CUDA out of memory"))
    run = Compiling(network, Clock(), 0, full, ledger)
    run(*batch(4)), run(*batch(4))
    assert full.compiled == 1
    assert not ledger.failed
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@torch.inference_mode()
def test_more_shapes_than_torch_takes_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    network, backend = nn.Tanh(), Backend()
    run = Compiling(network, Clock(), 0, backend, Ledger())
    for width in range(32, 32 + 16 * 12, 16):
        given, _ = batch(1, 32, width)
        assert torch.equal(run(given), network(given))
    assert backend.compiled == 8
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("name", "tile", "backend"),
    [("fast", 0, "aot_eager"), ("fast", 64, "eager"), ("car", 0, "eager"), ("best", 0, "eager")],
)
def test_a_clip_restored_by_a_compiled_network_is_the_same_to_its_last_frame(
    rng: np.random.Generator, name: str, tile: int, backend: str
) -> None:
    given, network = pictures(rng, 7, (48, 150)), awake(name)
    chosen = RestoreOptions("cpu", "fp32", batch_size=3, tile=tile)
    wanted = list(Restorer(network, chosen).restore(given))
    restorer = Restorer(network, chosen)
    run = Compiling(network, lambda: restorer.busy_seconds, 0, backend, Ledger())
    restorer.engine._run = run
    for a, b in zip(wanted, restorer.restore(given), strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
    assert run._ready
    assert not run._ledger.failed


def test_compiled_code_is_kept_in_the_users_cache_unless_he_chose_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Compiling(awake(), Clock(), 0, Backend(), Ledger())(*batch(1))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Compiling(awake(), Clock(), 0, Backend(), Ledger())(*batch(1))
    folder = tmp_path / "cache" / "carfilter" / "inductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({8: 0.02, 4: 0.04, 2: 0.06, 1: 0.08}, 8),
        ({8: 0.06, 4: 0.02, 2: 0.04, 1: 0.08}, 4),
        ({8: 0.08, 4: 0.06, 2: 0.04, 1: 0.02}, 1),
    ],
)
def test_the_fastest_size_of_batches_is_found(seconds: dict[int, float], best: int) -> None:
    assert fastest_batch(lambda size: time.sleep(seconds[size]), 8) == best


def test_a_slow_card_is_not_kept_busy_with_measuring() -> None:
    tried: list[int] = []

    def restore(size: int) -> None:
        tried.append(size)
        time.sleep(0.6)

    assert fastest_batch(restore, 8) == 8
    assert set(tried) == {8}


def test_a_measured_batch_loses_no_frame_and_keeps_the_order(rng: np.random.Generator) -> None:
    class Crowded(nn.Module):
        """The identity as a correction; a frame takes longer in company."""

        uses_qp, halo, live_bytes = False, 0, 0

        def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
            time.sleep(0.002 * len(luma) ** 2)
            return torch.zeros_like(luma)

    given = pictures(rng, 31, (32, 48))
    restorer = Restorer(Crowded(), RestoreOptions("cpu", reuse=False), (32, 48))
    assert restorer.batch_size == 8
    restorer.engine._batches_to_measure = 2
    restored = list(restorer.restore(given))
    assert restorer.batch_size == 1
    assert all(np.array_equal(a, p.luma) for a, p in zip(restored, given, strict=True))
    assert len(restored) == 31


def test_nothing_is_measured_or_compiled_on_a_cpu(rng: np.random.Generator) -> None:
    restorer = Restorer(awake(), RestoreOptions("cpu", "fp32", compile_after=0), (32, 48))
    list(restorer.restore(pictures(rng, 300, (32, 48))))
    assert restorer.batch_size == 8
    assert restorer.engine._run is restorer.engine._network


IN_THE_INTERPRETER = """
import torch
from carfilter.restore.fused import FusedCar
from carfilter.restore.network import build_network

torch.manual_seed(0)
network = build_network("car", {"channels": 16, "blocks": 1}).eval()
with torch.inference_mode():
    for parameter in network.parameters():
        parameter.normal_(0, 0.1)
    network = network.half().to(memory_format=torch.channels_last)
    luma = (torch.rand(2, 1, 13, 11) * 2 - 1).half()
    wanted = network(luma)
    assert wanted.abs().max() > 0.1
    print(float((FusedCar(network)(luma) - wanted).abs().max()) * 128)
"""


def test_one_kernel_a_layer_gives_what_car_gives() -> None:
    """Edges, several pictures and a last, short part among them; without a card, so slowly."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", IN_THE_INTERPRETER]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 0.5


class Tried:
    """Counts its calls, and gives the network's results a little changed, after a while."""

    def __init__(self, network: nn.Module, change: float, seconds: float) -> None:
        self.network, self.change, self.seconds = network, change, seconds

    def __call__(self, luma: Tensor) -> Tensor:
        time.sleep(self.seconds)
        result: Tensor = self.network(luma) + self.change
        return result


class Slow(nn.Conv2d):
    """A network that takes a while."""

    def forward(self, luma: Tensor) -> Tensor:
        time.sleep(0.02)
        return super().forward(luma)


@pytest.mark.parametrize(
    ("change", "seconds", "taken"),
    [(0.0, 0.0, True), (1 / 256, 0.0, True), (1 / 64, 0.0, False), (0.0, 0.1, False)],
)
def test_kernels_are_taken_where_they_are_right_and_faster(
    monkeypatch: pytest.MonkeyPatch, change: float, seconds: float, taken: bool
) -> None:
    # So small that it is the sleep that counts.
    monkeypatch.setattr("carfilter.restore.compiled._LARGE", (1, 1, 16, 16))
    network = Slow(1, 1, 3, padding=1)
    made = tried(
        network, lambda fast: Tried(super(Slow, fast).forward, change, seconds),
        torch.device("cpu"), lambda: None,
    )  # fmt: skip
    assert (made is not None) == taken


def test_without_triton_or_where_it_fails_the_network_runs_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def build(_: object) -> Callable[..., Tensor]:
        raise ImportError("No module named 'triton'")

    network = awake("car")
    assert tried(network, build, torch.device("cpu"), lambda: None) is None
    assert not [one for one in caplog.records if one.levelno > logging.DEBUG]
