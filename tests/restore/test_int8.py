"""int8 on the CPU: chosen where it can be right, close to fp32, checked before it is trusted."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from carfilter.errors import DeviceError, WeightsError
from carfilter.pictures import Picture
from carfilter.restore import door
from carfilter.restore.devices import bfloat_is_fast
from carfilter.restore.int8.calibration import calibrate
from carfilter.restore.int8.convolutions import (
    Int8Fast,
    _cells,
    _planes,
    torch_is_exact,
)
from carfilter.restore.int8.equalise import equalise
from carfilter.restore.int8.quantise import is_faithful, quantise
from carfilter.restore.int8.quantised import Quantised, qp_codes
from carfilter.restore.network import Car, Fast, FastConfig
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.slots import Inputs
from carfilter.restore.weights import load_weights, save_weights

pytestmark = pytest.mark.skipif(
    not torch_is_exact(), reason="this CPU or torch has no int8 kernels"
)

LARGE = "bf16" if bfloat_is_fast(torch.device("cpu")) else "fp32"


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 by torch's convolutions, as where nothing was compiled."""
    monkeypatch.setattr(door, "open_rows", lambda _network: None)


def trained_like() -> Fast:
    """A network whose corrections are some grey levels, as after training."""
    torch.manual_seed(3)
    network = Fast(FastConfig(channels=16, body=3)).eval().requires_grad_(False)
    network.tail.weight.mul_(20)
    network.head.bias.uniform_(-0.1, 0.1)
    return network


