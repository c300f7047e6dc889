"""Where the stream tells no QP: what the bytes of key frames tell, and what is done with it."""

import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from carfilter import filter_video
from carfilter.commands.display import summary
from carfilter.media.clips import Clip, read_clip, write_clip
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.media.qp.measured import qp_of_bytes
from carfilter.media.source import Decoded, open_source
from carfilter.metrics import psnr
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import make_clip, tiny_weights

THROUGH = FilterOptions(target=TargetOptions(video_codec="ffv1"))


@pytest.fixture(scope="module")
def scene() -> Clip:
    """Half a second of drifting texture of all scales with edges, and a sensor's noise."""
    rng = np.random.default_rng(5)
    spectrum = np.fft.rfft2(rng.normal(size=(192, 320)))
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.rfftfreq(320)[None])
    waves = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / 320) ** 1.2)
    texture = 120 + 35 * waves / waves.std() + 40 * (np.arange(320) // 40 % 2)
    luma = np.stack([np.roll(texture, 2 * at, axis=1)[8:-8, 8:-8] for at in range(14)])
    noisy = (luma + rng.normal(0, 1.5, luma.shape)).clip(16, 235).astype(np.uint8)
    return Clip(noisy, np.full((14, 2, 88, 152), 128, np.uint8), Fraction(25))


def mean_qps(path: Path, **options: object) -> list[float | None]:
    """Return the mean QP of each frame as the filter is given it."""
    source = open_source(path, SourceOptions(qp_maps=True, **options))  # type: ignore[arg-type]
    try:
        frames = [event for event in source.events() if isinstance(event, Decoded)]
        return [None if f.qp is None else float(f.qp.mean()) for f in frames]
    finally:
        source.close()


@pytest.mark.parametrize("qp", [20, 26, 32, 38, 44])
def test_what_is_measured_is_near_what_the_decoder_tells(
    scene: Clip, tmp_path: Path, qp: int
) -> None:
    write_clip(tmp_path / "coded.mp4", scene, {"qp": str(qp), "bf": "0"})
    clip = read_clip(tmp_path / "coded.mp4", measure_qp="always")
    assert clip.qp is not None
    assert clip.measured_qp is not None
    assert clip.measured_qp.shape == clip.qp.shape
    for told, measured in zip(clip.qp, clip.measured_qp, strict=True):
        assert abs(float(told.mean()) - float(measured.mean())) <= 3


def test_a_clip_is_measured_only_where_it_is_asked_for(scene: Clip, tmp_path: Path) -> None:
    write_clip(tmp_path / "told.mp4", scene, {"qp": "32", "bf": "0"})
    told = read_clip(tmp_path / "told.mp4", measure_qp="where unknown")
    assert told.qp is not None
    assert told.measured_qp is not None
    assert (told.measured_qp == told.qp).all()
    assert read_clip(tmp_path / "told.mp4").measured_qp is None


def test_ten_bits_are_measured_as_eight(scene: Clip) -> None:
    luma = scene.luma[0]
    eight, ten = qp_of_bytes(luma, 8, 9000), qp_of_bytes(luma.astype(np.uint16) * 4, 10, 9000)
    assert eight == ten
    assert qp_of_bytes(luma, 8, 3000) > eight + 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (17, 33)])
def test_tiny_and_flat_pictures_can_be_measured(shape: tuple[int, int]) -> None:
    assert 18 <= qp_of_bytes(np.full(shape, 128, np.uint8), 8, 50) <= 51


def test_other_codecs_are_measured_and_their_key_frames_are_the_finer_ones(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv", codec="libvpx", size=(128, 96), context={"gop_size": 40}
    )
    key, *others = mean_qps(source)
    assert key is not None
    assert len(others) == 11
    assert set(others) == {key + 3}


def test_coarser_coding_is_measured_as_a_greater_qp(tmp_path: Path) -> None:
    found = []
    for q in ("10", "30", "60"):
        options = {"crf": q, "qmin": q, "qmax": q, "b": "9M"}
        source = make_clip(tmp_path / "in.webm", codec="libvpx", options=options, size=(320, 192))
        found.append(mean_qps(source)[0] or 0.0)
    assert found == sorted(found)
    assert found[2] >= found[0] + 10


def test_where_every_frame_is_a_key_frame_one_in_25_is_measured(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mov", codec="prores_ks", pix_fmt="yuv422p10le", frames=60, size=(320, 192)
    )
    qps = mean_qps(source)
    assert None not in qps
    changes = [at for at in range(1, 60) if qps[at] != qps[at - 1]]
    assert set(changes) <= {26, 52}


@pytest.mark.parametrize("codec", ["ffv1", "rawvideo"])
def test_lossless_video_tells_nothing(tmp_path: Path, codec: str) -> None:
    assert mean_qps(make_clip(tmp_path / "in.nut", codec=codec)) == [None] * 12


@pytest.mark.parametrize("codec", ["mpeg4", "libx265", "libsvtav1"])
def test_a_qp_that_is_given_is_neither_read_nor_measured(tmp_path: Path, codec: str) -> None:
    source = make_clip(tmp_path / "in.mp4", codec=codec)
    assert mean_qps(source, measures_qp=False) == [None] * 12


def test_the_run_says_that_it_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_clip(tmp_path / "in.webm", codec="libvpx")
    weights = tiny_weights(tmp_path / "tiny.pt")
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", weights, THROUGH)
    assert "measured by the bytes of its key frames" in caplog.text
    assert run.mean_qp is not None
    assert f"mean QP {run.mean_qp:.1f} (measured)" in summary(run)

    given = replace(THROUGH, source=SourceOptions(measures_qp=False), restore=RestoreOptions(qp=30))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "again.mkv", weights, given)
    assert "taken as 30, as given" in caplog.text
    assert "mean QP unknown" in summary(run)


def test_footage_that_was_encoded_twice_gains_by_a_qp_that_is_given(
    scene: Clip, tmp_path: Path
) -> None:
    write_clip(tmp_path / "coarse.mp4", scene, {"qp": "38", "bf": "0"})
    write_clip(tmp_path / "again.mp4", read_clip(tmp_path / "coarse.mp4"), {"qp": "12", "bf": "0"})
    gains = []
    for reads, qp in ((True, 26), (False, 38)):
        options = replace(
            THROUGH, source=SourceOptions(measures_qp=reads), restore=RestoreOptions(qp=qp)
        )
        out = tmp_path / f"{qp}.mkv"
        filter_video(tmp_path / "again.mp4", out, "fast", options)
        gains.append(np.mean(list(map(psnr, scene.luma, read_clip(out).luma))))
    assert gains[1] > gains[0] + 0.1
