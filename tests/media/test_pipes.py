"""Between two ffmpeg programs: every container that goes through a pipe, in and out."""

import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import pytest

from cameras import COMMAND
from clips import equal_planes, make_clip, read_content

pytestmark = pytest.mark.ffmpeg

BT709 = {"color_range": 1, "colorspace": 1, "color_trc": 1, "color_primaries": 1}
FRAGMENTS = ["-movflags", "frag_keyframe+delay_moov+default_base_moof"]


@dataclass(frozen=True)
class Pipe:
    """How one format is written and read at a pipe."""

    send: list[str]  # of the ffmpeg before us
    write: list[str]  # our own options
    read: list[str]  # ours, and those of the ffmpeg behind us
    input_options: list[str]
    times: bool = True
    audio: bool = True
    colours: bool = True
    exact: bool = True  # what we write by these options is lossless


RAW = ["-c:v", "rawvideo"]
PIPES = {
    "nut": Pipe([*RAW, "-c:a", "copy"], [], [], [], colours=False),
    "matroska": Pipe(["-c", "copy"], ["-c:v", "ffv1"], [], []),
    "matroska_raw": Pipe([*RAW, "-c:a", "copy"], RAW, [], []),
    "mpegts": Pipe(["-c", "copy"], [], [], [], exact=False),
    "mp4": Pipe(["-c", "copy", *FRAGMENTS], [], [], [], exact=False),
    "yuv4mpegpipe": Pipe(["-an"], ["-an"], [], [], times=False, audio=False, colours=False),
    "h264": Pipe(
        ["-c", "copy", "-an"], ["-an"], ["--input-format", "h264", "-framerate", "25"],
        ["-f", "h264", "-framerate", "25"], times=False, audio=False, exact=False,
    ),
}  # fmt: skip


def form(name: str) -> list[str]:
    return ["-f", name.removesuffix("_raw")]


def through(source: Path, target: Path, before: str, after: str, *options: str) -> str:
    """Pipe a clip through ffmpeg, carfilter and ffmpeg; return what carfilter printed."""
    first, last = PIPES[before], PIPES[after]
    ffmpeg = ["ffmpeg", "-v", "error", "-nostdin"]
    read = [*ffmpeg, "-i", str(source), "-copyts", "-fps_mode", "passthrough"]
    read += [*first.send, *form(before), "-"]
    ours = [*COMMAND, "-", "-", "--strength", "0", *first.read, *last.write, *form(after), *options]
    write = [*ffmpeg, "-copyts", *last.input_options, "-i", "-", "-fps_mode", "passthrough"]
    write += ["-c", "copy"]
    # A raw stream has no times to copy.
    write += ["-c:v", "ffv1"] if last.exact or not last.times else []
    with (
        subprocess.Popen(read, stdout=subprocess.PIPE) as reader,
        subprocess.Popen(
            ours, stdin=reader.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as middle,
    ):
        assert reader.stdout is not None
        assert middle.stderr is not None
        reader.stdout.close()
        subprocess.run([*write, str(target)], stdin=middle.stdout, check=True, timeout=120)
        text = middle.stderr.read().decode()
    assert (reader.returncode, middle.returncode) == (0, 0), text
    return text


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mkv", frames=30, audio="aac", context=BT709)


def colours(path: Path) -> tuple[int, ...]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return (frame.color_range, frame.colorspace, frame.color_trc, frame.color_primaries)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *(("mpegts", name) for name in ("nut", "matroska", "mp4")),
        *(("nut", name) for name in ("yuv4mpegpipe", "h264", "mpegts")),
        *(("yuv4mpegpipe", "matroska_raw"), ("h264", "nut")),
        *(pytest.param(name, "matroska", marks=pytest.mark.slow) for name in PIPES),
        *(pytest.param("matroska", name, marks=pytest.mark.slow) for name in PIPES),
    ],
)
def test_frames_times_colours_and_audio_go_through_a_pipe(
    tmp_path: Path, clip: Path, before: str, after: str
) -> None:
    target = tmp_path / "out.mkv"
    text = through(clip, target, before, after)
    ways = [PIPES[before], PIPES[after]]
    wanted, got = read_content(clip), read_content(target)
    assert len(got.planes) == len(wanted.planes) == 30
    if all(way.times for way in ways):
        # The ffmpeg programs shift all streams alike, by the priming of AAC or more.
        shift = got.seconds[0] - wanted.seconds[0]
        for at, meant in zip(got.seconds, wanted.seconds, strict=True):
            assert abs(at - shift - meant) <= Fraction(1, 500)
    if ways[1].exact:
        assert equal_planes(got.planes, wanted.planes)
    if all(way.colours for way in ways):
        assert colours(target) == (1, 1, 1, 1)
    lost = ways[0].colours and not ways[1].colours
    assert ("cannot hold the picture's colour tags" in text) == lost
    if all(way.audio for way in ways):
        assert [d for _, d in got.packets[1]] == [d for _, d in wanted.packets[1]]
        for (at, _), (meant, _) in zip(got.packets[1], wanted.packets[1], strict=True):
            assert abs(at - shift - meant) <= Fraction(1, 50)  # a tick of the ffmpegs' video
    else:
        assert not got.packets


def test_y4m_refuses_audio_and_tells_that_it_holds_no_times(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", pts=[0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13], audio="aac")
    command = [*COMMAND, str(clip), "-", "-f", "yuv4mpegpipe", "--strength", "0"]
    refused = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"cannot hold stream #1 (audio, aac)" in refused.stderr
    given = subprocess.run([*command, "-an"], capture_output=True, timeout=60, check=False)
    assert given.returncode == 0
    assert given.stdout.count(b"FRAME") == 12
    assert given.stderr.count(b"holds no timestamps: from frame 3 on") == 1


def test_an_mp4_on_stdin_with_its_index_at_the_end_is_told_what_to_do(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=100, size=(640, 480), options={"qp": "2"})
    assert clip.stat().st_size > 8 << 20  # FFmpeg goes back within what it still holds
    assert clip.read_bytes().index(b"mdat") < clip.read_bytes().index(b"moov")
    with subprocess.Popen(["cat", str(clip)], stdout=subprocess.PIPE) as cat:
        run = subprocess.run(
            [*COMMAND, "-", str(tmp_path / "out.mkv"), "--strength", "0", "-loglevel", "error"],
            stdin=cat.stdout, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert b"an MP4 whose index lies at its end" in run.stderr
    assert b"needs -movflags +faststart" in run.stderr
    assert run.stderr.count(b"\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_library_that_prints_from_its_threads_cannot_soil_any_pipe(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=50)
    noisy = (
        "import os, carfilter.run.live, carfilter.media.target as t\n"
        "from carfilter.commands.restore import main\n"
        "real = t.Target.write_frame\n"
        "def write(self, frame):\n"
        "    os.write(1, b'noise'); print('noise', flush=True); real(self, frame)\n"
        "t.Target.write_frame = write; main()"
    )
    command = [sys.executable, "-c", noisy, str(clip), "-", "--strength", "0", "-f", "matroska"]
    run = subprocess.run([*command, "-c:v", "ffv1"], capture_output=True, timeout=60, check=True)
    assert b"noise" not in run.stdout
    assert run.stderr.count(b"noise") == 100
    out = tmp_path / "out.mkv"
    out.write_bytes(run.stdout)
    assert equal_planes(read_content(out).planes, read_content(clip).planes)
