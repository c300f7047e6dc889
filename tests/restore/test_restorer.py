"""The Restorer: order, batches, tiles, depths, fields, and what happens when memory runs out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter.errors import CarfilterError, DeviceError
from carfilter.media.clips import read_clip
from carfilter.pictures import Picture
from carfilter.restore.devices import bfloat_is_fast
from carfilter.restore.network import Network, build_network
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import load_weights

HAS_AMX = bfloat_is_fast(torch.device("cpu"))


def awake(name: str) -> Network:
    network = build_network(name, {"channels": 16})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.08)
    return network


def pictures(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[Picture]:
    blocks = (-(-size[0] // 16), -(-size[1] // 16))
    return [
        Picture(
            rng.integers(0, 256, size, dtype=np.uint8),
            qp=None if i % 3 == 2 else rng.integers(0, 52, blocks).astype(np.int16),
        )
        for i in range(count)
    ]


def run(network: nn.Module, given: list[Picture], **options: object) -> list[np.ndarray]:
    return list(Restorer(network, RestoreOptions(**options)).restore(given))


class Zero(nn.Module):
    """The identity as a correction; it remembers the shapes it saw."""

    uses_qp, halo, live_bytes = False, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
        self.seen.append(tuple(luma.shape))
        return torch.zeros_like(luma)


class SmallMemory(Zero):
    """A device whose memory takes so many pixels at once and no more."""

    def __init__(self, pixels: int, error: Exception) -> None:
        super().__init__()
        self.pixels, self.error = pixels, error

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
        if luma.numel() > self.pixels:
            raise self.error
        return super().forward(luma, qp)


@pytest.mark.parametrize("name", ["fast", "car"])
def test_what_comes_out_does_not_depend_on_the_batch(rng: np.random.Generator, name: str) -> None:
    given, network = pictures(rng, 7, (50, 70)), awake(name)
    one = run(network, given, batch_size=1)
    for batch_size in (2, 3, 7, 16):
        many = run(network, given, batch_size=batch_size)
        assert len(many) == 7  # the last, partial batch survives
        for a, b in zip(one, many, strict=True):
            assert np.abs(a.astype(int) - b).max() <= 1
    assert any((a != p.luma).any() for a, p in zip(one, given, strict=True))


@pytest.mark.parametrize("name", ["fast", "car"])
@pytest.mark.parametrize("size", [(200, 150), (161, 203), (64, 300)])
def test_tiled_equals_untiled(rng: np.random.Generator, name: str, size: tuple[int, int]) -> None:
    given, network = pictures(rng, 2, size), awake(name)
    whole, tiled = run(network, given), run(network, given, tile=64)
    for a, b in zip(whole, tiled, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_the_correction_is_the_networks_own_and_lands_in_the_file_s_range() -> None:
    class Brighter(Zero):
        def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return torch.full_like(luma, 3 / 128)

    luma = np.array([[0, 100, 253, 255]], np.uint8)
    assert run(Brighter(), [Picture(luma)])[0].tolist() == [[3, 103, 255, 255]]
    half = run(Brighter(), [Picture(luma)], strength=1 / 3)[0]
    assert half.tolist() == [[1, 101, 254, 255]]
    deep = run(Brighter(), [Picture(luma.astype(np.uint16) * 4, depth=10)])[0]
    assert deep.dtype == np.uint16
    assert deep.tolist() == [[12, 412, 1023, 1023]]


@pytest.mark.parametrize("depth", [8, 9, 10, 12, 16])
def test_every_value_of_every_depth_survives_a_zero_correction(depth: int) -> None:
    values = np.arange(1 << min(depth, 16), dtype=np.uint16 if depth > 8 else np.uint8)
    luma = np.stack([values, values[::-1]])
    assert np.array_equal(run(Zero(), [Picture(luma, depth=depth)])[0], luma)


@pytest.mark.parametrize(("assumed", "seen_as"), [(None, -1.0), (26, 26 / 51), (40, 40 / 51)])
def test_the_network_sees_the_qp_of_each_macroblock_and_what_is_assumed_for_unknown(
    assumed: int | None, seen_as: float
) -> None:
    seen: list[Tensor] = []

    class Watch(Zero):
        uses_qp = True

        def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
            assert qp is not None
            seen.append(qp.clone())
            return torch.zeros_like(luma)

    qp = np.array([[0, 51, 17], [34, 25, 1]], np.int16)
    luma = np.zeros((30, 40), np.uint8)
    run(Watch(), [Picture(luma, qp=qp), Picture(luma + 1)], batch_size=2, qp=assumed)
    assert seen[0].shape == (2, 1, 30, 40)
    assert torch.equal(seen[0][0, 0, :16, 16:32], torch.ones(16, 16))
    assert torch.allclose(seen[0][0, 0, 16:, 32:], torch.tensor(1 / 51))
    assert torch.allclose(seen[0][1], torch.tensor(seen_as))


@pytest.mark.skipif(not HAS_AMX, reason="this CPU has no bfloat16 that is worth it")
@pytest.mark.parametrize("name", ["car-mse", "fast", "best"])
def test_bfloat16_on_a_cpu_equals_fp32_within_a_grey_level_nearly_everywhere(
    rng: np.random.Generator, name: str
) -> None:
    network = load_weights(name).network
    # What noise of full contrast excites in `best` is beyond the digits of bfloat16. It looks no
    # frame ahead here: what is averaged over time agrees or not by rounding, too.
    given = _footage() if name == "best" else pictures(rng, 3, (48, 80))
    exact = run(network, given, device="cpu", precision="fp32", lookahead=0)
    quick = run(network, given, device="cpu", precision="bf16", lookahead=0)
    changed = np.stack(exact).astype(int) - np.stack([p.luma for p in given])
    assert np.abs(changed).max() >= 4
    apart = np.abs(np.stack(exact).astype(int) - np.stack(quick))
    # Corrections of 60 levels have steps of a quarter of a level there.
    assert apart.max() <= 4
    assert (apart > 1).mean() < 1e-3


def _footage() -> list[Picture]:
    clip = read_clip(Path(__file__).parents[2] / "samples" / "plaza.mp4", 3)
    assert clip.qp is not None
    return [Picture(luma, qp=qp) for luma, qp in zip(clip.luma, clip.qp, strict=True)]


def test_fields_of_interlaced_pictures_are_restored_apart(rng: np.random.Generator) -> None:
    network, picture = Zero(), pictures(rng, 1, (48, 64))[0]
    interlaced = Picture(picture.luma, interlaced=True)
    restored = run(network, [picture, interlaced, interlaced])
    assert [np.array_equal(r, picture.luma) for r in restored] == [True] * 3
    assert {shape[2] for shape in network.seen} == {48, 24}


@pytest.mark.parametrize("shape", [(0, 16), (16, 0), (16,), (16, 16, 3)])
def test_what_is_no_plane_with_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CarfilterError, match="has to be a plane"):
        Picture(np.zeros(shape, np.uint8))


def test_qps_that_are_not_those_of_the_macroblocks_are_refused() -> None:
    luma = np.zeros((40, 48), np.uint8)
    for shape in ((2, 3), (3, 4), (9,)):
        with pytest.raises(CarfilterError, match=r"one for each macroblock, \(3, 3\), not"):
            Picture(luma, qp=np.zeros(shape, np.int16))


@pytest.mark.parametrize("kind", [CarfilterError, ValueError])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"strength": 1.5}, r"strength has to lie in 0\.\.1, not 1\.5"),
        ({"strength": float("nan")}, r"strength has to lie in 0\.\.1, not nan"),
        ({"qp": 52}, r"qp has to lie in 0\.\.51, not 52"),
        ({"lookahead": -1}, "lookahead cannot be less than 0"),
    ],
)
def test_an_impossible_option_is_caught_as_an_error_of_ours_or_of_pythons(
    options: dict[str, float], sentence: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=sentence):
        RestoreOptions(**options)  # type: ignore[arg-type]


def test_sizes_and_depths_may_change_in_the_stream(rng: np.random.Generator) -> None:
    given = pictures(rng, 3, (32, 32)) + pictures(rng, 2, (48, 80))
    given.append(Picture(np.full((16, 16), 1000, np.uint16), depth=10))
    restored = run(Zero(), given, batch_size=4)
    assert [r.shape for r in restored] == [p.luma.shape for p in given]
    assert all(np.array_equal(r, p.luma) for r, p in zip(restored, given, strict=True))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_takes_smaller_batches_then_tiles_and_loses_no_frame(
    rng: np.random.Generator, error: Exception
) -> None:
    given, network = pictures(rng, 9, (240, 320)), SmallMemory(128 * 128, error)
    restorer = Restorer(network, RestoreOptions(batch_size=8))
    restored = list(restorer.restore(given))
    assert all(np.array_equal(r, p.luma) for r, p in zip(restored, given, strict=True))
    assert restorer.batch_size == 1
    assert 64 <= restorer.tile < 240


def test_memory_for_nothing_at_all_is_an_error_with_a_remedy(rng: np.random.Generator) -> None:
    network = SmallMemory(10, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(DeviceError, match=r"out of memory.*free memory"):
        run(network, pictures(rng, 1, (240, 320)))


def test_other_errors_of_a_network_are_not_taken_for_memory(rng: np.random.Generator) -> None:
    with pytest.raises(RuntimeError, match="cuDNN is broken"):
        run(SmallMemory(10, RuntimeError("cuDNN is broken")), pictures(rng, 1, (64, 64)))


def test_a_frame_too_large_for_memory_is_tiled_from_the_start() -> None:
    assert Restorer(build_network("fast"), size=(512, 912)).tile == 0
    assert Restorer(build_network("car"), size=(2160, 3840)).tile >= 64


def test_results_come_while_the_input_still_flows(rng: np.random.Generator) -> None:
    given, taken = pictures(rng, 10, (32, 32)), []

    def watched() -> Iterator[Picture]:
        for picture in given:
            taken.append(picture)
            yield picture

    results = Restorer(Zero(), RestoreOptions(batch_size=2)).restore(watched())
    next(results)
    assert len(taken) <= 4
    assert len(list(results)) == 9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, "--device tpu"),
        ({"device": "mps"}, "not supported"),
        ({"device": "cuda:99"}, "CUDA devices are here"),
        ({"device": "cpu", "precision": "fp16"}, "needs a CUDA device"),
        ({"precision": "fp8"}, "unknown"),
        pytest.param(
            {"device": "cpu", "precision": "bf16"},
            "or a CPU with AMX",
            marks=pytest.mark.skipif(HAS_AMX, reason="this CPU has it"),
        ),
    ],
)
def test_a_device_or_precision_that_is_not_there_is_refused(
    options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DeviceError, match=sentence):
        Restorer(Zero(), RestoreOptions(**options))
