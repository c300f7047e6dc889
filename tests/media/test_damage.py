"""Damaged files: what can be decoded is kept and counted, the rest is told, nothing is made up."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import Flags

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.frames import clip_samples
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import draw_frame, make_clip, read_content, tiny_weights

EXACT = FilterOptions(
    target=TargetOptions(video_codec="ffv1", overwrite=True), restore=RestoreOptions(strength=0)
)


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize(("lost", "at_least"), [(0, 10), (1, 10)])
def test_pictures_that_lack_their_reference_are_what_the_decoder_makes_of_them(
    tmp_path: Path, lost: int, at_least: int, restored: bool
) -> None:
    """A recording that begins in mid-stream, and one that has lost a key frame on the way."""
    source = make_clip(tmp_path / "in.h264", frames=15, options={"g": "5", "sc_threshold": "0"})
    units = source.read_bytes().split(b"\x00\x00\x01")
    keys = [i for i, unit in enumerate(units) if unit and unit[0] & 31 == 5]
    assert len(keys) == 3
    del units[keys[lost]]
    source.write_bytes(b"\x00\x00\x01".join(units))
    with av.open(str(source)) as container:
        container.streams.video[0].codec_context.flags |= Flags.output_corrupt
        given = sum(1 for _ in container.decode(video=0))
    assert given >= at_least
    weights = tiny_weights(tmp_path / "tiny.pt")
    options = FilterOptions(EXACT.source, EXACT.target) if restored else EXACT
    run = filter_video(source, tmp_path / "out.mkv", weights, options)
    assert run.frames == given == len(read_content(tmp_path / "out.mkv").planes)


CONTAINERS = ["mkv", "ts", "nut", "avi", "h264"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_file_that_was_cut_off_gives_what_it_holds(
    tmp_path: Path, container: str, share: float
) -> None:
    source = make_clip(tmp_path / f"in.{container}", frames=24, audio=_audio(container))
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    target = tmp_path / "out.mkv"
    run = filter_video(source, target, options=EXACT)
    assert 0 < run.frames <= 24
    assert len(read_content(target).planes) == run.frames


def _audio(container: str) -> str | None:
    return {"h264": None, "avi": "pcm_s16le"}.get(container, "aac")


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "nut", "h264"])
def test_a_header_without_a_picture_is_told(tmp_path: Path, container: str) -> None:
    source = tmp_path / f"in.{container}"
    if container == "h264":
        units = make_clip(tmp_path / "a.h264").read_bytes().split(b"\x00\x00\x01")
        kept = [unit for unit in units if not unit or unit[0] & 31 in (7, 8)]
        source.write_bytes(b"\x00\x00\x01".join(kept))
    else:
        with av.open(str(source), "w") as made:
            stream = made.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            made.start_encoding()
    with pytest.raises(MediaError, match=rf"in\.{container}: "):
        filter_video(source, tmp_path / "out.mkv", options=EXACT)
    assert not (tmp_path / "out.mkv").exists()


def test_a_stream_of_sound_that_begins_late_does_not_end_the_run(tmp_path: Path) -> None:
    """Streams may come up on the way where the header promises none."""
    source = make_clip(
        tmp_path / "in.flv",
        audio="aac", size=(320, 240), frames=80, options={"qp": "1", "preset": "ultrafast"},
    )  # fmt: skip
    data = bytearray(source.read_bytes())
    assert len(data) > 5_000_000  # what FFmpeg looks at to find the streams
    data[4] = 1  # the header announces video alone
    tags, at = [], 13
    while at + 11 <= len(data):
        end = at + 15 + int.from_bytes(data[at + 1 : at + 4], "big")
        tags.append(bytes(data[at:end]))
        at = end
    tags.sort(key=lambda tag: tag[0] == 8)  # the sound behind all pictures
    source.write_bytes(bytes(data[:13]) + b"".join(tags))
    assert filter_video(source, tmp_path / "out.mkv", options=EXACT).frames == 80


def test_samples_beyond_their_depth_are_brought_back() -> None:
    """Decoders leave them in damaged pictures; libx264 ends the process over them."""
    frame = draw_frame(0, (70, 50), "yuv420p10le")
    whole = [bytes(plane) for plane in frame.planes]
    assert not clip_samples(frame)
    assert [bytes(plane) for plane in frame.planes] == whole
    for plane in frame.planes:
        samples = np.frombuffer(plane, np.uint16)
        samples[3:9] = 0x8080
    assert clip_samples(frame)
    for plane, before in zip(frame.planes, whole, strict=True):
        expected = np.frombuffer(before, np.uint16).copy()
        expected[3:9] = 1023
        assert np.array_equal(np.frombuffer(plane, np.uint16), expected)


def test_deep_pictures_full_of_holes_reach_the_encoder_within_their_depth(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le", frames=24, options={"g": "8"})
    data = bytearray(source.read_bytes())
    noise = np.random.default_rng(3)
    for place in noise.integers(1500, len(data), 60):
        data[place : place + 8] = noise.bytes(8)
    source.write_bytes(data)
    options = FilterOptions(
        target=TargetOptions(encoder=(("preset", "ultrafast"),)), restore=EXACT.restore
    )
    run = filter_video(source, tmp_path / "out.mp4", options=options)
    assert run.damaged
    filter_video(source, tmp_path / "exact.mkv", options=EXACT)
    for planes in read_content(tmp_path / "exact.mkv").planes:
        assert max(int(plane.max()) for plane in planes) <= 1023


@pytest.mark.parametrize("stream", [{"audio": "pcm_alaw"}, {"subtitles": "srt"}])
def test_transport_streams_are_given_no_stream_that_a_player_cannot_name(
    tmp_path: Path, stream: dict[str, str]
) -> None:
    """The muxer would take them all, and write them as anonymous private data."""
    source = make_clip(tmp_path / ("in.mkv" if "subtitles" in stream else "in.mov"), **stream)
    options = FilterOptions(restore=EXACT.restore)
    with pytest.raises(MediaError, match="the mpegts format cannot hold stream #1"):
        filter_video(source, tmp_path / "out.ts", options=options)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("in.nut", c) for c in ("libx264", "mpeg4", "mpeg2video", "mjpeg", "ffv1")),
        *(("in.mkv", c) for c in ("libx264", "libvpx-vp9", "libsvtav1", "ffv1")),
        *(("in.ts", c) for c in ("libx264", "mpeg2video", "mpeg4")),
        *(
            ("in.avi", "mjpeg"),
            ("in.mjpeg", "mjpeg"),
            ("in.h264", "libx264"),
            ("in.obu", "libsvtav1"),
        ),
    ],
)
def test_pictures_that_no_decoder_may_open_are_told_whatever_is_known_of_them(
    tmp_path: Path, name: str, codec: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source = make_clip(tmp_path / name, codec=codec, pix_fmt=pix_fmt, size=(512, 512), frames=2)
    limit = FilterOptions(SourceOptions(max_pixels=100_000), EXACT.target)
    weights = tiny_weights(tmp_path / "tiny.pt")
    with pytest.raises(MediaError, match=r"its pictures are 512x512|no frame of its video"):
        filter_video(source, tmp_path / "out.mkv", weights, limit)