def pictures(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[Picture]:
    """Smooth pictures with noise, as footage has, every second one with a QP map."""
    made = []
    for i in range(count):
        coarse = torch.from_numpy(rng.random((1, 1, 6, 6), dtype=np.float32))
        smooth = F.interpolate(coarse, size, mode="bicubic").numpy()[0, 0] * 255
        luma = (smooth + rng.normal(0, 5, size)).round().clip(0, 255).astype(np.uint8)
        blocks = (-(-size[0] // 16), -(-size[1] // 16))
        qp = rng.integers(0, 52, blocks).astype(np.int16)
        made.append(Picture(luma, qp=qp if i % 2 == 0 else None))
    return made


def ranges_of(network: Fast, given: list[Picture]) -> list[float]:
    lumas = [torch.from_numpy(p.luma).float()[None, None] / 128 - 1 for p in given]
    return calibrate(network, ((luma, torch.full_like(luma, 0.6)) for luma in lumas))


def quantised(network: Fast, ranges: list[float]) -> Quantised:
    made = quantise(network, ranges)
    assert made is not None
    return made


def calibrated(rng: np.random.Generator, count: int) -> tuple[Fast, list[Picture], list[float]]:
    """A network, pictures, and the ranges of the one on the others."""
    network, given = trained_like(), pictures(rng, count, (96, 128))
    return network, given, ranges_of(network, given)


def run(network: Fast, given: list[Picture], ranges: list[float] | None, **options: object) -> list:
    restorer = Restorer(network, RestoreOptions(**options), (96, 128), ranges)
    return list(restorer.restore(given))


@pytest.mark.parametrize("size", [(96, 128), (51, 77)])
def test_int8_is_close_to_fp32_and_both_correct_something(
    rng: np.random.Generator, size: tuple[int, int]
) -> None:
    network, given = trained_like(), pictures(rng, 4, size)
    ranges = ranges_of(network, given)
    exact = run(network, given, ranges, precision="fp32")
    quick = run(network, given, ranges, precision="int8")
    for a, b, p in zip(exact, quick, given, strict=True):
        correction = np.abs(a.astype(int) - p.luma).mean()
        assert correction > 0.5
        assert np.abs(a.astype(int) - b).mean() < 0.2 * correction


def test_channels_that_reach_little_are_scaled_up_before_they_are_quantised(
    rng: np.random.Generator,
) -> None:
    network, given = trained_like(), pictures(rng, 4, (96, 128))
    # The same network with channels of very different size, as training leaves them.
    layers = [network.head, *network.body, network.tail]
    factors = [torch.from_numpy(2.0 ** rng.uniform(-4, 0, 16)).float() for _ in network.body]
    factors = [*factors, factors[-1]]
    factors[0] = factors[-1]  # which is added to the last one's
    for layer, after, factor in zip(layers, layers[1:], factors, strict=False):
        layer.weight.mul_(factor[:, None, None, None])
        layer.bias.mul_(factor)
        after.weight.div_(factor[None, :, None, None])
    exact = run(network, given, None)

    def error() -> float:
        found = run(network, given, ranges_of(network, given))
        return float(
            np.mean([(a.astype(float) - b) ** 2 for a, b in zip(found, exact, strict=True)])
        )

    uneven = error()
    lumas = [torch.from_numpy(p.luma).float()[None, None] / 128 - 1 for p in given]
    equalise(network, [(luma, torch.full_like(luma, 0.6)) for luma in lumas])
    assert all(np.array_equal(a, b) for a, b in zip(run(network, given, None), exact, strict=True))
    assert error() < 0.7 * uneven


def test_int8_tiles_equal_the_whole_within_one_grey_level(rng: np.random.Generator) -> None:
    network, given = trained_like(), pictures(rng, 2, (150, 201))
    ranges = ranges_of(network, given)
    whole = run(network, given, ranges)
    tiled = run(network, given, ranges, tile=64)
    for a, b in zip(whole, tiled, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("width", [800, 801])
def test_strips_leave_no_seam(rng: np.random.Generator, width: int) -> None:
    network, given = trained_like(), pictures(rng, 1, (96, width))
    twin = Int8Fast(quantised(network, ranges_of(network, given)))
    assert given[0].qp is not None
    inputs = Inputs(
        torch.from_numpy(given[0].luma)[None],
        torch.from_numpy(given[0].qp).to(torch.int8)[None],
    )
    corrections = []
    for twin.strips in (False, True):
        corrections.append(twin(inputs) * 128)
    whole, strips = corrections
    assert whole.std() > 1
    # Kernels for other widths round some values of a layer otherwise, a half to even or up.
    assert (whole - strips).abs().max() < 0.5
    assert (whole - strips).abs().mean() < 0.01


def test_auto_takes_int8_where_it_is_calibrated_and_floats_elsewhere(
    rng: np.random.Generator,
) -> None:
    network = trained_like()
    ranges = ranges_of(network, pictures(rng, 1, (96, 128)))
    cpu = RestoreOptions("cpu")
    assert Restorer(network, cpu, int8_ranges=ranges).precision == "int8"
    assert Restorer(network, cpu).precision == "fp32"
    assert Restorer(Car(), cpu, int8_ranges=None).precision == LARGE
    with pytest.raises(DeviceError, match="--precision int8"):
        Restorer(Car(), RestoreOptions("cpu", "int8"), int8_ranges=ranges)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("count", [1, 2, 7])
def test_side_by_side_pictures_come_out_in_order_and_as_one_by_one(
    rng: np.random.Generator, count: int
) -> None:
    network, given, ranges = calibrated(rng, count)
    alone = run(network, given, ranges, batch_size=1)
    for batch_size in (0, 2, 3):
        together = run(network, given, ranges, batch_size=batch_size)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_where_memory_is_short_side_by_side_pictures_are_restored_in_turn(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, given, ranges = calibrated(rng, 7)
    alone = run(network, given, ranges, batch_size=1)
    whole, members = Int8Fast.__call__, []

    def short(self: Int8Fast, inputs: Inputs) -> torch.Tensor:
        if threading.current_thread().name.startswith("carfilter-network"):
            members.append(inputs)
            raise MemoryError("cannot allocate memory")
        return whole(self, inputs)

    monkeypatch.setattr(Int8Fast, "__call__", short)
    together = run(network, given, ranges, batch_size=2)
    assert members
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_what_fails_in_a_thread_is_raised(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, given, ranges = calibrated(rng, 4)

    def broken(_self: Int8Fast, _inputs: Inputs) -> torch.Tensor:
        raise RuntimeError("a kernel that fails")

    restorer = Restorer(network, RestoreOptions("cpu"), (96, 128), ranges)
    monkeypatch.setattr(Int8Fast, "__call__", broken)
    with pytest.raises(RuntimeError, match="a kernel that fails"):
        list(restorer.restore(given))


def test_more_than_eight_bits_go_through_fp32(rng: np.random.Generator) -> None:
    network, given = trained_like(), pictures(rng, 1, (64, 64))
    deep = [Picture(p.luma.astype(np.uint16) * 4 + 1, depth=10, qp=p.qp) for p in given]
    ranges = ranges_of(network, given)
    auto = run(network, deep, ranges)
    fp32 = run(network, deep, None, precision="fp32")
    assert np.array_equal(auto[0], fp32[0])


@pytest.mark.parametrize("name", ["fast", "best"])
def test_flat_areas_get_no_checkerboard(name: str) -> None:
    """Rounding shifts each of the four samples of a cell by another amount, if nothing is done."""
    model = load_weights(name)
    rows, columns = np.mgrid[:192, :256]
    waves = 125 + 60 * np.sin(rows / 40) + 50 * np.cos(columns / 55)
    luma = torch.from_numpy(waves.round().astype(np.uint8))[None]
    qp = torch.full((1, 12, 16), 40, dtype=torch.int8)
    assert model.int8 is not None
    twin = Int8Fast(model.int8)
    with torch.inference_mode():
        fp32 = model.network(
            (luma[:, None].float() - 128) / 128, torch.full((1, 1, 192, 256), 40 / 51)
        )
        added = (twin(Inputs(luma, qp))[:, None] - fp32) * 128
    assert float(F.pixel_unshuffle(added, 2).mean((0, 2, 3)).abs().max()) < 0.1


def test_a_twin_that_computes_wrongly_fails_its_self_test(rng: np.random.Generator) -> None:
    network = trained_like()
    ranges = ranges_of(network, pictures(rng, 2, (96, 128)))
    assert is_faithful(network, Int8Fast(quantised(network, ranges)))
    broken = Int8Fast(quantised(network, ranges))
    broken.body[1].weight_scale = broken.body[1].weight_scale * 3
    assert not is_faithful(network, broken)
    assert quantise(network, [1e-3] * 4) is None
    assert Restorer(network, RestoreOptions("cpu"), int8_ranges=[1e-3] * 4).precision == "fp32"


def test_qp_codes_are_the_values_of_the_float_network() -> None:
    values = (qp_codes()[[0, 1, 30, 51]].astype(float) - 128) / 128
    assert np.allclose(values, [0, 1 / 51, 30 / 51, 1], atol=1 / 127)


def test_ranges_travel_in_the_checkpoint_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    network, path = trained_like(), tmp_path / "mine.pt"
    save_weights(path, network, int8_ranges=[1.0, 2.0, 3.0, 4.0])
    assert load_weights(path).int8_ranges == [1.0, 2.0, 3.0, 4.0]
    torch.save({**torch.load(path), "int8_ranges": [1.0]}, path)
    with pytest.raises(WeightsError, match="int8 ranges are damaged"):
        load_weights(path)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_samples_are_moved_as_pixel_unshuffle_moves_them(factor: int) -> None:
    luma = torch.randint(0, 256, (2, 12 * factor, 10 * factor), dtype=torch.uint8)
    cells = _cells(luma, factor)
    assert torch.equal(cells, F.pixel_unshuffle(luma[:, None], factor))
    assert torch.equal(_planes(cells.to(torch.float32), factor), luma.to(torch.float32))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (37, 1), (16, 2)])
@pytest.mark.parametrize("name", ["fast", "best"])
def test_a_picture_of_a_cell_in_width_is_restored(
    rng: np.random.Generator, name: str, size: tuple[int, int]
) -> None:
    given = [Picture(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(3)]
    restorer = Restorer(load_weights(name), RestoreOptions("cpu", "int8"), size)
    assert [luma.shape for luma in restorer.restore(given)] == [size] * 3
