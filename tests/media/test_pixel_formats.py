"""Every pixel format: luma through the network at its own depth and range, chroma untouched."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter import filter_video, restored_frames
from carfilter.errors import MediaError
from carfilter.media.conform import upright
from carfilter.media.frames import bit_depth, copy_luma, replace_luma, side_by_side
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import Model
from carfilter.run.options import FilterOptions
from clips import draw_frame, equal_planes, make_clip, read_content

PLANAR = [
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "gray", "yuva420p"),
    *("yuv420p9le", "yuv422p9le", "yuv444p9le", "gray9le"),
    *("yuv420p10le", "yuv422p10le", "yuv444p10le", "gray10le", "yuva444p10le"),
    *("yuv420p12le", "yuv422p12le", "yuv444p12le", "gray12le"),
    *("yuv420p16le", "yuv444p16le", "gray16le"),
]
SEMI_PLANAR = {
    "nv12": "nv12",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "p010le": "yuv420p10le",
    "p012le": "yuv420p12le",
    "p210le": "yuv422p10le",
    "p410le": "yuv444p10le",
}  # and what NUT can name of the same samples
LEVELS = 9  # of 8 bits, by which the network below makes the picture brighter
UNSPECIFIED, LIMITED, FULL = 0, 1, 2


class Brighter(nn.Module):
    """Adds nine levels, and keeps the sizes of what it was shown."""

    uses_qp, halo, live_bytes = False, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
        self.sizes += [(luma.shape[-1], luma.shape[-2])] * len(luma)
        return torch.full_like(luma, LEVELS / 128)


def model(network: nn.Module | None = None) -> Model:
    return Model(network or Brighter(), "brighter", "0" * 64)  # type: ignore[arg-type]


def write_frames(path: Path, frames: list[av.VideoFrame], codec: str, **tags: Any) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, time_base=Fraction(1, 25))
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def noise(number: int, size: tuple[int, int], pix_fmt: str) -> av.VideoFrame:
    """Every sample drawn from all that the format holds, from 0 to its peak."""
    frame = av.VideoFrame(*size, pix_fmt)
    depth, rng = bit_depth(frame.format), np.random.default_rng(number)
    shift = 16 - depth if pix_fmt.startswith("p") else 0
    for plane in frame.planes:
        rows: Any = np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16)
        rows[:] = rng.integers(0, 1 << depth, rows.shape) << shift
    return frame


def pictures(path: Path) -> list[tuple[str, int, np.ndarray, list[bytes]]]:
    """Format, range, luma and the visible bytes of the other planes, frame by frame."""
    seen = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            item = 1 if bit_depth(frame.format) == 8 else 2
            rest = []
            for plane in frame.planes[1:]:
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                paired = len(frame.planes) == 2 and not frame.format.name.startswith("ya")
                width = plane.width * item * (2 if paired else 1)
                rest.append(rows[: plane.height, :width].tobytes())
            seen.append((frame.format.name, int(frame.color_range), copy_luma(frame), rest))
    return seen


@pytest.mark.parametrize("colour_range", [UNSPECIFIED, LIMITED, FULL])
@pytest.mark.parametrize("size", [(64, 48), (71, 53)])
@pytest.mark.parametrize("pix_fmt", PLANAR)
def test_luma_moves_at_its_own_depth_and_everything_else_stays(
    tmp_path: Path, pix_fmt: str, size: tuple[int, int], colour_range: int
) -> None:
    frames = [noise(n, size, pix_fmt) for n in range(3)]
    for frame in frames:
        frame.color_range = colour_range
    source = write_frames(tmp_path / "in.mkv", frames, "ffv1", color_range=colour_range)
    options, target = FilterOptions(target=TargetOptions(video_codec="ffv1")), tmp_path / "out.mkv"
    assert filter_video(source, target, model(), options).frames == 3
    before, after = pictures(source), pictures(target)
    depth = bit_depth(av.VideoFormat(pix_fmt))
    for old, new in zip(before, after, strict=True):
        assert new[:2] == old[:2] == (pix_fmt, old[1])
        brighter = old[2].astype(int) + (LEVELS << (depth - 8))
        assert np.array_equal(new[2], np.minimum(brighter, (1 << depth) - 1))
        assert new[3] == old[3]
    if colour_range and "gray" not in pix_fmt:
        assert after[0][1] == colour_range


@pytest.mark.parametrize("size", [(64, 48), (71, 53)])
@pytest.mark.parametrize("pix_fmt", SEMI_PLANAR)
def test_semi_planar_formats_go_into_nut_sample_by_sample(
    tmp_path: Path, pix_fmt: str, size: tuple[int, int]
) -> None:
    frames = [noise(n, size, pix_fmt) for n in range(3)]
    raw = {"pixel_format": pix_fmt, "video_size": f"{size[0]}x{size[1]}"}
    source = write_frames(tmp_path / "in.yuv", frames, "rawvideo")
    options = FilterOptions(
        SourceOptions(format="rawvideo", options=tuple(raw.items())),
        TargetOptions(video_codec="rawvideo"),
    )
    assert filter_video(source, tmp_path / "out.nut", model(), options).frames == 3
    depth = bit_depth(av.VideoFormat(pix_fmt))
    after = pictures(tmp_path / "out.nut")
    assert {shown[0] for shown in after} == {SEMI_PLANAR[pix_fmt]}
    for frame, shown in zip(frames, after, strict=True):
        brighter = copy_luma(frame).astype(int) + (LEVELS << (depth - 8))
        assert np.array_equal(shown[2], np.minimum(brighter, (1 << depth) - 1))
        chroma = chroma_samples(frame)
        if SEMI_PLANAR[pix_fmt] == pix_fmt:
            assert shown[3] == [chroma.tobytes()]
        else:
            assert shown[3] == [chroma[:, i::2].tobytes() for i in (0, 1)]


def chroma_samples(frame: av.VideoFrame) -> np.ndarray:
    """The second plane [H, 2 W], shifted down to the depth of the format."""
    plane, depth = frame.planes[1], bit_depth(frame.format)
    rows: Any = np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16)
    rows = rows.reshape(-1, plane.line_size // rows.itemsize)[: plane.height, : plane.width * 2]
    return rows >> (16 - depth if depth > 8 else 0)


def test_raw_video_whose_format_the_container_cannot_name_is_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le")
    options = FilterOptions(target=TargetOptions(video_codec="rawvideo", pix_fmt="p010le"))
    with pytest.raises(MediaError, match=r"nut format has no name for p010le; .*yuv420p10le"):
        filter_video(source, tmp_path / "out.nut", model(), options)


@pytest.mark.parametrize("asked", ["yuv422p", "yuv444p", "gray", "nv12", "yuv420p10le"])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_a_pixel_format_that_was_asked_for_keeps_the_luma_and_its_range(
    tmp_path: Path, asked: str, colour_range: int
) -> None:
    frames = [noise(n, (64, 48), "yuv420p") for n in range(3)]
    for frame in frames:
        frame.color_range = colour_range
    source = write_frames(tmp_path / "in.mkv", frames, "ffv1", color_range=colour_range)
    codec = "rawvideo" if asked in SEMI_PLANAR else "ffv1"
    options = FilterOptions(
        target=TargetOptions(video_codec=codec, pix_fmt=asked),
        restore=RestoreOptions(strength=0),
    )
    filter_video(source, tmp_path / "out.nut", options=options)
    for old, new in zip(pictures(source), pictures(tmp_path / "out.nut"), strict=True):
        assert new[0] == asked
        if "10" not in asked:
            assert np.array_equal(new[2], old[2])
        elif colour_range == LIMITED:
            assert np.array_equal(new[2], old[2].astype(int) * 4)
        else:
            assert np.array_equal(new[2], np.rint(old[2] * (1023 / 255)))


@pytest.mark.parametrize("pix_fmt", ["bgr0", "bgra", "gbrp10le"])
def test_rgb_is_refused_with_the_remedy_and_converted_on_request(
    tmp_path: Path, pix_fmt: str, caplog: pytest.LogCaptureFixture
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    picture = np.kron(colours, np.ones((8, 8, 1), np.uint8))
    frames = [
        av.VideoFrame.from_ndarray(np.roll(picture, 8 * n, 1), "rgb24").reformat(format=pix_fmt)
        for n in range(3)
    ]
    source = write_frames(tmp_path / "in.mkv", frames, "ffv1")
    asked = "yuv444p10le" if "10" in pix_fmt else "yuv444p"
    with pytest.raises(MediaError, match=f"{pix_fmt} has no luma plane.*-pix_fmt {asked} "):
        filter_video(source, tmp_path / "never.mkv", model())
    options = FilterOptions(
        target=TargetOptions(video_codec="ffv1", pix_fmt=asked), restore=RestoreOptions(strength=0)
    )
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", options=options)
    assert run.frames == 3
    assert f"convert to {asked}, restore" in caplog.text
    red, green, blue = (picture[..., i] / 255 for i in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # BT.709
    with av.open(str(tmp_path / "out.mkv")) as made:
        frame = next(made.decode(video=0))
        assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == (asked, 1, 1)
        scale = 1 << (bit_depth(frame.format) - 8)
        assert np.abs(copy_luma(frame) / scale - (16 + 219 * luma)).max() <= 1
    with pytest.raises(MediaError, match=r"-pix_fmt gbrp: .*no luma plane"):
        filter_video(
            source, tmp_path / "x.mkv", model(), FilterOptions(target=TargetOptions(pix_fmt="gbrp"))
        )


def test_packed_yuv_of_a_webcam_is_converted_on_request_with_its_luma_exact(tmp_path: Path) -> None:
    drawn = [draw_frame(n, (64, 48), "yuv422p") for n in range(3)]
    packed = [frame.reformat(format="yuyv422") for frame in drawn]
    source = write_frames(tmp_path / "in.nut", packed, "rawvideo")
    with pytest.raises(MediaError, match="yuyv422 has no luma plane"):
        filter_video(source, tmp_path / "never.mkv", model())
    options = FilterOptions(
        target=TargetOptions(video_codec="ffv1", pix_fmt="yuv422p"),
        restore=RestoreOptions(strength=0),
    )
    filter_video(source, tmp_path / "out.mkv", options=options)
    content = read_content(tmp_path / "out.mkv")
    assert equal_planes(content.luma, [copy_luma(frame) for frame in drawn])


def test_a_pixel_format_that_does_not_exist_is_named(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    options = FilterOptions(target=TargetOptions(pix_fmt="yuv42p"))
    with pytest.raises(MediaError, match="-pix_fmt yuv42p: there is no such pixel format"):
        filter_video(source, tmp_path / "out.mkv", model(), options)


def joined(folder: Path, *clips: dict[str, Any], ending: str = "h264") -> Path:
    """Raw streams one after the other, as a camera sends them whose settings are changed."""
    parts = [
        make_clip(folder / f"part{i}.{ending}", **{"frames": 8, **clip}).read_bytes()
        for i, clip in enumerate(clips)
    ]
    source = folder / f"in.{ending}"
    source.write_bytes(b"".join(parts))
    return source


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.nut", "out.ts"])
def test_a_picture_that_changes_its_size_is_restored_in_it_and_scaled_to_the_first(
    tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = joined(tmp_path, {}, {"size": (128, 96)}, {"size": (48, 64)}, {})
    network = Brighter()
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        run = filter_video(source, tmp_path / target, model(network))
    assert network.sizes == [(64, 48)] * 8 + [(128, 96)] * 8 + [(48, 64)] * 8 + [(64, 48)] * 8
    assert (run.frames, run.changed) == (32, 16)
    told = [r.message for r in caplog.records if "the picture changes" in r.message]
    assert len(told) == 1
    assert "from 64x48 yuv420p (limited range) to 128x96" in told[0]
    assert "at frame 8" in told[0]
    content = read_content(tmp_path / target)
    assert {luma.shape for luma in content.luma} == {(48, 64)}
    assert len(content.luma) == 32


def test_scaled_frames_show_the_whole_picture_and_the_others_stay_exact(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(20, 220, 128).astype(np.uint8), (96, 1))
    frames = {}
    for size in ((64, 48), (128, 96)):
        frame = av.VideoFrame(*size, "yuv420p")
        frame.planes[0].update(np.ascontiguousarray(ramp[:: 96 // size[1], :: 128 // size[0]]))
        for plane in frame.planes[1:]:
            plane.update(np.full((plane.height, plane.width), 128, np.uint8))
        frames[size] = frame
    data = b""
    for number, frame in enumerate(frames.values()):
        part = write_frames(tmp_path / f"{number}.h264", [frame] * 2, "libx264", bit_rate=4000000)
        data += part.read_bytes()
    source = tmp_path / "in.h264"
    source.write_bytes(data)
    options = FilterOptions(
        target=TargetOptions(video_codec="ffv1"), restore=RestoreOptions(strength=0)
    )
    run = filter_video(source, tmp_path / "out.mkv", options=options)
    luma = read_content(tmp_path / "out.mkv").luma
    assert run.frames == len(luma) == 4
    with av.open(str(source)) as container:
        first = copy_luma(next(container.decode(video=0)))
    assert np.array_equal(luma[0], first)
    assert np.abs(luma[3].astype(int) - first).max() <= 6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"pix_fmt": "yuv444p"}),
        ({}, {"pix_fmt": "yuv420p10le"}),
        ({"pix_fmt": "yuv422p10le"}, {}),
        ({}, {"context": {"color_range": FULL}, "pix_fmt": "yuvj420p"}),
    ],
)
def test_a_change_of_format_depth_or_range_is_brought_to_the_first(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    source = joined(tmp_path, first, second)
    options = FilterOptions(target=TargetOptions(video_codec="ffv1"))
    run = filter_video(source, tmp_path / "out.mkv", model(), options)
    assert (run.frames, run.changed) == (16, 8)
    seen = pictures(tmp_path / "out.mkv")
    assert {shown[0] for shown in seen} == {first.get("pix_fmt", "yuv420p")}
    # Both halves hold the same drawing, up to their compression, depth and range.
    depth = bit_depth(av.VideoFormat(seen[0][0]))
    means = [float(shown[2].mean()) / (1 << (depth - 8)) for shown in seen]
    if "yuvj420p" not in second.values():
        assert means[0] == pytest.approx(means[8], abs=1.5)
    else:
        drawn = copy_luma(draw_frame(0, (64, 48), "yuv420p")).mean()
        assert means[8] == pytest.approx(16 + (drawn + LEVELS) * 219 / 255, abs=1.5)


def test_a_detector_gets_frames_of_the_size_they_were_sent_in(tmp_path: Path) -> None:
    source = joined(tmp_path, {}, {"size": (128, 96)})
    sizes = [(frame.width, frame.height) for frame in restored_frames(source, model())]
    assert sizes == [(64, 48)] * 8 + [(128, 96)] * 8


def test_compare_goes_on_when_the_picture_changes_its_size(tmp_path: Path) -> None:
    source = joined(tmp_path, {}, {"size": (128, 96)})
    options = FilterOptions(target=TargetOptions(video_codec="ffv1"), compare=True)
    run = filter_video(source, tmp_path / "out.mkv", model(), options)
    luma = read_content(tmp_path / "out.mkv").luma
    assert (run.frames, len(luma)) == (16, 16)
    assert {picture.shape for picture in luma} == {(48, 128)}
    for picture in luma:  # restored is brighter than decoded, before and after
        assert picture[:, 64:].mean() - picture[:, :64].mean() == pytest.approx(LEVELS, abs=1.5)


def test_limited_range_goes_into_mjpeg_only_where_that_was_asked_for(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    options = FilterOptions(target=TargetOptions(video_codec="mjpeg"))
    with pytest.raises(MediaError, match=r"mjpeg: holds full range only; give -pix_fmt yuvj420p"):
        filter_video(source, tmp_path / "out.avi", model(), options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
    options = FilterOptions(target=TargetOptions(video_codec="mjpeg", pix_fmt="yuvj420p"))
    assert filter_video(source, tmp_path / "out.avi", model(), options).frames == 12
    before, after = pictures(source)[0], pictures(tmp_path / "out.avi")[0]
    stretched = (before[2].mean() + LEVELS - 16) * 255 / 219
    assert after[:2] == ("yuvj420p", FULL)
    assert after[2].mean() == pytest.approx(stretched, abs=3)


@pytest.mark.parametrize("pix_fmt", ["gray10be", "yuv420p16be", "p010le", "nv20le"])
def test_side_by_side_keeps_the_samples_however_they_are_stored(pix_fmt: str) -> None:
    frame = av.VideoFrame(32, 16, pix_fmt)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    drawn = np.arange(16 * 32, dtype=np.uint16).reshape(16, 32)
    replace_luma(frame, drawn)
    pair = side_by_side(frame, copy_luma(frame))
    assert np.array_equal(copy_luma(pair), np.hstack([drawn, drawn]))


@pytest.mark.parametrize(("pix_fmt", "width"), [("yuv411p", 66), ("yuv410p", 70), ("yuv420p", 66)])
def test_compared_halves_show_whole_samples_of_chroma(
    tmp_path: Path, pix_fmt: str, width: int
) -> None:
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt=pix_fmt, size=(width, 48))
    options = FilterOptions(target=TargetOptions(video_codec="ffv1"), compare=True)
    filter_video(source, tmp_path / "out.mkv", model(), options)
    half = width // 2 * 2 if pix_fmt == "yuv420p" else width // 4 * 4
    assert {picture.shape for picture in read_content(tmp_path / "out.mkv").luma} == {
        (48, 2 * half)
    }


def test_semi_planar_pictures_turn_with_their_colours() -> None:
    planar = draw_frame(0, (64, 48), "yuv420p")
    planar.pts, planar.time_base = 0, Fraction(1, 25)
    for matrix in (
        [-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30],  # upside down
        [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30],  # on its side
    ):
        turned = upright(planar.reformat(format="nv12"), matrix).to_ndarray(format="yuv420p")
        assert np.array_equal(turned, upright(planar, matrix).to_ndarray(format="yuv420p"))
