"""Recordings cut into files: each one complete under its name, and together the whole."""

import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from cameras import COMMAND, carfilter, feed, free_port, stop, wait_for
from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.options import TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import make_clip, read_content, tiny_weights

THROUGH = RestoreOptions(strength=0)


def cut(source: Path, pattern: Path, **changes: object) -> None:
    given = {"segment_time": "1", **changes}
    overwrite = bool(given.pop("overwrite", False))
    muxer = tuple((key, str(value)) for key, value in given.items())
    target = TargetOptions(format="segment", muxer=muxer, overwrite=overwrite)
    filter_video(source, pattern, options=FilterOptions(target=target, restore=THROUGH))


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
def test_segments_are_cut_at_the_second_and_hold_every_frame_and_packet(
    tmp_path: Path, ending: str
) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=90, audio="aac")
    cut(source, tmp_path / f"part%03d.{ending}")
    parts = sorted(tmp_path.glob("part*"))
    assert [p.name for p in parts] == [f"part{i:03d}.{ending}" for i in range(4)]
    contents = [read_content(part) for part in parts]
    # x264's key frames lie ten seconds apart by themselves.
    assert [len(content.planes) for content in contents] == [25, 25, 25, 15]
    packets = [data for content in contents for _, data in content.packets[1]]
    whole = [data for _, data in read_content(source).packets[1]]
    if ending == "ts":  # where AAC has ADTS headers
        assert len(packets) == len(whole)
    else:
        assert packets == whole
    assert not list(tmp_path.glob(".*"))


def test_segments_count_from_the_first_frame_as_ffmpeg_does(tmp_path: Path) -> None:
    late = [8 + number for number in range(90)]
    source = make_clip(tmp_path / "in.mkv", frames=90, pts=late)
    assert float(read_content(source).seconds[0]) == pytest.approx(8 / 25, abs=0.001)
    cut(source, tmp_path / "part%03d.mkv")
    contents = [read_content(part) for part in sorted(tmp_path.glob("part*"))]
    assert [len(content.planes) for content in contents] == [25, 25, 25, 15]


def test_each_segment_can_begin_at_zero_and_says_how_it_was_made(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=60)
    cut(source, tmp_path / "a%d.mkv", reset_timestamps=1)
    for name in ("a0.mkv", "a1.mkv", "a2.mkv"):
        assert float(read_content(tmp_path / name).seconds[0]) == pytest.approx(0, abs=0.001)
        assert b"restored by carfilter" in (tmp_path / name).read_bytes()
    cut(source, tmp_path / "b%d.mp4")
    assert b"restored by carfilter" in (tmp_path / "b1.mp4").read_bytes()


def test_options_of_the_segments_own_muxer_reach_it(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=40)
    cut(source, tmp_path / "a%d.mp4", movflags="+faststart")
    data = (tmp_path / "a0.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_names_by_time_never_cost_a_recording_of_the_same_name(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=60)
    for _ in range(2):
        cut(source, tmp_path / "day-%Y.mkv", strftime=1, segment_time=40_000_000)
    names = sorted(re.sub(r"\d{4}", "YEAR", p.name) for p in tmp_path.glob("day*"))
    assert names == ["day-YEAR-2.mkv", "day-YEAR.mkv"]
    for path in tmp_path.glob("day*"):
        assert len(read_content(path).planes) == 60


def test_a_name_by_time_never_replaces_the_source(tmp_path: Path) -> None:
    source = make_clip(tmp_path / time.strftime("day-%Y.mkv"), frames=30)
    before = source.read_bytes()
    options = {"strftime": 1, "segment_time": 40_000_000, "overwrite": True}
    cut(source, tmp_path / "day-%Y.mkv", **options)
    assert source.read_bytes() == before
    assert len(read_content(source.with_stem(source.stem + "-2")).planes) == 30


def test_names_that_would_repeat_are_refused_before_any_work(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=30)
    for pattern, changes, words in (
        ("one.mkv", {}, "put %03d into it"),
        ("day-%Y.mkv", {"strftime": 1}, "the name stays the same for -segment_time 1"),
        ("no/part%d.mkv", {}, "its folder does not exist"),
        ("part%d.mkv", {"segment_time": "0"}, "give a time above zero"),
        ("part%d.xyz", {}, "does not say which container"),
    ):
        with pytest.raises(MediaError, match=words):
            cut(source, tmp_path / pattern, **changes)
        assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
    cut(source, tmp_path / "part%d.mkv")
    with pytest.raises(MediaError, match=r"part.*exists already; give -y"):
        cut(source, tmp_path / "part%d.mkv")
    cut(source, tmp_path / "part%d.mkv", overwrite=True)


def test_a_segment_never_replaces_the_source(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "part0.mkv", frames=30)
    before = source.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(MediaError, match=r"part0\.mkv: is the source itself; write to another"):
            cut(source, tmp_path / "part%d.mkv", overwrite=overwrite)
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["part0.mkv"]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_file_under_a_segments_name_is_complete_whenever_the_recorder_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=3000, options={"preset": "ultrafast"})
    command = [*COMMAND, str(source), str(tmp_path / "part%03d.mp4"), "--strength", "0"]
    command += ["-f", "segment", "-segment_time", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("part*.mp4"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        code = process.wait(60)
    names = sorted(p.name for p in tmp_path.glob("part*"))
    complete = [name for name in names if ".partial" not in name]
    assert 4 <= len(complete) < 60
    assert {len(read_content(tmp_path / name).planes) for name in complete} == {50}
    if number is signal.SIGKILL:
        assert code == -9
        assert complete == names
    else:
        assert code == 128 + number
        (partial,) = set(names) - set(complete)
        assert partial == f"part{len(complete):03d}.partial.mp4"
        assert 0 < len(read_content(tmp_path / partial).planes) <= 50
        assert not list(tmp_path.glob(".*"))


@pytest.mark.ffmpeg
def test_a_camera_is_recorded_in_segments_by_the_clock(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, audio="aac", options={"g": "10"})
    weights = tiny_weights(tmp_path / "tiny.pt")
    url, pattern = f"udp://127.0.0.1:{free_port()}", tmp_path / "cam-%H%M%S.mkv"
    options = ("-f", "segment", "-segment_time", "2", "-strftime", "1", "--weights", weights)
    with feed(clip, url, "mpegts"), carfilter("--live", url, pattern, *options) as run:
        wait_for(run, b"model ")
        time.sleep(7)
        code, text = stop(run, signal.SIGINT)
    assert code == 130, text
    parts = sorted(tmp_path.glob("cam-*"), key=lambda path: path.stat().st_mtime)
    assert len(parts) >= 3
    assert parts[-1].name.endswith(".partial.mkv")
    assert parts[-1].name in text
    assert all(re.fullmatch(r"cam-\d{6}(-2)?\.mkv", part.name) for part in parts[:-1])
    seconds = [float(at) for part in parts for at in read_content(part).seconds]
    assert max(b - a for a, b in pairwise(seconds)) < 0.15  # the feed's own seam
