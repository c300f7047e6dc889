"""-hwaccel and encoders on a GPU: used where they open, else software with one line saying so."""

import logging
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.encoder import _encoder_options
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import equal_planes, make_clip, read_content

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def options(hwaccel: str | None = None, **target: object) -> FilterOptions:
    return FilterOptions(
        SourceOptions(hwaccel=hwaccel),
        TargetOptions(**{"video_codec": "ffv1", **target}),  # type: ignore[arg-type]
        RestoreOptions(strength=0),
    )


@without_gpu
@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_hwaccel_without_a_gpu_decodes_in_software_and_says_so(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mp4", audio="aac")
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", options=options(name))
    assert run.frames == 12
    assert [f"-hwaccel {name}: cannot be used here" in r.message for r in caplog.records] == [True]
    assert "decoding in software" in caplog.text
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert equal_planes(after.planes, before.planes)


@without_gpu
def test_hwaccel_on_a_pipe_loses_nothing_by_the_trial(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    given = ["-", tmp_path / "out.mkv", "-hwaccel", "cuda", "--strength", "0", "-c:v", "ffv1"]
    command = [sys.executable, "-c", "from carfilter.commands.restore import main; main()", *given]
    with source.open("rb") as stdin:
        run = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True)
    assert "decoding in software" in run.stderr
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert equal_planes(after.planes, before.planes)


def test_hwaccel_none_is_software_and_a_wrong_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mkv")
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        filter_video(source, tmp_path / "out.mkv", options=options("none"))
    assert not caplog.records
    with pytest.raises(MediaError, match="-hwaccel cudda: there is no such device; give cuda"):
        filter_video(source, tmp_path / "never.mkv", options=options("cudda"))


@without_gpu
@pytest.mark.parametrize(
    ("asked", "used"),
    [("h264_nvenc", "libx264"), ("hevc_nvenc", "libx265"), ("av1_nvenc", "libsvtav1")],
)
def test_nvenc_that_does_not_open_is_replaced_and_told(
    tmp_path: Path, asked: str, used: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(128, 96))
    given = options(
        video_codec=asked, encoder=(("preset", "p7"), ("rc", "vbr"), ("b", "900k"), ("g", "5"))
    )
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", options=given)
    assert run.frames == 12
    told = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert told == [
        f"-c:v {asked}: cannot be opened here; encoding with {used} in software,"
        " without -preset p7, -rc vbr"
    ]
    assert f"encode with {used}" in caplog.text
    with av.open(str(tmp_path / "out.mkv")) as made:
        keys = [p.pts for p in made.demux(made.streams.video[0]) if p.size and p.is_keyframe]
    assert len(keys) == 3  # -g 5 went along


@pytest.mark.cuda
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_nvdec_gives_the_frames_of_the_software_decoder(
    tmp_path: Path, pix_fmt: str, caplog: pytest.LogCaptureFixture
) -> None:
    codec = "libx264" if pix_fmt == "yuv420p" else "libx265"
    source = make_clip(
        tmp_path / "in.mp4", frames=50, size=(320, 240), codec=codec, pix_fmt=pix_fmt
    )
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", options=options("cuda"))
    assert not caplog.records
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert run.frames == 50
    assert after.seconds == before.seconds
    assert equal_planes(after.planes, before.planes)


@pytest.mark.parametrize(
    ("given", "quality"),
    [({}, "19"), ({"preset": "p7"}, "19"), ({"b": "9M"}, None), ({"qp": "20"}, None)],
)
def test_nvenc_gets_a_quality_where_no_rate_is_given(
    given: dict[str, str], quality: str | None
) -> None:
    context = av.CodecContext.create("h264_nvenc", "w")
    assert isinstance(context, av.VideoCodecContext)
    chosen = _encoder_options(context, "h264_nvenc", dict(given), verbose=False)
    assert chosen.get("cq") == quality
    assert chosen.get("rc") == ("vbr" if quality else None)
    assert chosen.get("b") == ("0" if quality else given.get("b"))
