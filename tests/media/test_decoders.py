"""Every decoder a camera needs: each frame restored, none lost, and whether its QP is known."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter import filter_video
from carfilter.media.options import TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import Model
from carfilter.run.options import FilterOptions
from clips import equal_planes, make_clip, read_content, tiny_weights

LOSSLESS = FilterOptions(target=TargetOptions(video_codec="ffv1"))
B_FRAMES = {"bf": "2"}
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("in.mp4", {"codec": "libx264", "options": B_FRAMES}),
    "hevc": (
        "in.mp4",
        {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=2"}},
    ),
    "mpeg2video": ("in.ts", {"codec": "mpeg2video", "options": B_FRAMES}),
    "mpeg1video": ("in.mpg", {"codec": "mpeg1video", "options": B_FRAMES}),
    "mpeg4": ("in.avi", {"codec": "mpeg4", "options": B_FRAMES}),
    "mjpeg": ("in.avi", {"codec": "mjpeg", "pix_fmt": "yuvj422p"}),
    "vp8": ("in.webm", {"codec": "libvpx"}),
    "vp9": ("in.webm", {"codec": "libvpx-vp9"}),
    "av1": ("in.mkv", {"codec": "libsvtav1", "options": {"preset": "10"}}),
    "prores": ("in.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "ffv1": ("in.mkv", {"codec": "ffv1"}),
    "flv1": ("in.flv", {"codec": "flv"}),
    "wmv2": ("in.asf", {"codec": "wmv2"}),
}


class Darker(nn.Module):
    """Takes seven levels off, and keeps what it was told of the QP."""

    uses_qp, halo, live_bytes = True, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.qp: list[Tensor | None] = []
        self.heights: list[int] = []

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
        self.qp += [None] * len(luma) if qp is None else list(qp)
        self.heights += [luma.shape[-2]] * len(luma)
        return torch.full_like(luma, -7 / 128)


def model(network: nn.Module) -> Model:
    return Model(network, "darker", "0" * 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_of_a_decoder_is_restored_and_its_qp_is_told_measured_or_assumed(
    tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, clip = CODECS[codec]
    source = make_clip(tmp_path / name, frames=24, size=(128, 96), **clip)
    with av.open(str(source)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
    network = Darker()
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", model(network), LOSSLESS)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert run.frames == len(before.luma) == len(after.luma) == 24
    step = 28 if codec == "prores" else 7
    for old, new in zip(before.luma, after.luma, strict=True):
        assert np.array_equal(new, np.maximum(old.astype(int) - step, 0))
    assert equal_planes(after.chroma, before.chroma)
    measured, lossless = codec in ("vp8", "prores"), codec == "ffv1"
    assert run.qp_frames == (0 if lossless else 24)
    assert run.qp_measured == measured
    assert run.qp_converted == (not measured and not lossless and codec != "h264")
    assumed = [bool((qp == torch.tensor(26 / 51)).all()) for qp in network.qp if qp is not None]
    assert len(assumed) == 24
    assert all(assumed) == lossless
    assert ("taken as 26; --qp sets another" in caplog.text) == lossless
    assert ("measured by the bytes of its key frames" in caplog.text) == measured


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize(("field", "order"), [("tff=1", 2), ("bff=1", 3)])
def test_interlaced_pictures_are_restored_by_fields_and_stay_interlaced(
    tmp_path: Path, container: str, field: str, order: int
) -> None:
    source = make_clip(tmp_path / f"in.{container}", size=(128, 96), options={"x264-params": field})
    network, target = Darker(), tmp_path / f"out.{container}"
    run = filter_video(source, target, model(network))
    assert run.frames == 12
    assert network.heights == [48] * 24
    for path in (source, target):
        with av.open(str(path)) as opened:
            frames = list(opened.decode(video=0))
            assert opened.streams.video[0].codec_context.field_order == order
            assert len(frames) == 12
            assert all(frame.interlaced_frame for frame in frames)


def test_an_encoder_without_fields_is_told_of_interlaced_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(128, 96), options={"x264-params": "tff=1"})
    options = FilterOptions(
        target=TargetOptions(video_codec="libx265"), restore=RestoreOptions(strength=0)
    )
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        filter_video(source, tmp_path / "out.mp4", options=options)
    assert "interlaced, but libx265 codes whole pictures: use libx264" in caplog.text


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_and_sample_aspect_ratio_stay(
    tmp_path: Path, container: str, degrees: int
) -> None:
    source, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    clip = make_clip(tmp_path / "clip.mkv", context={"sample_aspect_ratio": Fraction(16, 11)})
    with av.open(str(clip)) as given, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0], opaque=True)
        stream.set_display_rotation(degrees)
        for packet in given.demux():
            if packet.size:
                packet.stream = stream
                out.mux_one(packet)
    filter_video(source, target, tiny_weights(tmp_path / "tiny.pt"))
    seen = []
    for path in (source, target):
        with av.open(str(path)) as opened:
            frame = next(opened.decode(video=0))
            ratio = opened.streams.video[0].sample_aspect_ratio
            seen.append((frame.rotation, ratio.numerator, ratio.denominator, frame.width))
    assert seen[0] == seen[1]
    assert seen[0][0] % 360 in (degrees, 360 - degrees)
    assert seen[0][1:] == (16, 11, 64)
