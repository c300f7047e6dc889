"""What moves is averaged with the pictures beside it along the motion; what keeps still is not."""

import numpy as np
import pytest

from carfilter.pictures import Luma
from carfilter.restore.follow import followed
from carfilter.restore.motion import kernels
from carfilter.restore.motion.scene import Scene
from carfilter.restore.steady import Restored
from moving import pan, passing, scene_of, without_compiler


def noisy(pictures: list[Luma]) -> list[Luma]:
    rng = np.random.default_rng(5)
    made = [one + rng.normal(0, 2.5, one.shape) for one in pictures]
    return [one.clip(0, 255).round().astype(np.uint8) for one in made]


def restored(pictures: list[Luma], scene: Scene, qp: float | None = 38) -> list[Restored]:
    return [
        Restored(luma, qp=qp, motion=scene.around(number)) for number, luma in enumerate(pictures)
    ]


def error(ones: list[Luma], others: list[Luma]) -> float:
    inner = slice(16, -16), slice(24, -24)
    pairs = zip(ones, others, strict=True)
    return float(np.mean([np.square(a[inner].astype(float) - b[inner]).mean() for a, b in pairs]))


@pytest.mark.parametrize(("lookahead", "left"), [(0, 0.75), (8, 0.65)])
def test_noise_on_a_moving_camera_averages_out(lookahead: int, left: float) -> None:
    clean = pan(6, (96, 160), (2.3, 1.1))
    given = noisy(clean)
    came = [one.luma for one in followed(restored(given, scene_of(given)), lookahead)]
    assert error(came, clean) < left * error(given, clean)


@pytest.mark.parametrize("qp", [None, 22.0])
def test_good_and_unknown_video_is_not_averaged(qp: float | None) -> None:
    given = noisy(pan(3, (96, 160), (2.3, 1.1)))
    came = followed(restored(given, scene_of(given), qp), 8)
    assert all(one.luma is luma for one, luma in zip(came, given, strict=True))


def test_what_keeps_still_is_left_to_the_bit() -> None:
    given = noisy(passing(4, (144, 208)))
    came = [one.luma for one in followed(restored(given, scene_of(given)), 8)]
    assert not np.array_equal(came[1][24:64], given[1][24:64])
    for one, luma in zip(came, given, strict=True):
        assert np.array_equal(one[90:], luma[90:])


def test_a_picture_that_is_shown_again_stays_the_same() -> None:
    first, second = noisy(pan(2, (96, 160), (2.3, 1.1)))
    motion = scene_of([first, second]).around(1)
    given = [
        Restored(first, qp=38),
        Restored(second, qp=38, motion=motion),
        Restored(second, qp=38, still=1.0),
    ]
    came = [one.luma for one in followed(given, 8)]
    assert not np.array_equal(came[1], second)
    assert np.array_equal(came[1], came[2])


def test_the_average_is_the_same_with_and_without_a_compiler() -> None:
    if kernels.library() is None:
        pytest.skip("motion.c was not compiled here")
    given = noisy(passing(3, (85, 131)))
    pictures = restored(given, scene_of(given))
    compiled = [one.luma for one in followed(pictures, 8)]
    with without_compiler():
        plain = [one.luma for one in followed(pictures, 8)]
    assert all(np.array_equal(a, b) for a, b in zip(compiled, plain, strict=True))
