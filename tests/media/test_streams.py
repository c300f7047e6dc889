"""The streams beside the restored one: copied, converted, or named before any work."""

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import draw_frame, equal_planes, make_clip, read_content


def through(source: Path, target: Path, reading: SourceOptions | None = None, **kw: Any) -> Run:
    options = FilterOptions(
        reading or SourceOptions(), TargetOptions(**kw), RestoreOptions(strength=0)
    )
    return filter_video(source, target, options=options)


def remuxed(clips: list[Path], target: Path, add: Callable[[Any], Any] | None = None) -> Path:
    """All streams of the clips in one file; `add` may put in more before, and mux after."""
    with av.open(str(target), "w") as out:
        opened = [av.open(str(clip)) for clip in clips]
        made = {
            (i, s.index): out.add_stream_from_template(s, opaque=True)
            for i, clip in enumerate(opened)
            for s in clip.streams
        }
        mux = add(out) if add else None
        packets = [(i, p) for i, clip in enumerate(opened) for p in clip.demux() if p.size]
        packets.sort(key=lambda item: (item[1].dts or 0) * item[1].time_base)
        if mux:
            mux()
        for i, packet in packets:
            packet.stream = made[i, packet.stream_index]
            out.mux_one(packet)
        for clip in opened:
            clip.close()
    return target


def kinds(path: Path) -> list[tuple[str, str | None]]:
    with av.open(str(path)) as container:
        return [(stream.type, stream.name) for stream in container.streams]


