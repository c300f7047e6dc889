"""What a target cannot hold: the streams are named, and each way out that is named works."""

import functools
import re
import shutil
import subprocess
from collections.abc import Callable
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
from clips import make_clip, read_content

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg makes the sources")
VIDEO = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.48")
WORDS = "1\n00:00:00,000 --> 00:00:00,300\nHello\n"


def through(source: Path, target: Path, reading: SourceOptions | None = None, **kw: Any) -> Run:
    options = FilterOptions(
        reading or SourceOptions(), TargetOptions(**kw), RestoreOptions(strength=0)
    )
    return filter_video(source, target, options=options)


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", *arguments], check=True)


@functools.cache
def encoders() -> str:
    return subprocess.run(["ffmpeg", "-encoders"], capture_output=True, text=True).stdout


def with_sound(path: Path, codec: str, rate: int = 8000, channels: int = 1) -> Path:
    """A clip of 12 frames with sound that PyAV's own FFmpeg may have no encoder for."""
    if f" {codec} " not in encoders():
        pytest.skip(f"this ffmpeg has no encoder {codec}")
    pictures = {".flv": "flv", ".ts": "mpeg2video", ".m2ts": "mpeg2video"}
    tone = f"sine=r={rate}:d=0.48"
    ffmpeg(
        *VIDEO, "-f", "lavfi", "-i", tone, "-c:v", pictures.get(path.suffix, "mpeg4"),
        "-c:a", codec, "-ac", str(channels),
        *(("-b:a", "32k") if codec == "g726" else ()), "-strict", "-2", path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("codec", "ending", "target"),
    [("libgsm_ms", "avi", "mkv"), ("libgsm", "mov", "mov"), ("g726", "avi", "mkv"),
     ("libspeex", "flv", "mkv"), ("libspeex", "mkv", "flv"), ("g723_1", "mov", "mkv"),
     ("s302m", "ts", "ts")],
)  # fmt: skip
def test_sound_of_telephones_and_studios_is_copied(
    tmp_path: Path, codec: str, ending: str, target: str
) -> None:
    rate, channels = {"s302m": (48000, 2), "libspeex": (16000, 1)}.get(codec, (8000, 1))
    source = with_sound(tmp_path / f"in.{ending}", codec, rate, channels)
    through(source, tmp_path / f"out.{target}")
    (before,) = read_content(source).packets.values()
    (after,) = read_content(tmp_path / f"out.{target}").packets.values()
    assert [data for _, data in after] == [data for _, data in before]


def test_pcm_without_a_layout_goes_into_flv(tmp_path: Path) -> None:
    """FFmpeg 8.1 ended the process."""
    source = with_sound(tmp_path / "in.avi", "pcm_u8", 11025)
    through(source, tmp_path / "out.flv")
    assert sum(read_content(tmp_path / "out.flv").types.count(t) for t in ("audio", "video")) == 2


@pytest.mark.parametrize(
    ("codec", "ending", "target"),
    [("dfpwm", "nut", "mov"), ("adpcm_ms", "nut", "mkv"), ("adpcm_ms", "nut", "avi"),
     ("adpcm_ima_wav", "avi", "avi")],
)  # fmt: skip
def test_sound_that_nobody_would_hear_is_refused_and_the_remedy_keeps_it(
    tmp_path: Path, codec: str, ending: str, target: str
) -> None:
    """The muxer takes it; what it writes is not known again, lacks what the decoder needs, or says
    that a block lasts a fourth of its time."""
    source = with_sound(tmp_path / f"in.{ending}", codec, 48000, 2)
    with pytest.raises(MediaError, match=r"cannot hold stream #1 .*; give -c:a aac"):
        through(source, tmp_path / f"out.{target}")
    through(source, tmp_path / f"out.{target}", audio_codec="aac")
    assert abs(heard(tmp_path / f"out.{target}") - heard(source)) < 0.05


@pytest.mark.parametrize(("target", "closes"), [("mov", True), ("avi", True), ("mkv", False)])
def test_a_pause_that_the_target_closes_up_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str, closes: bool
) -> None:
    source, paused = tmp_path / "in.mkv", "aselect='lt(t,1)+gt(t,2)'"
    tone = ("-f", "lavfi", "-i", "sine=d=3:r=8000", "-af", paused, "-c:a", "pcm_alaw")
    ffmpeg(*VIDEO[:3], "testsrc2=s=64x48:r=25:d=3", *tone, "-c:v", "mpeg4", source)
    through(source, tmp_path / f"out.{target}")
    told = re.search(rf"pauses for (\S+) s at \S+ s, which the {target} format closes", caplog.text)
    assert (told is not None) == closes
    assert told is None or 0.8 < float(told[1]) < 1.2


def heard(path: Path) -> float:
    """Seconds of sound that a decoder gives."""
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize("target", ["mov", "mp4"])
def test_the_last_packet_of_sound_is_heard(tmp_path: Path, target: str) -> None:
    """Matroska tells no duration of ALAC's packets, nor of the last one by the next one's time."""
    source = with_sound(tmp_path / "in.mkv", "alac", 48000, 2)
    through(source, tmp_path / f"out.{target}")
    assert heard(tmp_path / f"out.{target}") == heard(source)


