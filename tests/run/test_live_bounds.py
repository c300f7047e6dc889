"""Live sources at their edges: playlists that end, bursts at the start, broken links, -t."""

import functools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from cameras import carfilter, ended, feed, free_port, stop, wait_for
from carfilter.media.source import Decoded
from carfilter.run.live import Pace
from clips import make_clip, read_content, tiny_weights

pytestmark = pytest.mark.ffmpeg


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def frame_at(seconds: float, arrived: float) -> Decoded:
    frame = av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="gray")
    frame.pts, frame.time_base = round(seconds * 25), Fraction(1, 25)
    return Decoded(frame, None, 0, arrived=arrived)


@pytest.mark.slow
def test_a_playlist_that_ends_ends_the_recording_and_repeats_nothing(tmp_path: Path) -> None:
    clip, folder = make_clip(tmp_path / "in.mp4", frames=25, options={"g": "25"}), tmp_path / "hls"
    folder.mkdir()
    weights, target = tiny_weights(tmp_path / "tiny.pt"), tmp_path / "out.mkv"
    options = ("-hls_time", "1", "-hls_list_size", "4")
    sending = feed(clip, str(folder / "live.m3u8"), "hls", *options, loops=9)
    with served(folder) as address, sending as sender:
        while not (folder / "live.m3u8").exists():
            time.sleep(0.1)
        time.sleep(2)
        with carfilter("--live", f"{address}/live.m3u8", target, "--weights", weights) as run:
            _, text = run.communicate(timeout=60)
        sender.wait(30)
    assert run.returncode == 0, text
    seconds = read_content(target).seconds
    assert 100 < len(seconds) <= 250
    assert seconds[-1] < 10
    assert b"passed unrestored" not in text


@pytest.mark.slow
def test_what_a_playlist_has_after_an_outage_is_given_at_once(tmp_path: Path) -> None:
    clip, folder = make_clip(tmp_path / "in.mp4", frames=125, options={"g": "25"}), tmp_path / "hls"
    folder.mkdir()
    cut = ("-c", "copy", "-f", "hls", "-hls_time", "1", "-hls_list_size", "0")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(clip), *cut, folder / "whole.m3u8"]
    subprocess.run(command, check=True)
    lines = (folder / "whole.m3u8").read_text().splitlines()
    playlist = folder / "live.m3u8"
    playlist.write_text("\n".join(lines[: lines.index("whole2.ts") + 1]) + "\n")
    arguments = (tmp_path / "out.mkv", "--strength", "0")
    with served(folder) as address, carfilter("--live", f"{address}/live.m3u8", *arguments) as run:
        wait_for(run, b"strength 0")
        time.sleep(2)
        playlist.unlink()
        wait_for(run, b"gone (")
        playlist.write_text("\n".join(lines[: lines.index("whole4.ts") + 1]) + "\n")
        wait_for(run, b"back after")
        time.sleep(2)
        code, text = stop(run, signal.SIGINT)
    assert code == 130, text
    assert len(read_content(tmp_path / "out.partial.mkv").planes) >= 120


def test_what_came_before_a_pause_is_kept(tmp_path: Path) -> None:
    """Nothing is held back until it is known how old it is."""
    clip, pipe = make_clip(tmp_path / "in.ts", frames=50), tmp_path / "camera.ts"
    os.mkfifo(pipe)
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(clip), "-c", "copy", "-f", "mpegts"]
    arguments = ("--live", pipe, tmp_path / "out.mkv", "--strength", "0")
    with carfilter(*arguments) as run, pipe.open("wb") as camera:
        subprocess.run([*command, "-"], stdout=camera, check=True)
        camera.flush()
        wait_for(run, b"strength 0")
        time.sleep(2)
        code, text = stop(run, signal.SIGINT)
    assert code == 130, text
    assert len(read_content(tmp_path / "out.partial.mkv").planes) >= 47


@pytest.mark.slow
def test_t_ends_a_recording_whose_camera_has_gone(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, options={"g": "10"})
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    with carfilter("--live", url, target, "--strength", "0", "-t", "4") as run:
        with feed(clip, url, "mpegts", loops=0):
            wait_for(run, b"gone (nothing came for too long)")
        _, text = run.communicate(timeout=30)
    assert run.returncode == 0, text
    assert len(read_content(target).planes) >= 30


@pytest.mark.parametrize("scheme", ["tcp://127.0.0.1:{}", "rtmp://127.0.0.1:{}/live"])
def test_a_link_that_nobody_takes_is_no_fault_of_the_format(tmp_path: Path, scheme: str) -> None:
    clip, url = make_clip(tmp_path / "in.ts"), scheme.format(free_port())
    form = "flv" if url.startswith("rtmp") else "mpegts"
    with carfilter(clip, url, "-f", form, "--strength", "0", "-v", "error") as run:
        _, text = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"{url}: cannot be sent to (Connection refused); check the address" in text.decode()


def test_a_link_that_breaks_is_said_to_have_broken(tmp_path: Path) -> None:
    clip, url = make_clip(tmp_path / "in.mp4", frames=200), f"tcp://127.0.0.1:{free_port()}"
    listen = ["ffmpeg", "-v", "quiet", "-nostdin", "-listen", "1", "-i", url, "-t", "0.5"]
    reader = subprocess.Popen([*listen, "-c", "copy", "-f", "null", "-"])
    pipe = tmp_path / "camera.ts"
    os.mkfifo(pipe)
    sending, arguments = feed(clip, str(pipe), "mpegts", "-y"), ("-f", "mpegts", "--strength", "0")
    with ended(reader), sending, carfilter("--live", pipe, url, *arguments) as run:
        _, text = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"{url}: cannot be sent to (" in text.decode()


def test_frames_of_a_block_are_due_in_their_turn() -> None:
    """Of what has come at once the frame of a second later is due a second later."""
    pace, arrived = Pace(lambda: False), time.monotonic() - 0.7
    assert pace.falls_behind(frame_at(0.0, arrived))
    assert not pace.falls_behind(frame_at(1.0, arrived))
    assert not pace.falls_behind(frame_at(2.0, arrived))
