"""Rare sources and targets: nothing is lost without a word, and what is said is true."""

from __future__ import annotations

import logging
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.frames import copy_luma
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.media.source import Decoded, open_source
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import draw_frame, make_clip, read_content

ENDLESS = 2**32 - 1  # milliseconds


def through(source: Path, target: Path, **kw: Any) -> Run:
    options = FilterOptions(SourceOptions(), TargetOptions(**kw), RestoreOptions(strength=0))
    return filter_video(source, target, options=options)


def remuxed(
    source: Path, target: Path, change: Any = lambda packet: packet, **options: str
) -> Path:
    with (
        av.open(str(source)) as opened,
        av.open(str(target), "w", container_options=options) as out,
    ):
        made = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in [packet for packet in opened.demux() if packet.size]:
            index = packet.stream_index
            changed = change(packet)
            changed.stream = made[index]
            out.mux_one(changed)
    return target


def professional(
    path: Path,
    codec: str,
    *,
    sound: bool = True,
    size: tuple[int, int] = (720, 576),
    rate: int = 25,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Write 10 frames, and 48 kHz sound, as the old tape formats want them."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        (video.width, video.height), video.pix_fmt = size, pix_fmt
        audio = container.add_stream("pcm_s16le", rate=48000, layout="stereo") if sound else None
        for number in range(10):
            frame = draw_frame(number, size, pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
            if audio is not None:
                silence = np.zeros((1, 2 * 1920), np.int16)
                part = av.AudioFrame.from_ndarray(silence, "s16", "stereo")
                part.rate, part.pts, part.time_base = 48000, number * 1920, Fraction(1, 48000)
                container.mux(audio.encode(part))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def decoded_of(path: Path, options: SourceOptions) -> list[Decoded]:
    with closing(open_source(path, options)) as source:
        return [event for event in source.events() if isinstance(event, Decoded)]


def with_captions(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Put a closed caption before a picture (ANSI/SCTE 128, 8.1: cc_data in an SEI message)."""
    data = b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94\x20\xff"
    message = b"\x06\x04" + bytes([len(data)]) + data + b"\x80"
    made: av.Packet[Any] = av.Packet(len(message).to_bytes(4, "big") + message + bytes(packet))
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    made.is_keyframe, made.duration = packet.is_keyframe, packet.duration
    return made


@pytest.mark.parametrize("name", ["in.mp4", "in.ts", "in.mkv"])
def test_ss_into_a_picture_that_is_built_up_gives_a_whole_one(tmp_path: Path, name: str) -> None:
    """Periodic intra refresh has no key frame but the first."""
    params = "intra-refresh=1:keyint=12:scenecut=0"
    source = make_clip(tmp_path / name, frames=60, size=(320, 192), options={"x264-params": params})
    whole = [copy_luma(decoded.frame) for decoded in decoded_of(source, SourceOptions())]
    options = SourceOptions(start_seconds=1.8)
    cut = [copy_luma(decoded.frame) for decoded in decoded_of(source, options)]
    assert len(cut) == 15
    assert all(np.array_equal(a, b) for a, b in zip(cut, whole[45:], strict=True))


def test_numbered_pictures_are_refused_before_any_work(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(MediaError, match=r"o%03d\.png: numbered pictures are many files; write"):
        through(source, tmp_path / "o%03d.png", video_codec="png", pix_fmt="gray")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("name", ["out.mpg", "out.vob", "out.gxf", "out.mxf"])
def test_text_that_a_format_would_lose_is_named(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / "in.mkv", subtitles="srt", size=(720, 576))
    with pytest.raises(MediaError, match=r"cannot hold stream #1 \(subtitle, srt\); give an .mkv"):
        through(source, tmp_path / name, video_codec="mpeg2video")
    assert not (tmp_path / name).exists()


def test_raw_dv_comes_at_its_rate_and_keeps_its_fields(tmp_path: Path) -> None:
    source = professional(tmp_path / "in.dv", "dvvideo")
    through(source, tmp_path / "out.mp4", audio_codec="aac")
    with av.open(str(tmp_path / "out.mp4")) as made:
        frames = list(made.decode(video=0))
        assert made.streams.video[0].average_rate == 25
    assert len(frames) == 10
    assert all(frame.interlaced_frame for frame in frames)


@pytest.mark.parametrize(
    ("size", "rate", "fields"), [((1440, 1080), 25, "top"), ((960, 720), 50, "none")]
)
def test_dv_in_high_definition_has_the_fields_of_its_pictures(
    tmp_path: Path, size: tuple[int, int], rate: int, fields: str
) -> None:
    kind = {"sound": False, "size": size, "rate": rate, "pix_fmt": "yuv422p"}
    source = professional(tmp_path / "in.mov", "dvvideo", **kind)
    through(source, tmp_path / "out.mp4", video_codec="libx264")
    with av.open(str(tmp_path / "out.mp4")) as made:
        frames = list(made.decode(video=0))
        order = made.streams.video[0].codec_context.field_order
    assert all(frame.interlaced_frame == (fields == "top") for frame in frames)
    assert order == (2 if fields == "top" else 1)


def test_sound_of_mxf_goes_into_mxf(tmp_path: Path) -> None:
    source = professional(tmp_path / "in.mxf", "mpeg2video")
    through(source, tmp_path / "out.mxf", video_codec="mpeg2video")
    (_, before), (_, after) = (
        next(iter(read_content(tmp_path / name).packets.items())) for name in ("in.mxf", "out.mxf")
    )
    assert b"".join(data for _, data in before) == b"".join(data for _, data in after)


def test_mxf_names_the_sound_that_it_can_hold(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", audio="aac", size=(720, 576))
    with pytest.raises(MediaError, match=r"stream #1 \(audio, aac\); give (?!-c:a aac)"):
        through(source, tmp_path / "out.mxf", video_codec="mpeg2video")


def test_a_shape_of_samples_that_changes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = {"sample_aspect_ratio": Fraction(16, 11)}
    first = make_clip(tmp_path / "a.ts", frames=20)
    second = make_clip(tmp_path / "b.ts", frames=20, context=wide)
    source = tmp_path / "in.ts"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    with caplog.at_level(logging.WARNING, "carfilter"):
        through(source, tmp_path / "out.mkv")
    assert caplog.text.count("the shape of a sample changes from 1 to 16/11 on the way") == 1


@pytest.mark.parametrize(("codec", "told"), [("libx264", 0), ("ffv1", 1)])
def test_closed_captions_are_kept_or_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, told: int
) -> None:
    source = remuxed(make_clip(tmp_path / "plain.mp4"), tmp_path / "in.mp4", with_captions)
    with caplog.at_level(logging.WARNING, "carfilter"):
        through(source, tmp_path / "out.mkv", video_codec=codec)
    assert caplog.text.count(f"closed captions in its pictures, which {codec} does not") == told
    with av.open(str(tmp_path / "out.mkv")) as made:
        kinds = [str(d.type) for f in made.decode(video=0) for d in f.side_data]
    assert sum("A53" in kind for kind in kinds) == (0 if told else 12)


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_a_subtitle_without_an_end_cuts_nothing_off(tmp_path: Path, container: str) -> None:
    def endless(packet: av.Packet[Any]) -> av.Packet[Any]:
        if packet.stream.type == "subtitle":
            packet.duration = ENDLESS
        return packet

    plain = make_clip(tmp_path / "plain.mkv", subtitles="srt", frames=25)
    source = remuxed(plain, tmp_path / "in.mkv", endless)
    run = through(source, tmp_path / f"out.{container}")
    assert (run.frames, run.damaged) == (25, 0)
    assert read_content(tmp_path / f"out.{container}").packets


def test_frames_closer_than_the_rate_of_mpeg2_are_all_kept(tmp_path: Path) -> None:
    times = [0, 40, 80, 81, 120, 160, 161, 162, 240, 280]
    source = make_clip(tmp_path / "in.mkv", frames=10, pts=times, time_base=Fraction(1, 1000))
    through(source, tmp_path / "out.mkv", video_codec="mpeg2video")
    assert len(read_content(tmp_path / "out.mkv").planes) == 10
