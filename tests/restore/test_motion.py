"""References are moved along the motion between pictures, in the filter as in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carfilter.pairs.packs import Twin, save_clean, save_twin
from carfilter.pictures import Luma, Picture
from carfilter.restore.motion import kernels
from carfilter.restore.motion.scene import Scene
from carfilter.restore.references import with_references
from carfilter.training.dataset import load_pairs
from moving import pan, passing, scene_of, without_compiler

KEY_EVERY = 6


def apart(one: Luma, other: Luma) -> float:
    """Mean absolute difference away from the borders, where a pan shows something new."""
    inner = slice(24, -24), slice(32, -32)
    return float(np.abs(one[inner].astype(int) - other[inner]).mean())


@pytest.mark.parametrize("camera", [pan, passing])
@pytest.mark.parametrize(("size", "depth"), [((131, 197), 8), ((70, 90), 10)])
def test_motion_is_the_same_with_and_without_a_compiler(
    size: tuple[int, int], depth: int, camera: Any
) -> None:
    if kernels.library() is None:
        pytest.skip("motion.c was not compiled here")
    way = {"step": (2.3, 1.1)} if camera is pan else {}
    pictures = camera(4, size, depth=depth, **way)
    compiled = scene_of(pictures, depth)
    pairs = [(0, 1), (2, 1), (0, 3), (3, 0)]
    expected = [(compiled.field(*pair), compiled.moved(*pair)) for pair in pairs]
    with without_compiler():
        plain = scene_of(pictures, depth)
        for pair, (field, moved) in zip(pairs, expected, strict=True):
            assert np.array_equal(plain.field(*pair), field)
            assert np.array_equal(plain.moved(*pair), moved)


@pytest.mark.parametrize("depth", [8, 10])
def test_a_pan_is_followed_between_pixels_and_across_pictures(depth: int) -> None:
    pictures = pan(9, (144, 208), (5.4, 0.0), depth)
    scene = scene_of(pictures, depth)
    inner = slice(8, -8), slice(12, -12)
    near, far = (np.median(scene.field(0, other)[inner], (0, 1)) / 16 for other in (1, 8))
    assert np.allclose(near, (-5.4, 0), atol=0.15)
    assert np.allclose(far, (-43.2, 0), atol=0.3)
    levels = 1 << (depth - 8)
    assert apart(pictures[0], pictures[8]) > 8 * levels
    assert apart(pictures[0], scene.moved(0, 8)) < 1.5 * levels


def test_a_camera_that_turns_fast_is_followed() -> None:
    first, second = pan(2, (288, 416), (36, 0))
    scene = scene_of([first, second])
    seen = slice(8, -8), slice(64, -16)  # what both show
    turned = np.abs(scene.moved(0, 1).astype(int) - first)[seen].mean()
    assert turned < 3 < 10 < np.abs(second.astype(int) - first)[seen].mean()


def test_what_keeps_still_stays_as_it_is() -> None:
    rng = np.random.default_rng(1)
    still = pan(1, (96, 128), (0, 0))[0]
    noisy = [(still + rng.normal(0, 2, still.shape)).round().astype(np.uint8) for _ in range(2)]
    equal = [noisy[0], noisy[0].copy()]
    assert scene_of(equal).moved(0, 1) is equal[1]
    moved = scene_of(noisy).moved(0, 1)
    assert np.mean(moved != noisy[1]) < 0.02


def test_only_what_moves_before_a_fixed_camera_is_moved() -> None:
    rng = np.random.default_rng(1)
    pictures = passing(4, (144, 208))
    coded = [one ^ rng.integers(0, 2, one.shape, np.uint8) for one in pictures]
    scene = scene_of(coded)
    field = scene.field(0, 3)
    assert field is not None
    assert np.allclose(np.median(field[8:14, 8:14], (0, 1)) / 16, (9, 0), atol=0.15)
    assert not field[20:].any()
    thing = slice(28, 60), slice(20, 60)
    apart = np.abs(scene.moved(0, 3)[thing].astype(int) - pictures[0][thing])
    assert apart.mean() < 1 < 5 < np.abs(pictures[3][thing].astype(int) - pictures[0][thing]).mean()


def test_nothing_is_searched_where_only_coding_differs() -> None:
    rng = np.random.default_rng(1)
    still = pan(1, (144, 208), (0, 0))[0]
    coded = [still ^ rng.integers(0, 4, still.shape, np.uint8) for _ in range(4)]
    scene = scene_of(coded)
    assert scene.field(0, 1) is scene.field(3, 0) is None
    assert scene.moved(3, 0) is coded[0]


def test_noise_is_followed_less_the_coarser_it_was_coded() -> None:
    rng = np.random.default_rng(1)
    still = pan(1, (144, 208), (0, 0))[0]
    noisy = [(still + rng.normal(0, 9, still.shape)).clip(0, 255).astype(np.uint8) for _ in "ab"]
    fields = [scene_of(noisy, qp=qp).field(0, 1) for qp in (20, 35, 50)]
    fine, middle, coarse = (np.abs(field).mean() for field in fields)
    assert np.array_equal(fields[1], scene_of(noisy).field(0, 1))  # where the QP is not known
    assert 10 * coarse < middle < 0.9 * fine
    panned = scene_of(pan(2, (144, 208), (5.4, 0.0)), qp=38).field(0, 1)
    assert np.allclose(np.median(panned[8:-8, 12:-12], (0, 1)) / 16, (-5.4, 0), atol=0.15)


def pictures_of(lumas: list[Luma], **known: Any) -> list[Picture]:
    return [
        Picture(luma, frame_type=1 if number % KEY_EVERY == 0 else 2, **known)
        for number, luma in enumerate(lumas)
    ]


@pytest.mark.parametrize("lookahead", [0, 64])
def test_references_show_what_the_picture_shows(lookahead: int) -> None:
    lumas = pan(14, (96, 160), (1.7, 0.6))
    for picture in with_references(pictures_of(lumas), lookahead):
        for reference in picture.references:
            assert reference is None or apart(picture.luma, reference.luma) < 3
    assert apart(lumas[0], lumas[6]) > 15


def test_references_of_interlaced_pictures_are_not_moved() -> None:
    lumas = pan(4, (96, 160), (3.7, 0.6))
    given = {id(luma) for luma in lumas}
    for picture in with_references(pictures_of(lumas, interlaced=True), 64):
        assert {id(r.luma) for r in picture.references if r is not None} <= given


@pytest.mark.parametrize("lookahead", [0, 64])
def test_what_is_let_go_of_a_scene_is_of_no_more_use(
    monkeypatch: pytest.MonkeyPatch, lookahead: int
) -> None:
    pictures = pictures_of(pan(26, (64, 96), (2.2, 0.4)))
    still = np.zeros((4, 6), np.bool_)
    for at in (4, 9, 15, 16):  # nothing is asked of these, and what follows has further to look
        pictures[at] = replace(pictures[at], luma=pictures[at - 1].luma, changed=still)
    sparing = list(with_references(pictures, lookahead))
    monkeypatch.setattr(Scene, "forget", lambda *_: None)
    for one, other in zip(sparing, with_references(pictures, lookahead), strict=True):
        for kept, known in zip(one.references, other.references, strict=True):
            assert (kept is None) == (known is None)
            assert kept is None or np.array_equal(kept.luma, known.luma)
        for kept_field, known_field in zip(one.motion, other.motion, strict=True):
            assert np.array_equal(kept_field, known_field)


def test_training_sees_the_references_of_the_filter(tmp_path: Path) -> None:
    lumas = pan(9, (64, 96), (2.2, 0.4))
    types = [1 if number % KEY_EVERY == 0 else 2 for number in range(len(lumas))]
    clean = np.stack(lumas)
    qp = np.full((len(lumas), 4, 6), 30, np.int8)
    save_clean(tmp_path, "pan", clean, {})
    save_twin(tmp_path, "pan", clean, Twin("a", clean, qp, np.array(types, np.uint8), {}))
    pairs = load_pairs(tmp_path, references=True)
    filtered = with_references(pictures_of(lumas, qp=qp[0].astype(np.int16)), 64)
    for picture, planes in zip(filtered, pairs.planes, strict=True):
        for reference, start in zip(picture.references, planes.tolist(), strict=True):
            trained = pairs.luma[start : start + clean[0].size].view(64, 96).numpy()
            seen = picture if reference is None else reference
            assert np.array_equal(trained, seen.luma)
