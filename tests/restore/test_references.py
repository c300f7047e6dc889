"""`best`: which frames help to restore a frame, and that any of them may be missing."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from carfilter.media.options import TargetOptions
from carfilter.pictures import Picture
from carfilter.restore.int8.calibration import calibrate
from carfilter.restore.int8.convolutions import torch_is_exact
from carfilter.restore.network import Best, BestConfig, Fast, FastConfig, grow, mac_per_pixel
from carfilter.restore.references import with_references
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import save_weights
from carfilter.restore.window import Coding, choose
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import filter_video, restored_frames
from clips import make_clip

TYPES = {"I": 1, "P": 2, "B": 3, "?": 0}


def chosen(types: str, at: int, qps: dict[str, float] | None = None) -> list[int | None]:
    return choose([Coding(TYPES[kind], (qps or {}).get(kind)) for kind in types], at)


def picture(kind: str, level: int, size: tuple[int, int] = (48, 64)) -> Picture:
    return Picture(np.full(size, level, np.uint8), frame_type=TYPES[kind])


def scene(types: str, size: tuple[int, int] = (48, 64)) -> list[Picture]:
    """Pictures whose level is their number."""
    return [picture(kind, number, size) for number, kind in enumerate(types)]


class Counted:
    """Pictures, and how many of them were taken so far."""

    def __init__(self, pictures: list[Picture]) -> None:
        self.pictures, self.taken = pictures, 0

    def __iter__(self) -> Iterator[Picture]:
        for one in self.pictures:
            self.taken += 1
            yield one


def levels(given: Picture) -> list[int | None]:
    return [None if seen is None else int(seen.luma[0, 0]) for seen in given.references]


def awake(**config: int) -> Best:
    torch.manual_seed(5)
    network = Best(BestConfig(channels=16, body=3, **config)).eval().requires_grad_(False)
    network.tail.weight.mul_(20)
    network.head.bias.uniform_(-0.1, 0.1)
    return network


def noisy_scene(rng: np.random.Generator, types: str, size: tuple[int, int]) -> list[Picture]:
    blocks = (-(-size[0] // 16), -(-size[1] // 16))
    still = rng.integers(40, 200, (size[0] // 8 + 1, size[1] // 8 + 1)).repeat(8, 0).repeat(8, 1)
    return [
        Picture(
            (still[: size[0], : size[1]] + rng.normal(0, 3, size)).round().astype(np.uint8),
            qp=rng.integers(20, 45, blocks).astype(np.int16) if number % 3 else None,
            frame_type=TYPES[kind],
        )
        for number, kind in enumerate(types)
    ]


def test_two_key_frames_to_each_side_and_the_neighbours_are_chosen() -> None:
    assert chosen("IPPIPPIPPIPP", 5) == [3, 0, 6, 9, 4, 6]


def test_a_key_frame_looks_at_the_others() -> None:
    assert chosen("IPPIPPIPPIPP", 3) == [0, None, 6, 9, 2, 4]


def test_where_no_key_frame_is_a_clearly_better_frame_near_by_stands_in() -> None:
    qps = {"I": 20.0, "P": 24.0, "B": 30.0}
    assert chosen("IPBBBPBBBP", 3, qps) == [0, 1, 5, 9, 2, 4]
    # A frame that is as good as its neighbours borrows from none of them.
    assert chosen("PPPPPPP", 3, qps) == [None, None, None, None, 2, 4]


def test_frame_types_stand_in_for_qps_that_no_decoder_gave() -> None:
    assert chosen("IPBBBPBBBP", 3) == [0, 1, 5, 9, 2, 4]
    assert chosen("????", 1) == [None, None, None, None, 0, 2]


def test_the_stream_hands_out_what_the_rule_says_for_the_whole_clip() -> None:
    types = "IPPPIBPBPIPPPPIP" * 3
    expected = [choose([Coding(TYPES[kind]) for kind in types], at) for at in range(len(types))]
    given = list(with_references(scene(types), 64))
    assert [seen.luma[0, 0] for seen in given] == list(range(len(types)))
    assert [levels(seen) for seen in given] == expected


def test_without_lookahead_no_picture_waits_and_none_sees_the_future() -> None:
    source = Counted(scene("IPPIPPIPP"))
    for number, seen in enumerate(with_references(source, 0)):
        assert source.taken == number + 1
        assert all(level is None or level < number for level in levels(seen))
    assert source.taken == 9


@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_what_waits_is_bounded_by_the_lookahead(lookahead: int) -> None:
    source = Counted(scene("I" + "P" * 99))
    for number, _ in enumerate(with_references(source, lookahead)):
        assert source.taken - number <= lookahead + 1  # itself and those ahead


def test_what_waits_is_bounded_in_bytes() -> None:
    source = Counted(scene("I" + "P" * 30))
    for number, _ in enumerate(with_references(source, 64, most_bytes=5 * 48 * 64)):
        assert source.taken - number <= 6


def test_past_pictures_are_let_go() -> None:
    *_, newest = with_references(scene("I" + "P" * 60), 4)
    last = [seen for seen in newest.references if seen is not None]
    assert all(not seen.references for seen in last)


def test_a_scene_cut_and_a_change_of_size_empty_the_memory() -> None:
    dark, bright = scene("IPP"), [picture(kind, 200) for kind in "PPI"]
    for number, seen in enumerate(with_references([*dark, *bright], 64)):
        same = [level is None or (level < 100) == (number < 3) for level in levels(seen)]
        assert all(same)
    mixed = [*scene("IPP"), *scene("IPP", (32, 32))]
    for seen in with_references(mixed, 64):
        assert {r.luma.shape for r in seen.references if r is not None} <= {seen.luma.shape}


def test_best_costs_what_the_design_allows() -> None:
    assert mac_per_pixel(Best()) == 35_316
    assert mac_per_pixel(Best()) <= 100_000


def test_a_missing_reference_is_as_if_it_were_the_frame_itself() -> None:
    network, luma = awake(), torch.rand(1, 1, 50, 70) * 2 - 1
    qp = torch.full_like(luma, 0.6)
    own = (luma.expand(-1, 6, -1, -1), qp.expand(-1, 6, -1, -1))
    assert torch.equal(network(luma, qp), network(luma, qp, *own))


def test_a_reference_that_shows_something_else_cannot_add_more_than_its_clip() -> None:
    network, luma = awake(), torch.zeros(1, 1, 32, 32)
    qp = torch.full_like(luma, 0.6)
    far = [network(luma, qp, torch.full((1, 6, 32, 32), v), qp.expand(-1, 6, -1, -1))
           for v in (0.3, 0.9)]  # fmt: skip
    assert torch.equal(*far)


def test_best_grown_from_fast_restores_as_it_does_whatever_the_references() -> None:
    torch.manual_seed(1)
    fast = Fast(FastConfig(channels=16, body=3)).eval()
    best, luma = grow(fast), torch.rand(1, 1, 50, 70) * 2 - 1
    qp = torch.full_like(luma, 0.6)
    others = (torch.rand(1, 6, 50, 70) * 2 - 1, qp.expand(-1, 6, -1, -1))
    assert torch.allclose(best(luma, qp, *others), fast(luma, qp), atol=1e-6)


@pytest.mark.parametrize("size", [(96, 128), (51, 77)])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"tile": 64}, {"lookahead": 0}])
def test_restored_frames_are_all_there_in_order_and_depend_on_no_batch_or_tile(
    rng: np.random.Generator, size: tuple[int, int], options: dict[str, int]
) -> None:
    network, given = awake(), noisy_scene(rng, "IPPIPPPIPP", size)
    basis = RestoreOptions("cpu", "fp32", batch_size=1, qp=None)
    expected = network_by_hand(network, given, options.get("lookahead", 64))
    results = list(Restorer(network, replace(basis, **options), size).restore(given))
    assert len(results) == len(given)
    for a, b in zip(expected, results, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
    assert any((a != p.luma).any() for a, p in zip(results, given, strict=True))


def network_by_hand(network: Best, given: list[Picture], lookahead: int) -> list[np.ndarray]:
    """Restore each picture on its own, from the rule and the network alone."""

    def plane(of: Picture) -> torch.Tensor:
        if of.qp is None:
            return torch.full(of.luma.shape, -1.0)
        rows, columns = of.luma.shape
        values = torch.from_numpy(of.qp.repeat(16, 0).repeat(16, 1)[:rows, :columns]).float()
        return values / 51

    results = []
    codings = [Coding(p.frame_type, None if p.qp is None else float(p.qp.mean())) for p in given]
    for at, one in enumerate(given):
        seen = given[: at + 1 + lookahead]
        others = [
            one if index is None else seen[index] for index in choose(codings[: len(seen)], at)
        ]
        lumas = [torch.from_numpy(p.luma).float() / 128 - 1 for p in (one, *others)]
        planes = [plane(p) for p in (one, *others)]
        correction = network(
            lumas[0][None, None], planes[0][None, None],
            torch.stack(lumas[1:])[None], torch.stack(planes[1:])[None],
        )  # fmt: skip
        levels = ((lumas[0] + correction[0, 0]) * 128 + 128).round().clamp(0, 255)
        results.append(levels.numpy().astype(np.uint8))
    return results


@pytest.mark.skipif(not torch_is_exact(), reason="this CPU or torch has no int8 kernels")
@pytest.mark.parametrize("size", [(96, 128), (51, 77)])
def test_best_in_int8_is_close_to_fp32(rng: np.random.Generator, size: tuple[int, int]) -> None:
    network, given = awake(), noisy_scene(rng, "IPPIPPPIPP", size)
    lumas = [torch.from_numpy(p.luma).float()[None, None] / 128 - 1 for p in given]
    inputs = (
        (a, torch.full_like(a, own), b.expand(-1, 6, -1, -1), torch.full((1, 6, *size), other))
        for a, b in pairwise(lumas)
        for own, other in ((-1.0, -1.0), (-1.0, 0.5), (0.5, -1.0), (0.4, 0.8), (0.8, 0.4))
    )
    ranges = calibrate(network, inputs)
    exact, quick = (
        list(Restorer(network, RestoreOptions("cpu", kind, qp=None), size, ranges).restore(given))
        for kind in ("fp32", "int8")
    )
    for a, b, p in zip(exact, quick, given, strict=True):
        correction = np.abs(a.astype(int) - p.luma).mean()
        assert correction > 0.5
        assert np.abs(a.astype(int) - b).mean() < 0.2 * correction


def test_fields_borrow_from_fields_of_the_same_lines(rng: np.random.Generator) -> None:
    network = awake()
    given = [replace(p, interlaced=True) for p in noisy_scene(rng, "IPIP", (64, 48))]
    results = list(Restorer(network, RestoreOptions("cpu", "fp32"), (64, 48)).restore(given))
    for parity in (0, 1):
        fields = [
            replace(
                p,
                luma=p.luma[parity::2].copy(),
                qp=None if p.qp is None else np.full((2, 3), round(p.qp.mean()), np.int16),
                interlaced=False,
            )
            for p in given
        ]
        expected = Restorer(network, RestoreOptions("cpu", "fp32"), (32, 48)).restore(fields)
        for a, b in zip(expected, results, strict=True):
            assert np.abs(a.astype(int) - b[parity::2]).max() <= 1


def test_what_keeps_still_in_the_decode_keeps_still_when_restored(
    rng: np.random.Generator,
) -> None:
    moving = noisy_scene(rng, "IPPPPIPP", (48, 96))
    still = moving[0].luma[:, :64]
    pictures = [
        replace(seen, luma=np.concatenate([still, seen.luma[:, 64:]], 1)) for seen in moving
    ]
    network = awake()
    options = RestoreOptions("cpu", "fp32")
    restored = list(Restorer(network, options, (48, 96)).restore(pictures))
    for before, after in pairwise(restored):
        assert np.array_equal(before[:, :64], after[:, :64])
        assert not np.array_equal(before[:, 64:], after[:, 64:])
    # The network itself sees other neighbours in each picture, and answers otherwise.
    alone = [next(Restorer(network, options, (48, 96)).restore(pictures[at:])) for at in (0, 1)]
    assert not np.array_equal(alone[0][:, :64], alone[1][:, :64])


@pytest.mark.parametrize("lookahead", [0, 3, 64])
def test_a_file_comes_through_whole_at_any_lookahead(tmp_path: Path, lookahead: int) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=24, audio="aac", options={"g": "6"})
    weights = tmp_path / "best.pt"
    save_weights(weights, awake())
    options = FilterOptions(
        target=TargetOptions(video_codec="ffv1"), restore=RestoreOptions(lookahead=lookahead)
    )
    run = filter_video(source, tmp_path / "out.mkv", weights, options)
    assert run.frames == 24
    decoded = list(
        restored_frames(source, options=FilterOptions(restore=RestoreOptions(strength=0)))
    )
    restored = list(restored_frames(source, weights, options))
    assert [f.pts for f in restored] == [f.pts for f in decoded]
