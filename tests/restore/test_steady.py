"""A fixed camera's background keeps still; what moves, and a moving camera, are left alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

import carfilter.restore.steady
from carfilter.media.frames import copy_luma
from carfilter.metrics import psnr
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.steady import Restored, steadied
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import restored_frames

PLAZA = Path(__file__).parents[2] / "samples" / "plaza.mp4"
Planes = npt.NDArray[np.uint8]
FIXED, MOVING = 0.8, 0.05  # shares of macroblocks that keep still
POOR, GOOD = 32.0, 18.0  # mean QPs


def breathing(frames: int = 40, size: tuple[int, int] = (40, 56)) -> Planes:
    """A still picture, each frame with errors of its own."""
    rng = np.random.default_rng(3)
    still = rng.integers(40, 200, size)
    return (still + rng.normal(0, 1.5, (frames, *size))).round().astype(np.uint8)


def seen(planes: Planes, still: float = FIXED, qp: float | None = POOR) -> list[Restored]:
    return [Restored(plane, 8, still if at else None, qp) for at, plane in enumerate(planes)]


def steady(planes: Planes, lookahead: int = 64, strength: float = 1.0) -> Planes:
    return np.stack(list(steadied(seen(planes), lookahead, strength)))


def unrest(planes: Planes) -> float:
    return float(np.abs(np.diff(planes.astype(np.int16), axis=0)).mean())


def test_errors_that_come_and_go_are_averaged_out() -> None:
    planes = breathing()
    assert unrest(steady(planes)) < 0.3 * unrest(planes)


def test_every_picture_comes_out_once_and_in_order() -> None:
    for frames in (1, 2, 8, 9, 30):
        levels = (np.arange(frames) * 40 % 240).astype(np.uint8)  # too far apart to be averaged
        planes = np.broadcast_to(levels[:, None, None], (frames, 20, 24))
        for lookahead in (0, 3, 64):
            assert (steady(planes, lookahead=lookahead) == planes).all()


def test_a_slow_change_does_not_lag_behind() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None] + 100, (40, 20, 24))
    calm = steady(ramp)
    assert (calm[12:-12] == ramp[12:-12]).all()  # where as much lies before as after
    assert np.abs(calm.astype(int) - ramp).max() <= 4  # at an end of the clip


def test_what_moves_leaves_no_trace() -> None:
    planes = breathing()
    for number, plane in enumerate(planes):
        plane[10:20, number : number + 8] = 230
        plane[30, number + 3] = 250  # no more than a pixel
    calm = steady(planes)
    for number in range(2, len(planes) - 2):
        assert (calm[number, 11:19, number + 1 : number + 7] == 230).all()
        assert calm[number, 30, number + 3] >= 249
        around = np.r_[calm[number, 30, : number + 2], calm[number, 30, number + 5 :]]
        assert around.max() < 210  # the brightest of the background is below


@pytest.mark.parametrize(("still", "qp"), [(MOVING, POOR), (FIXED, GOOD), (FIXED, None)])
def test_moving_cameras_good_video_and_unknown_qps_are_left(still: float, qp: float | None) -> None:
    planes = breathing()
    assert (np.stack(list(steadied(seen(planes, still, qp), 64))) == planes).all()


def test_the_past_alone_is_averaged_where_nothing_may_be_waited_for() -> None:
    planes = breathing()
    calm = steady(planes, lookahead=0)
    assert unrest(calm) < unrest(planes)
    assert (steady(planes[:20], lookahead=0) == calm[:20]).all()  # the later ones had no say


def test_a_picture_waits_for_no_more_than_the_look_ahead() -> None:
    taken = 0

    def counted() -> Iterator[Restored]:
        nonlocal taken
        for plane in breathing():
            taken += 1
            yield Restored(plane, 8, FIXED, POOR)

    results = steadied(counted(), 3)
    for number in range(1, 30):
        next(results)
        assert taken <= number + 3


def test_strength_goes_a_part_of_the_way() -> None:
    planes = breathing().astype(np.int16)
    whole, half = (steady(planes.astype(np.uint8), strength=s).astype(np.int16) for s in (1.0, 0.5))
    assert np.abs(half - (planes + whole) / 2).max() <= 1


def test_ten_bits_are_steadied_as_eight_are() -> None:
    planes = breathing()
    deep = [replace(one, luma=one.luma.astype(np.uint16) * 4, depth=10) for one in seen(planes)]
    ten = np.stack(list(steadied(deep, 64))) / 4
    assert np.abs(ten - steady(planes)).max() <= 0.5


@pytest.mark.parametrize(("depth", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_black_and_white_by_turns_stay_black_and_white(depth: int, kind: Any) -> None:
    planes = np.zeros((21, 9, 9), kind)
    planes[::2] = (1 << depth) - 1
    given = [Restored(plane, depth, FIXED, POOR) for plane in planes]
    assert (np.stack(list(steadied(given, 64))) == planes).all()


def test_large_pictures_wait_for_fewer_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carfilter.restore.steady, "_MOST_PIXELS", 40 * 56 * 6)
    pictures = iter(seen(breathing(20)))
    next(steadied(pictures, 64))
    assert len(list(pictures)) == 20 - 1 - 6


def test_before_a_camera_that_moves_half_as_many_pictures_wait() -> None:
    planes = breathing(100)
    moving = iter(seen(planes[:60], MOVING))
    next(steadied(moving, 64))
    fixed = iter(seen(planes[:60]))
    next(steadied(fixed, 64))
    assert 60 - len(list(moving)) < 0.6 * (60 - len(list(fixed)))
    # When it stops, what comes then is averaged as if it had been fixed from the start.
    turns = [*seen(planes[:40], MOVING), *seen(planes[40:])]
    calm = np.stack(list(steadied(turns, 64)))
    assert len(calm) == 100
    assert (calm[:20] == planes[:20]).all()
    assert unrest(calm[70:]) < 0.3 * unrest(planes[70:])


def test_another_size_starts_anew() -> None:
    small, large = breathing(12, (24, 32)), breathing(12, (40, 56))
    given = [*seen(small), *seen(large)]
    got = list(steadied(given, 64))
    assert [plane.shape for plane in got] == [plane.luma.shape for plane in given]


def filmed(path: Path, crf: int) -> Planes:
    """Encode a fixed camera's view with a little noise and a small thing that crosses it."""
    with av.open(str(PLAZA)) as container:
        view = next(container.decode(video=0)).to_ndarray(format="gray").astype(np.float32)
    rng = np.random.default_rng(1)
    clean = [view + rng.normal(0, 0.2, view.shape) for _ in range(52)]
    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream("libx264", rate=25)
        stream.height, stream.width = view.shape
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = {"crf": str(crf), "g": "25", "threads": "1"}
        for number, picture in enumerate(clean):
            picture[100:140, 3 * number : 3 * number + 24] = view[200:240, 40:64]
            clean[number] = picture.round().clip(16, 235).astype(np.uint8)
            gray = av.VideoFrame.from_ndarray(clean[number], format="gray")
            target.mux(stream.encode(gray.reformat(format="yuv420p", src_color_range="MPEG",
                                                   dst_color_range="MPEG")))  # fmt: skip
        target.mux(stream.encode(None))
    return np.stack(clean)


def quality(clean: Planes, planes: Planes) -> float:
    return float(np.mean([psnr(*pair) for pair in zip(clean, planes, strict=True)]))


@pytest.mark.parametrize("crf", [29, 41])
def test_the_flicker_of_a_fixed_camera_falls_by_a_third(tmp_path: Path, crf: int) -> None:
    source = tmp_path / "filmed.mp4"
    clean = filmed(source, crf)
    with av.open(str(source)) as container:
        decoded = np.stack([copy_luma(frame) for frame in container.decode(video=0)])
    options = FilterOptions(restore=RestoreOptions("cpu"))
    restored = np.stack([copy_luma(frame) for frame in restored_frames(source, "best", options)])
    assert unrest(restored[:, 160:]) < 2 / 3 * unrest(decoded[:, 160:])  # where nothing moves
    where = np.s_[:, 96:144]  # the band that the thing crosses
    assert quality(clean[where], restored[where]) > quality(clean[where], decoded[where])
