"""What is done with whole planes: the compiled way gives the very bits of numpy's."""

from itertools import pairwise

import numpy as np
import pytest

from carfilter.restore import follow, planes
from carfilter.restore.follow import Beside, along
from carfilter.restore.planes import CpuPlanes, Linked, average, changed_blocks, kept, links

pytestmark = pytest.mark.skipif(planes.compiled() is None, reason="not compiled for this CPU")

SIZES = [(16, 16), (33, 47), (64, 96), (45, 700), (1, 5)]


@pytest.fixture(params=SIZES, ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def drawn(
    rng: np.random.Generator, size: tuple[int, int], depth: int, count: int = 2
) -> list[np.ndarray]:
    """Pictures that differ a little here and there; their rows lie apart in memory."""
    kind = np.uint8 if depth == 8 else np.uint16
    wide = rng.integers(0, 1 << depth, (size[0] + 3, size[1] + 5)).astype(int)
    made = []
    for _ in range(count):
        noise = rng.integers(-20, 21, wide.shape) * (rng.random(wide.shape) < 0.3)
        noise[:, : wide.shape[1] // 2] = 0
        levels = (wide + noise).clip(0, (1 << depth) - 1).astype(kind)
        made.append(levels[3:, 5:])
    return made


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_what_changed_is_found_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int
) -> None:
    a, b = drawn(rng, size, depth)
    assert np.array_equal(changed_blocks(a, b), planes._changed_blocks(a, b))
    assert not changed_blocks(a, a.copy()).any()


@pytest.mark.parametrize("depth", [8, 10])
def test_what_did_not_change_is_kept_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int
) -> None:
    last, plane = drawn(rng, size, depth)
    changed = rng.random((-(-size[0] // 16), -(-size[1] // 16))) < 0.5
    wanted = planes._kept(plane.copy(), last, changed)
    assert np.array_equal(kept(plane, last, changed), wanted)


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_how_alike_pictures_are_is_the_same_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int
) -> None:
    a, b = drawn(rng, size, depth)
    level = 4.8 * (1 << (depth - 8))
    link = links(a, b, depth, level, 0.96)
    assert np.array_equal(link.apart, planes._apart(a, b, len(link.table) - 2))


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_only_marked_blocks_go_on_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = drawn(rng, size, depth)
    marks = rng.random((-(-size[0] // 4), -(-size[1] // 4))) < 0.5
    made = links(a, b, depth, 4.8, 0.96, marks)
    monkeypatch.setattr(planes, "compiled", lambda: None)
    assert np.array_equal(made.apart, links(a, b, depth, 4.8, 0.96, marks).apart)
    shares = made.table[made.apart]
    marked = marks.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
    assert not shares[~marked].any()
    assert shares[marked].all()


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_averages_are_the_same_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lumas = drawn(rng, size, depth, 9)
    level = 4.8 * (1 << (depth - 8))
    made = [links(a, b, depth, level, 0.96) for a, b in pairwise(lumas)]
    made[4] = None  # type: ignore[call-overload]  # where nothing goes on
    corner = np.zeros((-(-size[0] // 4), -(-size[1] // 4)), np.bool_)
    corner[0, 0] = True  # and where it does nowhere else
    for i in (1, 2, 6):
        made[i] = links(lumas[i], lumas[i + 1], depth, level, 0.96, corner)
    pictures = [Linked(*pair) for pair in zip(lumas, [None, *made], strict=True)]
    amounts = [1.0, 0.7, 0.0, 1.0, 0.31]
    start = rng.random((2, *size), dtype=np.float32) * 100
    past, by_numpy = start.copy(), start.copy()
    results = average(pictures, amounts, past)
    monkeypatch.setattr(planes, "compiled", lambda: None)
    for one, other in zip(results, average(pictures, amounts, by_numpy), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(past, by_numpy)


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_averages_along_motion_are_the_same_in_c_as_in_numpy(
    rng: np.random.Generator, size: tuple[int, int], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, luma, after = drawn(rng, size, depth, 3)
    blocks = -(-size[0] // 4), -(-size[1] // 4)
    first, last = (Beside(one, rng.random(blocks) < 0.3) for one in (before, after))
    ways = [(beside, 0.7) for beside in ((first, last), (first, None), (None, last))]
    ways.append(((first, last), 0.0))
    how = depth, 3.5 * (1 << (depth - 8))
    made = [along(CpuPlanes(), luma, beside, *how, amount) for beside, amount in ways]
    assert np.array_equal(made[-1], luma)
    assert size == (1, 5) or not np.array_equal(made[0], luma)
    for module in (planes, follow):
        monkeypatch.setattr(module, "compiled", lambda: None)
    for (beside, amount), one in zip(ways, made, strict=True):
        assert np.array_equal(along(CpuPlanes(), luma, beside, *how, amount), one)


def test_an_average_without_a_past_is_that_of_an_empty_one(
    rng: np.random.Generator, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lumas = drawn(rng, size, 8, 3)
    made = [links(a, b, 8, 4.8, 0.96) for a, b in pairwise(lumas)]
    pictures = [Linked(*pair) for pair in zip(lumas, [None, *made], strict=True)]
    wanted = average(pictures, [0.0, 1.0], np.zeros((2, *size), np.float32))
    assert np.array_equal(average(pictures, [0.0, 1.0], None), wanted)
    monkeypatch.setattr(planes, "compiled", lambda: None)
    assert np.array_equal(average(pictures, [0.0, 1.0], None), wanted)