def cover(out: Any) -> Callable[[], None]:
    picture = out.add_stream("mjpeg")
    picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
    picture.disposition = Disposition.attached_pic

    def mux() -> None:
        frame = draw_frame(0, (32, 32), "yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux([*picture.encode(frame), *picture.encode(None)])

    return mux


def covers(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        pictures = [s for s in container.streams if s.disposition & Disposition.attached_pic]
        return [bytes(p) for s in pictures for p in container.demux(s) if p.size]


@pytest.mark.parametrize("way", [("mp4",), ("mkv",), ("mkv", "mkv"), ("mkv", "mp4")])
def test_cover_art_stays_cover_art(tmp_path: Path, way: tuple[str, ...]) -> None:
    clip = make_clip(tmp_path / "clip.mkv", audio="aac")
    source = first = remuxed([clip], tmp_path / "in.mp4", cover)
    for number, container in enumerate(way):
        target = tmp_path / f"out{number}.{container}"
        assert through(source, target).frames == 12
        source = target
    assert covers(source) == covers(first)
    assert len(covers(source)) == 1
    assert read_content(source).types == ["video", "audio", "video"]


def test_cover_art_that_mov_would_leave_out_is_named(tmp_path: Path) -> None:
    source = remuxed([make_clip(tmp_path / "clip.mkv")], tmp_path / "in.mp4", cover)
    with pytest.raises(MediaError, match=r"mov format cannot hold stream #1 \(video, mjpeg\)"):
        through(source, tmp_path / "out.mov")
    assert through(source, tmp_path / "out.mov", drop_unsupported=True).frames == 12


def with_timecode(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, time_base=Fraction(1, 25))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.metadata["timecode"] = "01:02:03:04"
        for number in range(12):
            frame = draw_frame(number, (64, 48), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


@pytest.mark.parametrize("container", ["avi", "flv"])
def test_a_timecode_that_the_target_cannot_hold_is_named(
    tmp_path: Path, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = with_timecode(tmp_path / "in.mov"), tmp_path / f"out.{container}"
    with caplog.at_level(logging.INFO, logger="carfilter"):
        through(source, target)
    assert "#1 data (timecode) -> drop: this format holds no timecodes" in caplog.text
    with av.open(str(target)) as made:
        assert "timecode" not in {**made.metadata, **made.streams.video[0].metadata}


@pytest.mark.parametrize("container", ["mov", "mp4", "mkv", "webm"])
def test_the_timecode_stays(
    tmp_path: Path, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_timecode(tmp_path / "in.mov")
    assert kinds(source)[1][0] == "data"
    with caplog.at_level(logging.INFO, logger="carfilter"):
        codec = "libvpx-vp9" if container == "webm" else None
        through(source, tmp_path / f"out.{container}", video_codec=codec)
    assert "#1 data (timecode) -> drop: the timecode tag it repeats is kept" in caplog.text
    with av.open(str(tmp_path / f"out.{container}")) as made:
        tags = {k.lower(): v for k, v in made.streams.video[0].metadata.items()}
        assert tags["timecode"] == "01:02:03:04"
        # MOV and MP4 make the track anew from the tag.
        assert [s.type for s in made.streams][1:] == (
            ["data"] if container in ("mov", "mp4") else []
        )


def klv(out: Any) -> Callable[[], None]:
    data = out.add_data_stream("klv")

    def mux() -> None:
        for number in range(12):
            packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes([number]) * 20)
            packet.pts = packet.dts = number * 3600
            packet.time_base, packet.stream = Fraction(1, 90000), data
            out.mux_one(packet)

    return mux


def test_klv_of_a_drone_is_copied_between_transport_streams(tmp_path: Path) -> None:
    source = remuxed([make_clip(tmp_path / "clip.mkv", audio="aac")], tmp_path / "in.ts", klv)
    through(source, tmp_path / "out.ts")
    before, after = read_content(source).packets[2], read_content(tmp_path / "out.ts").packets[2]
    assert kinds(tmp_path / "out.ts")[2] == ("data", "klv")
    assert len(before) == 12
    assert [data for _, data in after] == [data for _, data in before]
    picture = [read_content(path).seconds[0] for path in (source, tmp_path / "out.ts")]
    assert [at - picture[1] for at, _ in after] == [at - picture[0] for at, _ in before]


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov", "nut"])
def test_klv_stops_the_run_where_the_target_would_forget_what_it_is(
    tmp_path: Path, container: str
) -> None:
    source = remuxed([make_clip(tmp_path / "clip.mkv")], tmp_path / "in.ts", klv)
    target = tmp_path / f"out.{container}"
    with pytest.raises(MediaError, match=r"cannot hold stream #1 \(data, klv\); give a .ts .*-dn"):
        through(source, target)
    assert not target.exists()
    assert through(source, target, SourceOptions(data=False)).frames == 12
    assert read_content(target).types == ["video"]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "nut"])
def test_three_audio_tracks_keep_order_language_and_packets(tmp_path: Path, container: str) -> None:
    picture = make_clip(tmp_path / "clip.mkv", frames=25)
    tones = []
    for number, codec in enumerate(["aac"] * 3):
        tone = make_clip(tmp_path / f"tone{number}.mkv", frames=25 - number, audio=codec)
        with av.open(str(tone)) as given, av.open(str(tmp_path / f"a{number}.mkv"), "w") as out:
            stream = out.add_stream_from_template(given.streams.audio[0], opaque=True)
            stream.metadata["language"] = ("eng", "deu", "fra")[number]
            for packet in given.demux(given.streams.audio[0]):
                if packet.size:
                    packet.stream = stream
                    out.mux_one(packet)
        tones.append(tmp_path / f"a{number}.mkv")

    def languages(out: Any) -> Callable[[], None]:
        for stream, language in zip(out.streams.audio, ("eng", "deu", "fra"), strict=True):
            stream.metadata["language"] = language
        return lambda: None

    source = remuxed([picture, *tones], tmp_path / f"in.{container}", languages)
    target = tmp_path / f"out.{container}"
    through(source, target)
    before, after = read_content(source), read_content(target)
    assert list(after.packets) == [1, 2, 3]
    for index in after.packets:
        assert [d for _, d in after.packets[index]] == [d for _, d in before.packets[index]]
    with av.open(str(target)) as made:
        assert [s.metadata["language"] for s in made.streams.audio] == ["eng", "deu", "fra"]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_of_two_video_streams_one_is_restored_and_one_copied(
    tmp_path: Path, container: str
) -> None:
    large = make_clip(tmp_path / "large.mkv", size=(128, 96))
    small = make_clip(tmp_path / "small.mkv", size=(64, 48), options={"bf": "2"})
    source = remuxed([large, small], tmp_path / f"in.{container}")
    target = tmp_path / f"out.{container}"
    assert through(source, target).frames == 12
    before, after = read_content(source), read_content(target)
    assert after.types == ["video", "video"]
    assert after.luma[0].shape == (96, 128)
    assert [d for _, d in after.packets[1]] == [d for _, d in before.packets[1]]
    chosen = SourceOptions(maps=("0:v:1",))
    through(source, tmp_path / "second.mkv", chosen, video_codec="ffv1")
    content = read_content(tmp_path / "second.mkv")
    assert content.types == ["video"]
    assert equal_planes(content.planes, read_content(small).planes)


def bitmap_subtitles(out: Any) -> Callable[[], None]:
    stream = out.add_stream("dvbsub")

    def mux() -> None:
        packet = av.Packet(b"\x20\x00\x0f" + bytes(8) + b"\xff")
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.duration = Fraction(1, 1000), stream, 100
        out.mux_one(packet)

    return mux


def test_bitmap_subtitles_that_the_target_cannot_hold_are_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv")
    source = remuxed([clip], tmp_path / "in.mkv", bitmap_subtitles)
    assert kinds(source)[1][0] == "subtitle"
    named = r"mp4 format cannot hold stream #1 \(subtitle, dvb.*give an .mkv target, -sn"
    with pytest.raises(MediaError, match=named):
        through(source, tmp_path / "out.mp4")
    assert [p.name for p in tmp_path.glob("out*")] == []
    through(source, tmp_path / "out.mp4", drop_unsupported=True)
    assert read_content(tmp_path / "out.mp4").types == ["video"]
    through(source, tmp_path / "out.mkv")
    assert read_content(tmp_path / "out.mkv").packets == read_content(source).packets


@pytest.mark.parametrize("codec", ["ass", "srt", "webvtt"])
def test_text_subtitles_become_mov_text_in_mp4_and_are_named_in_transport_streams(
    tmp_path: Path, codec: str
) -> None:
    source = make_clip(tmp_path / "in.mkv", subtitles=codec)
    through(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as made:
        assert made.streams.subtitles[0].codec_context.name == "mov_text"
        packets = [bytes(p) for p in made.demux(made.streams.subtitles[0]) if p.size > 2]
    texts = [data[2 : 2 + int.from_bytes(data[:2], "big")] for data in packets]
    assert texts == [b"first", b"second"]
    with pytest.raises(MediaError, match=r"mpegts format cannot hold stream #1 \(subtitle"):
        through(source, tmp_path / "out.ts")


def test_raw_video_holds_no_sound(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", audio="aac")
    with pytest.raises(MediaError, match=r"rawvideo format cannot hold stream #1 \(audio, aac\)"):
        through(source, tmp_path / "out.yuv")
    through(source, tmp_path / "out.yuv", drop_unsupported=True)
    frames = read_content(source).planes
    assert (tmp_path / "out.yuv").stat().st_size == len(frames) * 64 * 48 * 3 // 2


def test_a_line_that_is_no_utf8_is_left_out_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mkv", subtitles="srt")
    source.write_bytes(source.read_bytes().replace(b"first", b"f\xe9rst"))
    through(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as made:
        packets = [bytes(p) for p in made.demux(made.streams.subtitles[0]) if p.size > 2]
    assert [data[2:] for data in packets] == [b"second"]
    assert "1 damaged packets of subtitles #1 could not be decoded and are left out" in caplog.text


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_g711_is_named_where_not_even_pcm_can_go(tmp_path: Path, codec: str) -> None:
    source = make_clip(tmp_path / "in.nut", audio=codec)
    with pytest.raises(MediaError, match=rf"mpegts .*stream #1 \(audio, {codec}\); give -c:a aac"):
        through(source, tmp_path / "out.ts")
    through(source, tmp_path / "out.ts", audio_codec="aac")
    assert kinds(tmp_path / "out.ts")[1] == ("audio", "aac")


@pytest.mark.parametrize(("codec", "target", "rate"), [("libopus", "mkv", 48000),
                                                       ("ac3", "ts", 32000)])  # fmt: skip
def test_sound_is_encoded_at_a_rate_that_the_encoder_knows(
    tmp_path: Path, codec: str, target: str, rate: int
) -> None:
    """AC-3 does not know the 8 kHz of telephones, and Opus not the 44.1 kHz of discs."""
    made = tmp_path / "tone.mkv"
    source = make_clip(tmp_path / "in.mkv", frames=50, audio="aac" if rate > 40000 else "pcm_s16le")
    if rate > 40000:
        with av.open(str(source)) as clip, av.open(str(made), "w") as out:
            video = out.add_stream_from_template(clip.streams.video[0], opaque=True)
            sound = out.add_stream("aac", rate=44100)
            sound.codec_context.layout = "mono"
            for packet in clip.demux(clip.streams.video[0]):
                if packet.size:
                    packet.stream = video
                    out.mux_one(packet)
            for at in range(0, 88200, 1024):
                frame = av.AudioFrame("fltp", "mono", 1024)
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.pts, frame.sample_rate, frame.time_base = at, 44100, Fraction(1, 44100)
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
        source = made
    through(source, tmp_path / f"out.{target}", audio_codec=codec)
    with av.open(str(tmp_path / f"out.{target}")) as result:
        frames = list(result.decode(audio=0))
    assert frames[0].sample_rate == rate
    assert sum(frame.samples for frame in frames) == pytest.approx(2 * rate, abs=rate / 10)


@pytest.mark.parametrize("target", ["out.ts", "out.m2ts", "out.mpg"])
@pytest.mark.parametrize("codec", ["ffv1", "rawvideo", "mjpeg"])
def test_pictures_that_mpeg_has_no_name_for_are_refused(
    tmp_path: Path, codec: str, target: str
) -> None:
    """Its muxers take them, and nobody could read what they write."""
    source = make_clip(tmp_path / "in.mkv")
    with pytest.raises(MediaError, match=f"-c:v {codec}: .*cannot hold it; use an .mkv target"):
        through(source, tmp_path / target, video_codec=codec)
    assert not (tmp_path / target).exists()
    through(source, tmp_path / target, video_codec="mpeg2video")


@pytest.mark.parametrize("pix_fmt", ["bgra", "yuva444p"])
def test_alpha_that_the_asked_format_has_not_is_told_and_the_remedy_keeps_it(
    tmp_path: Path, pix_fmt: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt=pix_fmt)
    for asked, told in (("yuv444p", True), ("yuva444p", False)):
        caplog.clear()
        reading = SourceOptions(pix_fmt=asked)
        options = FilterOptions(reading, TargetOptions(pix_fmt=asked), RestoreOptions(strength=0))
        filter_video(source, tmp_path / f"{asked}.mkv", options=options)
        assert ("its alpha is lost, since yuv444p has none" in caplog.text) == told
        assert ("give -pix_fmt yuva444p with an .mkv target" in caplog.text) == told


def test_alpha_stays_in_matroska_and_is_named_for_h264(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuva420p")
    through(source, tmp_path / "out.mkv")
    assert equal_planes(read_content(tmp_path / "out.mkv").planes, read_content(source).planes)
    with pytest.raises(MediaError, match=r"no default for pixel format yuva420p; use an .mkv"):
        through(source, tmp_path / "out.mp4")
    through(source, tmp_path / "asked.mp4", pix_fmt="yuv420p")
    assert len(read_content(tmp_path / "asked.mp4").planes[0]) == 3


def test_sound_in_a_codec_that_nobody_knows_is_named_so_and_can_be_left_out(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mp4", audio="aac")
    data = source.read_bytes()
    assert data.count(b"\x40\x15") == 1  # MPEG-4's number for AAC
    source.write_bytes(data.replace(b"mp4a", b"zzzz").replace(b"\x40\x15", b"\xfe\x15"))
    for name, codec in (("out.ts", None), ("out.mov", None), ("out.mov", "aac")):
        with pytest.raises(MediaError, match=r"stream #1 \(audio, unknown codec\)"):
            through(source, tmp_path / name, audio_codec=codec)
    assert through(source, tmp_path / "out.mov", drop_unsupported=True).frames == 12
