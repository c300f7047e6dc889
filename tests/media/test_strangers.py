"""Files as strangers have them: no picture and no time is lost without a word."""

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from carfilter import filter_video
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import draw_frame, make_clip, read_content

X265 = {"x265-params": "log-level=none:keyint=40:min-keyint=40:bframes=2", "preset": "ultrafast"}


def through(source: Path, target: Path, reading: SourceOptions | None = None, **kw: Any) -> Run:
    options = FilterOptions(
        reading or SourceOptions(), TargetOptions(**kw), RestoreOptions(strength=0)
    )
    return filter_video(source, target, options=options)


def remuxed(source: Path, target: Path, change: Callable[[int, Any], Any], **options: str) -> Path:
    """Copy the packets; `change` gets the number of each and gives what is written for it."""
    with (
        av.open(str(source)) as opened,
        av.open(str(target), "w", container_options=options) as out,
    ):
        made = {s.index: out.add_stream_from_template(s, opaque=True) for s in opened.streams}
        packets = [packet for packet in opened.demux() if packet.size]
        for number, packet in enumerate(packets):
            index = packet.stream_index
            changed = change(number, packet)
            if changed is not None:
                changed.stream = made[index]
                out.mux_one(changed)
    return target


def first_times(path: Path) -> dict[str, Fraction]:
    """The earliest time of each stream."""
    times: dict[str, Fraction] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None:
                at, kind = packet.pts * Fraction(packet.time_base), packet.stream.type
                times[kind] = min(at, times.get(kind, at))
    return times


def empty(packet: Any) -> Any:
    bare: Any = av.Packet()
    bare.pts, bare.dts, bare.time_base = packet.pts, packet.dts, packet.time_base
    bare.duration = packet.duration
    return bare


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_an_empty_packet_is_no_end(tmp_path: Path, codec: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / "clip.mkv", codec=codec, pix_fmt=pix_fmt, frames=20)
    source = remuxed(clip, tmp_path / "in.nut", lambda n, p: empty(p) if n in (7, 8) else p)
    run = through(source, tmp_path / "out.mkv")
    assert run.frames == len(read_content(tmp_path / "out.mkv").seconds) == 18


def test_pictures_behind_a_lost_one_are_kept_and_counted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", codec="libx265", frames=40, options=X265)
    source = remuxed(clip, tmp_path / "in.mp4", lambda n, p: None if n == 4 else p)
    run = through(source, tmp_path / "out.mkv")
    assert run.frames == len(read_content(tmp_path / "out.mkv").seconds) == 39
    assert run.damaged > 20


def test_what_stands_before_the_first_key_frame_is_kept_and_counted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", frames=30, options={"g": "15", "sc_threshold": "0"})
    source = remuxed(clip, tmp_path / "in.mkv", lambda n, p: None if n == 0 else p)
    run = through(source, tmp_path / "out.mkv")
    assert run.frames == 29
    assert run.damaged == 14


@pytest.mark.parametrize("end", [None, 0.8])
def test_pictures_that_vanish_before_a_cut_are_counted(tmp_path: Path, end: float | None) -> None:
    """The decoder passes over what refers to pictures that an empty packet stands for."""
    clip = make_clip(tmp_path / "clip.mkv", frames=40, options={"g": "15", "sc_threshold": "0"})
    source = remuxed(clip, tmp_path / "in.nut", lambda n, p: empty(p) if n in (5, 6) else p)
    run = through(source, tmp_path / "out.mkv", SourceOptions(end_seconds=end))
    assert run.frames + run.damaged == (20 if end else 40) - 2


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_a_file_cut_off_gives_its_last_whole_pictures(tmp_path: Path, threads: int) -> None:
    options = {**X265, "x265-params": "log-level=none:keyint=10:min-keyint=10:bframes=2"}
    clip = make_clip(
        tmp_path / "clip.mp4", codec="libx265", frames=31, options=options,
        muxer={"movflags": "faststart"},
    )  # fmt: skip
    source = tmp_path / "in.mp4"
    source.write_bytes(clip.read_bytes()[:-2000])  # within the last picture, a key frame
    run = through(source, tmp_path / "out.mkv", SourceOptions(threads=threads))
    assert (run.frames, run.damaged) == (30, 1)


@pytest.mark.parametrize("container", ["avi", "flv", "asf", "nut", "ts", "h264"])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_cut_begins_where_it_should_in_containers_that_seek_badly(
    tmp_path: Path, container: str, start: float
) -> None:
    source = make_clip(
        tmp_path / f"in.{container}",
        frames=75,
        options={"g": "30"},
    )
    run = through(source, tmp_path / "out.mkv", SourceOptions(start_seconds=start))
    content = read_content(tmp_path / "out.mkv")
    assert run.frames == len(content.seconds) == 75 - 25 * start
    assert content.seconds[0] < Fraction(1, 25)


def test_h264_in_avi_comes_at_its_own_time(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.avi", rate=Fraction(5), time_base=Fraction(1, 5))
    through(source, tmp_path / "out.mkv")
    assert read_content(tmp_path / "out.mkv").seconds == [Fraction(n, 5) for n in range(12)]


@pytest.mark.parametrize(("container", "target"), [("ts", "mkv"), ("mkv", "mp4"), ("nut", "avi")])
def test_a_source_that_starts_by_a_clock_is_moved_to_zero_and_says_so(
    tmp_path: Path, container: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", audio="aac")
    late = 40_000

    def later(_: int, packet: Any) -> Any:
        ticks = round(late / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    source = remuxed(clip, tmp_path / f"in.{container}", later, avoid_negative_ts="disabled")
    assert min(first_times(source).values()) > late - 1
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = through(source, tmp_path / f"out.{target}")
    assert run.frames == 12
    assert all(abs(at) < Fraction(1, 4) for at in first_times(tmp_path / f"out.{target}").values())
    assert "starts at 11:06:" in caplog.text
    if target != "avi":
        through(source, tmp_path / "kept.mkv", SourceOptions(copyts=True))
        assert min(first_times(tmp_path / "kept.mkv").values()) > late - 1


def test_a_small_start_stays_but_where_the_target_counts_frames(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", pts=range(50, 62))
    through(source, tmp_path / "out.mkv")
    assert first_times(tmp_path / "out.mkv")["video"] == 2
    run = through(source, tmp_path / "out.avi")
    assert run.frames == len(read_content(tmp_path / "out.avi").seconds) == 12
    with av.open(str(tmp_path / "out.avi")) as container:
        assert container.duration < 500_000


@pytest.mark.parametrize("codec", ["libx264", "ffv1", "mpeg4"])
def test_the_last_picture_stands_as_long_as_it_did(tmp_path: Path, codec: str) -> None:
    source, tick = tmp_path / "in.mp4", Fraction(1, 1000)
    with av.open(str(source), "w") as out:
        video = out.add_stream("libx264", rate=25, time_base=tick)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for number, pts in enumerate((0, 40, 80, 1500, 1540, 3000)):
            frame = draw_frame(number, (64, 48), "yuv420p")
            frame.pts, frame.time_base = pts, tick
            packets += video.encode(frame)
        for packet in [*packets, *video.encode(None)]:
            if packet.pts * packet.time_base == 3:
                packet.duration = round(5 / packet.time_base)
            out.mux(packet)
    through(source, tmp_path / "out.mkv", video_codec=codec)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.duration == 8_000_000
