"""What strangers' files hold beside the picture: carried, converted, or named with a way out."""

import itertools
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

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


def make_with(path: Path, set_up: Callable[[Any], Any], pix_fmt: str = "yuv420p") -> Path:
    """A clip of 6 frames, 64x48, whose stream is set up before it is written."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, time_base=Fraction(1, 25))
        video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
        set_up(video)
        for number in range(6):
            frame = draw_frame(number, (64, 48), pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def with_sound(path: Path, codec: str, **layout: Any) -> Path:
    """A clip with sound of one codec, muxed as FFmpeg's own program does it."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, time_base=Fraction(1, 25))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=layout.get("rate", 8000))
        sound.codec_context.layout = layout.get("layout", "mono")
        if bit_rate := layout.get("bit_rate"):
            sound.codec_context.bit_rate = bit_rate
        for number in range(12):
            frame = draw_frame(number, (64, 48), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        rate = sound.codec_context.sample_rate
        resampler = av.AudioResampler(
            sound.codec_context.format, sound.codec_context.layout, rate,
            frame_size=sound.codec_context.frame_size or rate // 25,
        )  # fmt: skip
        tone = (np.sin(np.arange(rate // 2) / 7) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in resampler.resample(frame):
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "ending", "pix_fmt"),
    [("ffv1", "mkv", None), ("rawvideo", "nut", None), ("ffv1", "avi", None),
     ("libvpx-vp9", "webm", None), ("libx264", "mp4", None), ("prores_ks", "mov", "yuv422p10le")],
)  # fmt: skip
def test_the_shape_of_a_sample_stays(
    tmp_path: Path, codec: str, ending: str, pix_fmt: str | None
) -> None:
    def set_up(video: Any) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)

    source = make_with(tmp_path / "in.mp4", set_up)
    through(source, tmp_path / f"out.{ending}", video_codec=codec, pix_fmt=pix_fmt)
    with av.open(str(tmp_path / f"out.{ending}")) as made:
        # WebM tells the width in whole pixels.
        assert abs(made.streams.video[0].sample_aspect_ratio - Fraction(4, 3)) < 0.02


@pytest.mark.parametrize(("codec", "ending"), [("libvpx-vp9", "ivf"), ("flv", "flv")])
def test_the_shape_of_a_sample_that_a_format_cannot_hold_is_named(
    tmp_path: Path, codec: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    def set_up(video: Any) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(16, 11)

    source = make_with(tmp_path / "in.mkv", set_up)
    through(source, tmp_path / f"out.{ending}", video_codec=codec)
    assert (
        "cannot hold the shape of a sample (16/11); give -c:v libx264 with an .mkv" in caplog.text
    )
    caplog.clear()
    through(source, tmp_path / "out.mkv", video_codec="libx264")
    assert "shape" not in caplog.text


def test_a_shape_of_a_sample_that_mpeg2_rounds_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def set_up(video: Any) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(16, 11)

    source = make_with(tmp_path / "in.mkv", set_up)
    shapes = {}
    for ending in ("ts", "mkv"):
        caplog.clear()
        through(source, tmp_path / f"out.{ending}", video_codec="mpeg2video")
        with av.open(str(tmp_path / f"out.{ending}")) as made:
            for _ in made.decode(video=0):  # tells what the stream itself holds
                break
            shapes[ending] = made.streams.video[0].sample_aspect_ratio
        said = re.search(
            r"cannot hold the shape of a sample \(16/11\), the nearest is (\S+);", caplog.text
        )
        if ending == "ts":
            assert said
            assert abs(shapes["ts"] - Fraction(said[1])) < 0.01
        else:
            assert not said
            assert shapes["mkv"] == Fraction(16, 11)


TURNS = {
    (90, False): lambda p: np.rot90(p, 1),
    (-90, False): lambda p: np.rot90(p, -1),
    (180, False): lambda p: np.rot90(p, 2),
    (0, True): lambda p: p[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("ending", ["nut", "avi"])
def test_a_rotated_video_is_turned_upright_where_the_target_cannot_say_so(
    tmp_path: Path, turn: tuple[int, bool], ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_with(tmp_path / "in.mp4", lambda v: v.set_display_rotation(turn[0], turn[1]))
    through(source, tmp_path / f"out.{ending}", video_codec="ffv1")
    expected = [[TURNS[turn](p) for p in planes] for planes in read_content(source).planes]
    assert equal_planes(read_content(tmp_path / f"out.{ending}").planes, expected)
    assert "cannot hold the video's rotation; its pixels are turned upright" in caplog.text


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
@pytest.mark.parametrize("turn", TURNS)
def test_compared_halves_of_a_rotated_video_stand_upright(
    tmp_path: Path, turn: tuple[int, bool], pix_fmt: str
) -> None:
    source = make_with(tmp_path / "in.mp4", lambda v: v.set_display_rotation(*turn), pix_fmt)
    target = TargetOptions(video_codec="ffv1")
    options = FilterOptions(target=target, restore=RestoreOptions(strength=0), compare=True)
    filter_video(source, tmp_path / "out.mkv", options=options)
    upright = [TURNS[turn](luma) for luma in read_content(source).luma]
    made = read_content(tmp_path / "out.mkv").luma
    assert equal_planes(made, [np.hstack([half, half]) for half in upright])


def test_upright_turns_the_pixels_where_the_target_could_say_so(tmp_path: Path) -> None:
    source = make_with(tmp_path / "in.mp4", lambda v: v.set_display_rotation(90))
    for upright, rotation, width in ((False, 90, 64), (True, 0, 48)):
        through(source, tmp_path / "out.mp4", upright=upright, overwrite=True)
        with av.open(str(tmp_path / "out.mp4")) as made:
            frame = next(made.decode(video=0))
            assert (frame.rotation, frame.width) == (rotation, width)


def test_halved_chroma_that_cannot_be_turned_is_named_and_the_remedy_works(tmp_path: Path) -> None:
    source = make_with(tmp_path / "in.mp4", lambda v: v.set_display_rotation(90), "yuv422p")
    with pytest.raises(MediaError, match="give -pix_fmt yuv420p or yuv444p"):
        through(source, tmp_path / "out.nut", video_codec="ffv1")
    for pix_fmt in ("yuv420p", "yuv444p"):
        run = through(
            source, tmp_path / "out.nut", video_codec="ffv1", pix_fmt=pix_fmt, overwrite=True
        )
        assert run.frames == 6


@pytest.mark.parametrize(
    ("codec", "ending", "target"),
    [("wmav2", "wmv", "mkv"), ("wmav2", "wmv", "avi"), ("adpcm_ms", "avi", "mkv"),
     ("adpcm_ima_wav", "avi", "mkv")],
)  # fmt: skip
def test_sound_that_the_muxer_takes_is_copied_whatever_a_table_says(
    tmp_path: Path, codec: str, ending: str, target: str
) -> None:
    source = with_sound(tmp_path / f"in.{ending}", codec, rate=44100, bit_rate=64000)
    through(source, tmp_path / f"out.{target}")
    before, after = read_content(source), read_content(tmp_path / f"out.{target}")
    assert [data for _, data in after.packets[1]] == [data for _, data in before.packets[1]]


@pytest.mark.parametrize(("codec", "ending"), [("pcm_bluray", "m2ts"), ("pcm_dvd", "vob")])
@pytest.mark.parametrize("target", ["mkv", "mov"])
def test_packed_samples_become_plain_ones(
    tmp_path: Path, codec: str, ending: str, target: str
) -> None:
    source = with_sound(tmp_path / f"in.{ending}", codec, rate=48000, layout="stereo")
    with av.open(str(source)) as container:
        assert container.streams.audio[0].codec_context.name == codec
        before = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    through(source, tmp_path / f"out.{target}")
    with av.open(str(tmp_path / f"out.{target}")) as container:
        assert container.streams.audio[0].codec_context.name == "pcm_s16le"
        after = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("change", [("5.1", 48000), ("stereo", 32000), ("mono", 44100)])
def test_sound_that_changes_its_channels_or_rate_goes_on_at_its_times(
    tmp_path: Path, change: tuple[str, int]
) -> None:
    parts = [
        with_sound(tmp_path / f"{n}.ts", "ac3", rate=rate, layout=layout, bit_rate=128000)
        for n, (layout, rate) in enumerate((("stereo", 48000), change))
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    through(source, tmp_path / "out.mkv", audio_codec="aac")
    with av.open(str(tmp_path / "out.mkv")) as container:
        frames = list(container.decode(audio=0))
        times = [frame.pts * Fraction(frame.time_base) for frame in frames]
        (rate,) = {frame.sample_rate for frame in frames}
        assert abs(sum(frame.samples for frame in frames) / rate - 1) < 0.1
        # Two halves of a second, one behind the other.
        assert abs(times[-1] - times[0] - 1) < 0.1
        assert all(later - earlier < 0.1 for earlier, later in itertools.pairwise(times))
        assert container.duration < 2_600_000


@pytest.mark.parametrize("codec", [None, "aac"])
def test_sound_that_is_announced_and_never_comes_is_left_out_with_a_word(
    tmp_path: Path, codec: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clip, source = make_clip(tmp_path / "clip.ts", audio="aac"), tmp_path / "in.ts"
    with av.open(str(clip)) as opened, av.open(str(source), "w") as out:
        made = [out.add_stream_from_template(s, opaque=True) for s in opened.streams]
        for packet in opened.demux(opened.streams.video[0]):
            if packet.size:
                packet.stream = made[packet.stream_index]
                out.mux(packet)
    run = through(source, tmp_path / "out.mp4", audio_codec=codec)
    assert (run.frames, run.dropped) == (12, ["audio"])
    assert "it is announced, but no sound in it was found" in caplog.text


def test_sound_that_a_recorder_gets_later_than_the_picture_is_kept(tmp_path: Path) -> None:
    silent = make_clip(tmp_path / "silent.ts", frames=60)
    parts = [silent, make_clip(tmp_path / "both.ts", audio="aac")]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    run = through(source, tmp_path / "out.mkv")
    assert (run.frames, run.dropped) == (72, [])
    before, after = read_content(parts[1]).packets[1], read_content(tmp_path / "out.mkv").packets[1]
    assert len(after) == len(before)


@pytest.mark.parametrize("codec", [None, "aac"])
@pytest.mark.parametrize("target", ["mkv", "mp4"])
def test_sound_that_changes_its_codec_ends_there_with_a_word(
    tmp_path: Path, target: str, codec: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Else packets of one codec would go into a track, or a decoder, of another."""
    parts = [with_sound(tmp_path / f"{name}.ts", name, rate=48000) for name in ("aac", "ac3")]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    run = through(source, tmp_path / f"out.{target}", audio_codec=codec)
    assert run.frames == 24
    assert "its audio #1 changes to another codec in mid-stream; what is of that" in caplog.text
    with av.open(str(tmp_path / f"out.{target}")) as made:
        seconds = sum(frame.samples / frame.sample_rate for frame in made.decode(audio=0))
    assert 0.4 < seconds < 0.7


def test_damaged_sound_that_is_converted_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_clip(tmp_path / "in.mkv", audio="aac", frames=25)
    data, at = bytearray(source.read_bytes()), 0
    for _, packet in read_content(source).packets[1][3:6]:
        at = data.index(packet, at)
        data[at : at + len(packet)] = b"\xff" * len(packet)
    source.write_bytes(data)
    through(source, tmp_path / "out.mkv", audio_codec="aac")
    assert "3 damaged packets of audio #1 could not be decoded" in caplog.text


def test_y4m_tells_the_rate_of_the_source(tmp_path: Path) -> None:
    through(make_clip(tmp_path / "in.mkv"), tmp_path / "out.y4m")
    with av.open(str(tmp_path / "out.y4m")) as made:
        assert made.streams.video[0].average_rate == 25


def test_telemetry_beside_chapters_is_no_chapter_track(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    source = tmp_path / "in.mp4"
    chapters = [{"id": n, "start": n * 200, "end": n * 200 + 200, "time_base": Fraction(1, 1000),
                 "metadata": {"title": f"part {n}"}} for n in range(2)]  # fmt: skip
    with av.open(str(clip)) as opened, av.open(str(source), "w") as out:
        video = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        data = out.add_data_stream("bin_data")
        out.set_chapters(chapters)
        for number in range(3):
            packet: Any = av.Packet(b"DEVC" + bytes([number]) * 20)
            packet.pts = packet.dts = number * 100
            packet.duration, packet.time_base = 100, Fraction(1, 1000)
            packet.stream = data
            out.mux(packet)
        for packet in opened.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
    with av.open(str(source)) as container:
        assert [s.type for s in container.streams] == ["video", "data", "data"]
    through(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.chapters()) == 2
        found = [bytes(p) for p in container.demux() if p.size and p.stream.type == "data"]
    assert [data for data in found if data.startswith(b"DEVC")] == [
        b"DEVC" + bytes([number]) * 20 for number in range(3)
    ]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_box(path: Path, added: bytes) -> Path:
    """Put a box behind what an MP4 says of its H.264; its index has to lie behind its pictures."""
    data, at, within = bytearray(path.read_bytes()), 0, []
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(kind, at) - 4
        within.append(at)
        at += 8
    end = within[-1] + struct.unpack_from(">I", data, within[-1])[0]
    for start in within:
        size = struct.unpack_from(">I", data, start)[0] + len(added)
        struct.pack_into(">I", data, start, size)
    path.write_bytes(data[:end] + added + data[end:])
    return path


SPHERE = box(b"sv3d", box(b"svhd", bytes(5)) + box(
    b"proj", box(b"prhd", bytes(16)) + box(b"equi", bytes(20))
))  # fmt: skip
BESIDE = {
    "360-degree projection": SPHERE,
    "stereo 3D": box(b"st3d", bytes(4) + b"\1"),
    "cropping": box(b"clap", struct.pack(">8I", 32, 1, 48, 1, 0, 1, 0, 1)),
    "stereo 3D and 360-degree projection": SPHERE + box(b"st3d", bytes(4) + b"\2"),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_what_stands_beside_the_picture_and_is_not_carried_is_named(
    tmp_path: Path, name: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = with_box(make_clip(tmp_path / "in.mp4"), BESIDE[name])
    run = through(source, tmp_path / f"out.{ending}")
    assert run.frames == 12
    assert f"the source's {name} metadata is not carried into the result" in caplog.text


def test_side_data_that_pyav_has_no_name_for_is_passed_over(tmp_path: Path) -> None:
    """Exif in each picture, by which FFmpeg 8 gives its frame kind 31."""
    source = make_clip(tmp_path / "in.mjpeg", codec="mjpeg", pix_fmt="yuvj420p")
    tiff = b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x10E, 2, 3, b"abc\0", 0)
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    source.write_bytes(source.read_bytes().replace(b"\xff\xd8", b"\xff\xd8" + exif))
    with av.open(str(source)) as container:
        (data,) = next(container.decode(video=0)).side_data
        assert "UNNAMED" in data.type.name
    run = through(source, tmp_path / "out.mkv")
    assert (run.frames, run.damaged) == (12, 0)


@pytest.mark.parametrize("second", ["mpeg2video", "libx265", "mpeg4"])
@pytest.mark.parametrize("first", ["libx264", "libx265", "mpeg2video"])
def test_a_codec_that_changes_in_mid_stream_ends_the_video_whole_and_with_a_word(
    tmp_path: Path, first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    if first == second:
        pytest.skip("nothing changes")
    quiet = {"x265-params": "log-level=none"}
    parts = [
        make_clip(tmp_path / f"{codec}.ts", codec=codec, frames=25, options={"bf": "2"} | quiet)
        if codec == "libx265" else make_clip(tmp_path / f"{codec}.ts", codec=codec, frames=25)
        for codec in (first, second)
    ]  # fmt: skip
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    run = through(source, tmp_path / "out.mkv", video_codec="ffv1")
    assert (run.frames, run.damaged) == (25, 0)
    wanted = read_content(parts[0])
    assert equal_planes(read_content(tmp_path / "out.mkv").planes, wanted.planes)
    assert "changes to another codec in mid-stream; what follows is left out" in caplog.text


def test_a_codec_that_changes_at_once_gives_what_follows_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FFmpeg has seen the change when it tells of a decoder."""
    parts = [
        make_clip(tmp_path / f"{codec}.ts", codec=codec, frames=frames)
        for codec, frames in (("libx264", 3), ("mpeg2video", 25))
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    run = through(source, tmp_path / "out.mkv")
    assert run.frames == 25
    assert "its first pictures are of another codec than what follows" in caplog.text


@pytest.mark.parametrize("size", [(71, 53), (71, 54), (70, 53)])
def test_an_odd_side_that_libx264_refuses_is_named_and_the_remedies_work(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    source = make_clip(tmp_path / "in.mkv", codec="ffv1", size=size)
    odd = " and ".join(n for n, side in zip(("width", "height"), size, strict=True) if side % 2)
    with pytest.raises(MediaError, match=f"libx264 takes no odd {odd} with yuv420p") as refused:
        through(source, tmp_path / "out.mp4")
    assert "give -pix_fmt yuv444p, or -c:v ffv1 with an .mkv target, or crop" in str(refused.value)
    through(source, tmp_path / "out.mp4", pix_fmt="yuv444p")
    through(source, tmp_path / "out.mkv", video_codec="ffv1")
    wanted = read_content(source)
    assert equal_planes(read_content(tmp_path / "out.mkv").planes, wanted.planes)
    for luma in read_content(tmp_path / "out.mp4").luma:
        assert luma.shape == size[::-1]
