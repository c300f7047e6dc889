"""Nothing computed twice: results stay the same, and what did not change is not computed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter.pictures import Luma, Picture
from carfilter.restore.network import Fast
from carfilter.restore.planes import changed_blocks
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.reuse import Box, Reuse, settle
from carfilter.restore.weights import load_weights

SIZE = (256, 640)


def quiet(rng: np.random.Generator, count: int, size: tuple[int, int] = SIZE) -> list[Picture]:
    """A still scene with a small figure on its way, and QP maps that change everywhere."""
    scene = rng.integers(40, 200, (size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1)
    pictures = []
    for i in range(count):
        luma = scene.astype(np.uint8)
        luma[size[0] - 60 : size[0] - 20, 3 * i : 3 * i + 24] = 20 + i
        blocks = (-(-size[0] // 16), -(-size[1] // 16))
        pictures.append(Picture(luma, qp=rng.integers(20, 40, blocks).astype(np.int16)))
    return pictures


def busy(rng: np.random.Generator, count: int, size: tuple[int, int] = SIZE) -> list[Picture]:
    return [Picture(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(count)]


def both_ways(
    given: list[Picture], precision: str, weights: str = "fast", **options: float
) -> tuple[list, list, float]:
    model = load_weights(weights)
    runs, saved = [], 0.0
    for reuse in (True, False):
        chosen = RestoreOptions("cpu", precision, reuse=reuse, **options)
        size = given[0].luma.shape
        restorer = Restorer(model, chosen, size)
        runs.append(list(restorer.restore(given)))
        saved = max(saved, restorer.saved)
    return runs[0], runs[1], saved


class Counting(nn.Module):
    """The identity as a correction; it remembers the QP planes and sizes it saw."""

    uses_qp, halo, live_bytes = True, 17, 0

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []
        self.planes: list[Tensor] = []

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
        self.sizes.append(tuple(luma.shape[2:]))
        if qp is not None:
            self.planes.append(qp.clone())
        return torch.zeros_like(luma)


@pytest.mark.parametrize("options", [{}, {"strength": 0.37}, {"batch_size": 3}])
def test_quiet_footage_in_int8_comes_out_bit_for_bit_as_without_reuse(
    rng: np.random.Generator, options: dict[str, float]
) -> None:
    given = quiet(rng, 16)
    given[7] = given[6]  # a frame twice
    reused, plain, saved = both_ways(given, "auto", **options)
    assert all(np.array_equal(a, b) for a, b in zip(reused, plain, strict=True))
    assert any((a != p.luma).any() for a, p in zip(reused, given, strict=True))
    assert saved > 0.3


@pytest.mark.parametrize("lookahead", [0, 8])
def test_best_leaves_out_what_would_keep_its_result(
    rng: np.random.Generator, lookahead: int
) -> None:
    """Every key frame gives the others new references, and still areas keep their result."""
    given = quiet(rng, 16)
    given = [replace(p, frame_type=1 if i % 5 == 0 else 2) for i, p in enumerate(given)]
    given[9] = replace(given[8], frame_type=2)
    given[12:14] = [replace(p, interlaced=True) for p in given[12:14]]
    reused, plain, saved = both_ways(given, "auto", "best", lookahead=lookahead)
    assert all(np.array_equal(a, b) for a, b in zip(reused, plain, strict=True))
    assert any((a != p.luma).any() for a, p in zip(reused, given, strict=True))
    assert saved > 0.3


@pytest.mark.parametrize("size", [(256, 640), (250, 333), (144, 176)])
def test_in_floating_point_reuse_stays_within_one_grey_level(
    rng: np.random.Generator, size: tuple[int, int]
) -> None:
    reused, plain, _ = both_ways(quiet(rng, 6, size), "fp32")
    for a, b in zip(reused, plain, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
        assert ((a.astype(int) - b) ** 2).mean() < 1e-3


def test_busy_footage_is_computed_whole_and_in_order(rng: np.random.Generator) -> None:
    given = busy(rng, 5) + quiet(rng, 4) + busy(rng, 3)
    reused, plain, _ = both_ways(given, "auto")
    assert all(np.array_equal(a, b) for a, b in zip(reused, plain, strict=True))
    network = Counting()
    restorer = Restorer(network, RestoreOptions("cpu", batch_size=1), SIZE)
    assert len(list(restorer.restore(busy(rng, 5)))) == 5
    assert network.sizes == [SIZE] * 5
    assert restorer.saved == 0


def test_a_frozen_camera_costs_one_picture_and_its_results_come_at_once(
    rng: np.random.Generator,
) -> None:
    network, picture, taken = Counting(), busy(rng, 1)[0], []

    def frozen() -> Iterator[Picture]:
        for i in range(50):
            taken.append(i)
            yield replace(picture, luma=picture.luma.copy())

    restorer = Restorer(network, RestoreOptions("cpu", batch_size=1), SIZE)
    for i, luma in enumerate(restorer.restore(frozen())):
        assert np.array_equal(luma, picture.luma)
        assert len(taken) <= i + 2
    assert len(taken) == 50
    assert network.sizes == [SIZE]
    assert restorer.saved == pytest.approx(0.98)


def test_a_run_after_one_that_was_left_in_the_middle_repeats_nothing_of_it() -> None:
    def whole(pictures: Iterable[Picture]) -> Iterator[Luma]:
        """Hold two pictures back, as a card does."""
        held: list[Picture] = []
        for picture in pictures:
            held.append(picture)
            if len(held) > 2:
                yield held.pop(0).luma
        yield from (picture.luma for picture in held)

    def shown(levels: Iterable[int]) -> Iterator[Picture]:
        return settle(Picture(np.full((32, 32), level, np.uint8)) for level in levels)

    reuse = Reuse(whole, None, 0, doubtful=False, patience=16)
    left = reuse.restore(shown((1, 2, 3, 3, 3, 3, 4, 5, 6)))
    assert [int(next(left)[0, 0]) for _ in range(2)] == [1, 2]
    left.close()
    levels = [10, 20, 30, 40, 50]
    assert [int(luma[0, 0]) for luma in reuse.restore(shown(levels))] == levels


def test_an_unchanged_macroblock_keeps_the_qp_it_was_coded_with(rng: np.random.Generator) -> None:
    luma = rng.integers(0, 256, (32, 48), dtype=np.uint8)
    later = luma.copy()
    later[20, 40] ^= 1
    maps = [np.full((2, 3), 20, np.int16), np.full((2, 3), 45, np.int16)]
    for reuse in (True, False):
        network = Counting()
        options = RestoreOptions("cpu", reuse=reuse, batch_size=1)
        pictures = [Picture(luma, qp=maps[0]), Picture(later, qp=maps[1])]
        list(Restorer(network, options, (32, 48)).restore(pictures))
        seen = (network.planes[-1][0, 0, ::16, ::16] * 51).round()
        assert seen.tolist() == [[20, 20, 20], [20, 20, 45]]


@pytest.mark.parametrize("ahead", [0, 2])
def test_boxes_that_a_kernel_rounds_otherwise_are_found_out_and_given_up(
    rng: np.random.Generator, ahead: int
) -> None:
    parts: list[Box] = []

    def whole(pictures: Iterable[Picture]) -> Iterator[Luma]:
        return (picture.luma + 1 for picture in pictures)

    def part(picture: Picture, box: Box) -> Callable[[], Luma]:
        parts.append(box)
        return lambda: picture.luma[box.top : box.bottom, box.left : box.right] + 2

    given = [replace(picture, qp=None) for picture in quiet(rng, 12)]
    reuse = Reuse(whole, part, 17, doubtful=True, ahead=ahead)
    for luma, picture in zip(reuse.restore(settle(given)), given, strict=True):
        assert np.array_equal(luma, picture.luma + 1)
    assert 1 <= len(parts) <= len({box.shape for box in parts}) * (1 + ahead) < len(given)


def test_size_depth_and_fields_may_change_in_the_stream(rng: np.random.Generator) -> None:
    still = quiet(rng, 2, (64, 96))
    deep = [Picture(p.luma.astype(np.uint16) * 4, depth=10) for p in still]
    fields = [replace(p, interlaced=True) for p in still]
    given = [*still, *deep, *fields, *quiet(rng, 2, (48, 64)), *deep]
    for restored in (
        list(Restorer(Counting(), RestoreOptions("cpu"), (64, 96)).restore(given)),
        list(Restorer(Fast(), RestoreOptions("cpu"), (64, 96)).restore(given)),
    ):
        for luma, picture in zip(restored, given, strict=True):
            assert luma.shape == picture.luma.shape
            assert luma.dtype == picture.luma.dtype
            assert np.abs(luma.astype(int) - picture.luma).max() <= 1 << (picture.depth - 8)


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (17, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_changed_sample_marks_its_macroblock(
    rng: np.random.Generator, size: tuple[int, int], dtype: type
) -> None:
    luma = rng.integers(0, 256, size).astype(dtype)
    for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 2)):
        later = luma.copy()
        later[y, x] ^= 1
        changed = changed_blocks(later, luma)
        assert np.argwhere(changed).tolist() == [[y // 16, x // 16]]
        assert changed.shape == (-(-size[0] // 16), -(-size[1] // 16))