def test_s302m_becomes_plain_samples(tmp_path: Path) -> None:
    source = with_sound(tmp_path / "in.ts", "s302m", 48000, 2)
    through(source, tmp_path / "out.mkv")

    def samples(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)

    assert np.array_equal(samples(tmp_path / "out.mkv"), samples(source))


def sound(codec: str, ending: str, rate: int = 44100) -> Callable[[Path], Path]:
    return lambda folder: with_sound(folder / f"in.{ending}", codec, rate)


def subtitles(folder: Path) -> Path:
    (folder / "words.srt").write_text(WORDS)
    ffmpeg(*VIDEO, "-i", folder / "words.srt", "-c:s", "srt", folder / "in.mkv")
    return folder / "in.mkv"


def attachment(folder: Path) -> Path:
    (folder / "font.ttf").write_bytes(b"letters")
    kind = ("-metadata:s:t", "mimetype=application/x-truetype-font")
    ffmpeg(*VIDEO, "-attach", folder / "font.ttf", *kind, folder / "in.mkv")
    return folder / "in.mkv"


def cover(folder: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32", "-frames:v", "1", folder / "cover.png")
    ffmpeg(
        *VIDEO, "-i", folder / "cover.png", "-map", "0", "-map", "1", "-c:v:1", "png",
        "-disposition:v:1", "attached_pic", folder / "in.mp4",
    )  # fmt: skip
    return folder / "in.mp4"


def telemetry(folder: Path) -> Path:
    with (
        av.open(str(make_clip(folder / "clip.mp4"))) as opened,
        av.open(str(folder / "in.mp4"), "w") as out,
    ):
        video = out.add_stream_from_template(opened.streams.video[0], opaque=True)
        data = out.add_data_stream("bin_data")
        for packet in opened.demux():
            if packet.size:
                beside: Any = av.Packet(b"DEVC" * 5)
                beside.pts = beside.dts = packet.pts
                beside.time_base, beside.duration = packet.time_base, packet.duration
                packet.stream, beside.stream = video, data
                out.mux([packet, beside])
    return folder / "in.mp4"


def several(folder: Path) -> Path:
    ffmpeg("-i", attachment(folder), "-i", with_sound(folder / "in.wmv", "wmav2", 44100),
           "-map", "0", "-map", "1:a", "-c", "copy", folder / "several.mkv")  # fmt: skip
    return folder / "several.mkv"


REMEDIES: dict[str, dict[str, Any]] = {
    "-c:a aac": {"audio_codec": "aac"},
    "-c:a pcm_s16le": {"audio_codec": "pcm_s16le"},
    "--drop-unsupported": {"drop_unsupported": True},
}


def reading(way: str) -> SourceOptions:
    """Options that leave out streams."""
    left_out = {name: f"-{name[0]}n" not in way for name in ("audio", "subtitles", "data")}
    return SourceOptions(**left_out, maps=tuple(re.findall(r"-map (\S+)", way)))


@pytest.mark.parametrize(
    ("source_of", "target", "ways"),
    [
        (sound("wmav2", "wmv"), "mp4", 4), (sound("adpcm_ms", "avi"), "mp4", 4),
        (sound("pcm_bluray", "m2ts", 48000), "ts", 4), (sound("libgsm", "mov", 8000), "mkv", 4),
        (sound("libspeex", "flv", 16000), "mp4", 4), (sound("g726", "avi", 8000), "mp4", 4),
        (subtitles, "ts", 3), (attachment, "mp4", 3), (attachment, "webm", 3), (cover, "mov", 3),
        (cover, "ts", 3), (telemetry, "mkv", 3), (telemetry, "ts", 3), (several, "mp4", 3),
        (several, "ts", 3),
    ],
)  # fmt: skip
def test_every_remedy_that_is_named_works(
    tmp_path: Path, source_of: Callable[[Path], Path], target: str, ways: int
) -> None:
    source, webm = source_of(tmp_path), {"video_codec": "libvpx-vp9"} if target == "webm" else {}
    with pytest.raises(MediaError, match=r"cannot hold stream #\d") as refused:
        through(source, tmp_path / f"out.{target}", **webm)
    named = re.split(r", (?:or )?", str(refused.value).split("; give ")[1])
    assert len(named) == ways
    for number, way in enumerate(named):
        other = re.search(r"an? (\.\w+) target", way)
        written = tmp_path / f"out{number}{other.group(1) if other else '.' + target}"
        given = REMEDIES.get(way) or ({} if other else {"reading": reading(way)})
        assert through(source, written, **given, **({} if other else webm)).frames == 12


def test_cover_art_of_a_png_goes_into_matroska(tmp_path: Path) -> None:
    through(cover(tmp_path), tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert [s.codec_context.name for s in made.streams if s.codec_context][1:] == ["png"]
