"""Cameras: real servers on loopback that send in real time, fall silent, die and come back."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cameras import Process, carfilter, ended, feed, free_port, rtsp_camera, stop, wait_for
from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import Model
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import make_clip, read_content, tiny_weights

FRAME = 1 / 25
SLOW_TCP, SLOW_UDP = (pytest.param(name, marks=pytest.mark.slow) for name in ("tcp", "udp"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path / "tiny.pt")


def seconds_of(path: Path) -> tuple[list[float], list[float]]:
    """Seconds of all video frames, and of all packets of the first audio stream."""
    content = read_content(path)
    audio = next(iter(content.packets.values()), [])
    return [float(at) for at in content.seconds], [float(at) for at, _ in audio]


def gaps(seconds: list[float], longer_than: float = 0.5) -> list[tuple[float, float]]:
    return [(a, b) for a, b in pairwise(seconds) if b - a > longer_than]


@pytest.mark.rtsp
@pytest.mark.parametrize("transport", ["tcp", SLOW_UDP])
def test_a_camera_is_recorded_over_rtsp_from_zero_with_its_audio(
    tmp_path: Path, weights: Path, transport: str
) -> None:
    port, target = free_port(), tmp_path / "out.mkv"
    with (
        rtsp_camera(port),
        carfilter(
            "--live", "-rtsp_transport", transport, f"rtsp://127.0.0.1:{port}/camera", target,
            "-t", "3", "--weights", weights,
        ) as run,
    ):  # fmt: skip
        _, text = run.communicate(timeout=180)
    assert run.returncode == 0, text
    video, audio = seconds_of(target)
    assert len(video) == pytest.approx(75, abs=3)
    assert abs(video[0]) < 0.1
    assert video[-1] == pytest.approx(3, abs=0.1)
    assert not gaps(video, 0.1)
    assert not gaps(audio, 0.1)
    assert audio[-1] == pytest.approx(video[-1], abs=0.2)


@pytest.mark.rtsp
@pytest.mark.parametrize("transport", ["udp", SLOW_TCP])
def test_a_camera_that_dies_and_comes_back_leaves_a_gap_as_long_as_it_was_away(
    tmp_path: Path, weights: Path, transport: str
) -> None:
    port, target = free_port(), tmp_path / "out.mkv"
    report = tmp_path / "progress.txt"
    url, reading = f"rtsp://127.0.0.1:{port}/camera", ("-rtsp_transport", transport)
    options = ("--weights", weights, "-progress", report)
    with rtsp_camera(port) as camera, carfilter("--live", url, target, *reading, *options) as run:
        wait_for(run, b"model ")
        time.sleep(2)
        camera.kill()
        killed = time.monotonic()
        wait_for(run, b"gone")
        with rtsp_camera(port):
            back = time.monotonic()
            wait_for(run, b"back after")
            time.sleep(2)
            code, text = stop(run, signal.SIGTERM)
    assert code == 143, text
    assert "; 1 reconnects;" in text
    assert "reconnects=1\n" in report.read_text()
    video, audio = seconds_of(tmp_path / "out.partial.mkv")
    assert all(a < b for a, b in pairwise(video))
    for seconds in (video, audio):
        ((before, after),) = gaps(seconds)
        # It may connect some time after the camera is up, since the pauses grow.
        assert back - killed - 0.5 < after - before < back - killed + 5
        assert after - before == pytest.approx(gaps(video)[0][1] - gaps(video)[0][0], abs=0.2)


@pytest.mark.rtsp
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_recording_at_once_even_where_the_camera_is_silent(
    tmp_path: Path, weights: Path, number: signal.Signals
) -> None:
    with recording(tmp_path / "out.mkv", "--weights", weights) as (camera, run):
        time.sleep(2)
        camera.send_signal(signal.SIGSTOP)
        time.sleep(1)
        code, text = stop(run, number)
    assert code == 128 + number, text
    assert [p.name for p in tmp_path.glob("*.mkv")] == ["out.partial.mkv"]
    assert len(seconds_of(tmp_path / "out.partial.mkv")[0]) > 25


def test_a_signal_ends_reading_up_to_a_start_that_has_not_come(tmp_path: Path) -> None:
    clip, pipe = make_clip(tmp_path / "in.ts", frames=50), tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    command = ["ffmpeg", "-v", "error", "-nostdin", "-stream_loop", "-1", "-i", str(clip)]
    feeding = [*command, "-c", "copy", "-f", "mpegts", "-y", str(pipe)]
    arguments = (pipe, tmp_path / "out.mp4", "-ss", "1000000", "--strength", "0")
    with ended(subprocess.Popen(feeding)), carfilter(*arguments) as run:
        wait_for(run, b"strength 0")
        time.sleep(1)
        began = time.monotonic()
        code, text = stop(run, signal.SIGINT)
    assert code == 130, text
    assert time.monotonic() - began < 6
    assert "nothing is written" in text


@pytest.mark.slow
@pytest.mark.rtsp
def test_a_silent_camera_counts_as_gone_and_is_asked_again(tmp_path: Path, weights: Path) -> None:
    with recording(tmp_path / "out.mkv", "--weights", weights) as (camera, run):
        time.sleep(1)
        camera.send_signal(signal.SIGSTOP)
        wait_for(run, b"gone (nothing came for too long); connecting again")
        camera.send_signal(signal.SIGCONT)
        wait_for(run, b"back after")
        time.sleep(1)
        stop(run, signal.SIGINT)
    ((before, after),) = gaps(seconds_of(tmp_path / "out.partial.mkv")[0])
    assert after - before > 8


@pytest.mark.slow
@pytest.mark.rtsp
def test_without_live_a_lost_camera_ends_the_run_with_a_warning(tmp_path: Path) -> None:
    port, target = free_port(), tmp_path / "out.mkv"
    with rtsp_camera(port) as camera:
        url = f"rtsp://127.0.0.1:{port}/camera"
        with carfilter(url, target, "--strength", "0", "-rtsp_transport", "tcp") as run:
            wait_for(run, b"strength 0")
            time.sleep(1)
            camera.kill()
            assert run.wait(30) == 0
    assert len(seconds_of(target)[0]) > 10


@contextmanager
def recording(target: Path, *options: object) -> Iterator[tuple[Process, Process]]:
    """Start a camera, and a recording of it that has connected."""
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/camera"
    with rtsp_camera(port) as camera, carfilter("--live", url, target, *options) as run:
        wait_for(run, b"model ")
        yield camera, run


@pytest.mark.slow
@pytest.mark.ffmpeg
def test_a_transport_stream_over_udp_goes_on_where_the_sender_pauses(
    tmp_path: Path, weights: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, audio="aac", options={"g": "10"})
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    with carfilter("--live", url, target, "--weights", weights) as run:
        with feed(clip, url, "mpegts"):
            wait_for(run, b"model ")
            time.sleep(2)
        wait_for(run, b"gone (nothing came for too long)")
        with feed(clip, url, "mpegts"):
            wait_for(run, b"back after")
            time.sleep(2)
            code, text = stop(run, signal.SIGTERM)
    assert code == 143, text
    video, audio = seconds_of(tmp_path / "out.partial.mkv")
    assert len(gaps(video)) == len(gaps(audio)) == 1
    assert gaps(video)[0][1] - gaps(video)[0][0] > 8
    assert all(a < b for a, b in pairwise(video))


@pytest.mark.ffmpeg
@pytest.mark.parametrize(
    ("scheme", "form", "path"),
    [
        ("rtmp", "flv", "/live/camera"),
        pytest.param("http", "mpegts", "", marks=pytest.mark.slow),
    ],
)
def test_rtmp_and_http_streams_are_read_as_ffmpeg_reads_them(
    tmp_path: Path, scheme: str, form: str, path: str
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=100, audio="aac", options={"g": "10"})
    url, target = f"{scheme}://127.0.0.1:{free_port()}{path}", tmp_path / "out.mkv"
    with feed(clip, url, form, "-listen", "1", loops=0) as sender:
        time.sleep(1)  # there is no sign of its listening but a connection, and it takes only one
        options = ("-t", "2", "--strength", "0", "-loglevel", "error")
        with carfilter("--live", url, target, *options) as run:
            _, text = run.communicate(timeout=180)
            assert (run.returncode, text) == (0, b"")
        sender.kill()
    video, audio = seconds_of(target)
    # The priming of AAC comes first; the time line starts with it.
    assert len(video) == pytest.approx((2 - video[0]) * 25, abs=2)
    assert video[0] < 0.2
    assert not gaps([*video, 2.0], 0.1)
    assert not gaps(audio, 0.2)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://127.0.0.1:{}/camera",
        pytest.param("udp://127.0.0.1:{}", marks=pytest.mark.slow),
    ],
)
def test_a_source_that_is_not_there_fails_in_time_with_one_sentence(
    tmp_path: Path, url: str
) -> None:
    started = time.monotonic()
    target = tmp_path / "out.mkv"
    options = ("--live", "--strength", "0", "-loglevel", "error")
    with carfilter(url.format(free_port()), target, *options) as run:
        _, text = run.communicate(timeout=180)
    assert run.returncode == 1
    assert b"cannot be opened" in text
    assert text.count(b"\n") == 1
    assert time.monotonic() - started < 60  # of which torch may take much on a busy machine
    assert not list(tmp_path.iterdir())


def test_live_is_refused_where_it_has_no_meaning(tmp_path: Path) -> None:
    clip, options = make_clip(tmp_path / "in.mp4"), FilterOptions(live=True)
    with pytest.raises(MediaError, match="is a file and no live source; leave out --live"):
        filter_video(clip, tmp_path / "out.mkv", model(SlowShift(0)), options)
    options = FilterOptions(SourceOptions(start_seconds=3), live=True)
    with pytest.raises(MediaError, match="-ss has no place in a live source"):
        filter_video("udp://127.0.0.1:9", tmp_path / "out.mkv", model(SlowShift(0)), options)


class SlowShift(nn.Module):
    """A network that adds 40 grey levels, and takes longer for a frame than the camera."""

    uses_qp, halo, live_bytes = False, 0, 0

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
        time.sleep(self.seconds)
        return torch.full_like(luma, 40 / 128)


def model(network: nn.Module) -> Model:
    return Model(network, "test", "0" * 64)  # type: ignore[arg-type]


@pytest.mark.ffmpeg
def test_frames_pass_unrestored_for_a_second_at_least_where_the_network_falls_behind(
    tmp_path: Path,
) -> None:
    clip = tmp_path / "in.ts"
    gray = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=gray:s=64x48:r=25"]
    subprocess.run([*gray, "-t", "8", "-g", "25", "-bf", "0", str(clip)], check=True)
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    delays: list[float] = []

    def note_delay(run: Run) -> None:
        delays.append(time.monotonic() - run.video_seconds)

    options = FilterOptions(
        SourceOptions(end_seconds=6),
        TargetOptions(video_codec="ffv1"),
        RestoreOptions(device="cpu", precision="fp32", reuse=False),  # each frame is slow
        live=True,
    )
    with feed(clip, url, "mpegts"):
        run = filter_video(url, target, model(SlowShift(0.08)), options, progress=note_delay)
    content = read_content(target)
    assert run.frames == len(content.planes) == pytest.approx(150, abs=2)
    assert not gaps([float(at) for at in content.seconds], 1.5 * FRAME)  # not one is lost
    means = [float(np.mean(luma)) for luma in content.luma]
    restored = [mean > min(means) + 20 for mean in means]
    assert restored.count(False) == run.passed
    spells = [(way, len(list(frames))) for way, frames in groupby(restored)]
    passed = [count for way, count in spells[:-1] if not way]
    assert len(passed) >= 2
    assert min(passed) >= 25
    assert any(way for way, _ in spells)
    assert max(delays) - min(delays) < 2.0  # the delay is bounded


@pytest.mark.ffmpeg
def test_a_network_that_keeps_up_restores_every_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.ts", frames=50, options={"g": "10"})
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    options = FilterOptions(SourceOptions(end_seconds=3), live=True)
    with feed(clip, url, "mpegts"):
        run = filter_video(url, target, model(SlowShift(0.0)), options)
    assert run.passed == 0
    assert run.frames == pytest.approx(75, abs=2)
