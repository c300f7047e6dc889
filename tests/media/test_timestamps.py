"""Clocks that jump, wrap, repeat or are missing: the result goes on, sound with picture."""

import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.media.source import read_contents
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import Content, equal_planes, make_clip, read_content

THROUGH = FilterOptions(
    target=TargetOptions(video_codec="ffv1"), restore=RestoreOptions(strength=0)
)
WRAP = Fraction(2**33, 90000)  # seconds after which MPEG-TS starts from zero again
FRAME = Fraction(1, 25)
CLUSTER, TIMESTAMP = b"\x1f\x43\xb6\x75", b"\xe7"  # of Matroska


def second_of_video(folder: Path) -> Path:
    """25 frames with B-frames and a second of sound."""
    return make_clip(folder / "second.mkv", frames=25, audio="aac", options={"bf": "2", "g": "12"})


def transport_stream(source: Path, start: Fraction, keep: slice = slice(None)) -> bytes:
    """The clip as MPEG-TS that begins at `start` seconds; `keep` chooses among its packets."""
    path = source.with_suffix(".part.ts")
    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in clip.streams}
        for packet in [p for p in clip.demux() if p.size][keep]:
            base = packet.time_base
            shift = round(start * base.denominator / base.numerator)
            packet.pts += shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.stream = streams[packet.stream_index]
            out.mux_one(packet)
    return path.read_bytes()


def restored(source: Path, target: Path, options: FilterOptions = THROUGH) -> tuple[Run, Content]:
    return filter_video(source, target, options=options), read_content(target)


def steps(content: Content) -> list[Fraction]:
    return [b - a for a, b in zip(content.seconds, content.seconds[1:], strict=False)]


@pytest.mark.parametrize(
    ("starts", "jumps"),
    [
        ((100, 3), 1),  # the camera sets its clock back
        ((3, 100), 1),  # and forward
        ((5, 5), 1),  # a recording spliced to itself
        ((1000, 500, 1000), 2),
        ((WRAP - 400, 0), 1),  # the counter starts again, minutes of it lost
        ((WRAP - Fraction(1, 2),), 0),  # in mid-clip, as FFmpeg itself can tell
    ],
)
def test_a_clock_that_jumps_goes_on_without_a_gap_and_sound_stays_with_the_picture(
    tmp_path: Path, starts: tuple[Fraction, ...], jumps: int, caplog: pytest.LogCaptureFixture
) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.ts"
    source.write_bytes(b"".join(transport_stream(clip, Fraction(start)) for start in starts))
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        run, content = restored(source, tmp_path / "out.nut")
    assert run.frames == len(content.seconds) == 25 * len(starts)
    assert set(steps(content)) == {FRAME}
    assert run.jumps == jumps
    assert len([r for r in caplog.records if "clock jumps" in r.message]) == min(jumps, 1)
    plain = read_content(clip)
    lead = plain.seconds[0] - plain.packets[1][-1][0]  # of the picture before the last sound
    for number in range(len(starts)):
        last = content.packets[1][(number + 1) * len(plain.packets[1]) - 1][0]
        assert abs(content.seconds[number * 25] - last - lead) < Fraction(1, 1000)


def test_one_wild_timestamp_does_not_move_the_rest(tmp_path: Path) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.ts"
    parts = [
        transport_stream(clip, Fraction(7), slice(0, 18)),
        transport_stream(clip, Fraction(50_000), slice(18, 19)),
        transport_stream(clip, Fraction(7), slice(19, None)),
    ]
    source.write_bytes(b"".join(parts))
    run, content = restored(source, tmp_path / "out.nut")
    whole = tmp_path / "whole.ts"
    whole.write_bytes(transport_stream(clip, Fraction(7)))
    _, plain = restored(whole, tmp_path / "plain.nut")
    assert run.jumps == 1
    assert len(content.seconds) == 25
    assert content.seconds[-1] == plain.seconds[-1]
    assert content.packets[1][-1] == plain.packets[1][-1]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("audio", [None, "aac"])
def test_a_jump_reaches_every_container_with_sound_copied_or_encoded(
    tmp_path: Path, container: str, audio: str | None
) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.ts"
    source.write_bytes(b"".join(transport_stream(clip, Fraction(at)) for at in (100, 3)))
    options = FilterOptions(
        target=TargetOptions(audio_codec=audio), restore=RestoreOptions(strength=0)
    )
    run, content = restored(source, tmp_path / f"out.{container}", options)
    assert run.frames == len(content.seconds) == 50
    assert max(steps(content)) - min(steps(content)) <= Fraction(1, 1000)
    assert abs(content.packets[1][-1][0] - content.seconds[-1]) < Fraction(1, 10)


def test_a_matroska_file_whose_clock_was_set_back_goes_on(tmp_path: Path) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.mkv"
    with (
        av.open(str(clip)) as given,
        av.open(str(source), "w", options={"cluster_time_limit": "200"}) as out,
    ):
        streams = {s.index: out.add_stream_from_template(s, opaque=True) for s in given.streams}
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                packet.pts += 60_000
                packet.dts = None if packet.dts is None else packet.dts + 60_000
                out.mux_one(packet)
    data = bytearray(source.read_bytes())
    place = data.find(CLUSTER)
    clusters = []
    while place >= 0:
        clusters.append(data.index(TIMESTAMP, place))
        place = data.find(CLUSTER, place + 4)
    assert len(clusters) > 3
    for at in clusters[2:]:  # an E7, its length, and the milliseconds
        length = data[at + 1] & 0x7F
        value = int.from_bytes(data[at + 2 : at + 2 + length], "big") - 50_000
        data[at + 2 : at + 2 + length] = value.to_bytes(length, "big")
    source.write_bytes(data)
    run, content = restored(source, tmp_path / "out.mkv")
    assert run.jumps == 1
    assert run.frames == len(content.seconds) == 25
    assert max(steps(content)) < Fraction(1, 10)
    assert min(steps(content)) > Fraction(1, 100)
    assert abs(content.packets[1][-1][0] - content.seconds[-1]) < Fraction(1, 10)


def test_a_pause_of_the_recording_is_kept(tmp_path: Path) -> None:
    pts = [*range(6), *range(3000, 3006)]  # two minutes without motion
    source = make_clip(tmp_path / "in.mp4", pts=pts)
    run, content = restored(source, tmp_path / "out.mp4")
    assert run.jumps == 0
    assert content.seconds == [Fraction(p, 25) for p in pts]


def test_a_picture_that_rests_while_the_sound_goes_on_is_no_jump(tmp_path: Path) -> None:
    pts = [*range(6), *range(300, 306)]
    source = tmp_path / "in.ts"
    source.write_bytes(with_sound(make_clip(tmp_path / "clip.mkv", pts=pts), tmp_path, 310))
    run, content = restored(source, tmp_path / "out.nut")
    assert run.jumps == 0
    assert content.seconds[6] - content.seconds[5] == Fraction(295, 25)


def with_sound(clip: Path, folder: Path, frames: int) -> bytes:
    """The clip as MPEG-TS with a tone that lasts as long as so many frames."""
    tone, path = make_clip(folder / "tone.mkv", frames=frames, audio="aac"), folder / "both.ts"
    with av.open(str(clip)) as one, av.open(str(tone)) as two, av.open(str(path), "w") as out:
        made = [
            (container, stream, out.add_stream_from_template(stream, opaque=True))
            for container, stream in ((one, one.streams.video[0]), (two, two.streams.audio[0]))
        ]
        packets = [(p, m) for container, s, m in made for p in container.demux(s) if p.size]
        for packet, stream in sorted(packets, key=lambda both: both[0].pts * both[0].time_base):
            packet.stream = stream
            out.mux_one(packet)
    return path.read_bytes()


def test_a_pause_that_was_kept_is_found_again_when_the_result_is_read_back(tmp_path: Path) -> None:
    pts = [*range(6), *range(300, 306)]
    source = tmp_path / "in.ts"
    picture = make_clip(tmp_path / "clip.mkv", pts=pts)
    source.write_bytes(with_sound(picture, tmp_path, 310))
    for decode in (True, False):
        assert read_contents(source, decode=decode).span_seconds == pytest.approx(305 / 25)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
def test_frames_without_times_come_at_the_rate_of_the_source(
    tmp_path: Path, rate: Fraction, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # A bare stream has no timestamps at all, so none of them is missing.
    source = make_clip(tmp_path / "in.h264", frames=20, rate=rate, time_base=1 / rate)
    run, content = restored(source, tmp_path / "out.mkv")
    assert (run.frames, run.repaired) == (20, 0)
    assert f"its times are made of its rate, {float(rate):.5g} a second" in caplog.text
    wanted = [float(i / rate) for i in range(20)]
    assert [float(s) for s in content.seconds] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("rate", [Fraction(10), Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize(
    ("name", "codec"), [("h264", "libx264"), ("ivf", "libsvtav1"), ("avi", "libx264")]
)
def test_a_target_that_counts_frames_says_their_rate(
    tmp_path: Path, rate: Fraction, name: str, codec: str
) -> None:
    # Ticks much finer than a frame, as MP4 and MPEG-TS have them.
    fine = rate.numerator * 512
    pts = [i * 512 * rate.denominator for i in range(12)]
    given = {"frames": 12, "rate": rate, "pts": pts, "time_base": Fraction(1, fine)}
    source, target = (
        make_clip(tmp_path / "in.mp4", size=(64, 64), **given),
        tmp_path / f"out.{name}",
    )
    options = replace(THROUGH, target=TargetOptions(video_codec=codec))
    assert filter_video(source, target, options=options).frames == 12
    with av.open(str(target)) as made:
        assert made.streams.video[0].guessed_rate == rate
        if name == "avi":
            assert made.streams.video[0].average_rate == rate
            assert made.streams.video[0].frames == 12


@pytest.mark.parametrize("name", ["mkv", "mp4"])
def test_a_file_that_was_cut_off_is_told_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    clip, whole, source = (tmp_path / f"{stem}.{name}" for stem in ("clip", "whole", "in"))
    make_clip(clip, frames=100, options={"g": "10"}, muxer={"movflags": "faststart"})
    assert restored(clip, whole)[0].damaged == 0
    source.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    run, _ = restored(source, tmp_path / "out.mkv")
    assert run.damaged >= 1
    assert f"in.{name}: cut off: it ends " in caplog.text
    strict = replace(THROUGH, source=SourceOptions(stop_on_error=True))
    with pytest.raises(MediaError):
        filter_video(source, tmp_path / "strict.mkv", options=strict)
    assert not (tmp_path / "strict.mkv").exists()


def test_frames_of_a_stream_that_times_every_third_packet_stay_in_step(tmp_path: Path) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.ts"
    data = bytearray(transport_stream(clip, Fraction(40_000)))
    place, count = data.find(b"\0\0\1\xe0"), 0
    while place >= 0:  # the flags of a packet of the video that say whether it has a time
        if count % 3 != 2:
            data[place + 7] &= 0x3F
        place, count = data.find(b"\0\0\1\xe0", place + 4), count + 1
    source.write_bytes(data)
    run, content = restored(source, tmp_path / "out.nut")
    assert run.frames == 25
    assert set(steps(content)) == {FRAME}
    assert abs(content.seconds[0] - content.packets[1][0][0]) < Fraction(1, 4)


def test_repeated_times_are_set_apart_by_a_tick_and_counted(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv",
        time_base=Fraction(1, 90000),
        pts=[0, 3600, 3610, 3620, 7200, 10800, 10801, 14400, 18000, 21600, 25200, 28800],
    )  # which Matroska rounds to its millisecond
    run, content = restored(source, tmp_path / "out.nut")
    assert [round(float(s) * 1000) for s in content.seconds[:8]] == [
        0,
        40,
        41,
        42,
        80,
        120,
        121,
        160,
    ]
    assert run.repaired == 3
    assert run.frames == 12


def test_progress_counts_from_the_first_frame_whatever_its_time(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", pts=[100_000 + n for n in range(12)])
    shown: list[float] = []
    filter_video(
        source,
        tmp_path / "out.mkv",
        options=THROUGH,
        progress=lambda run: shown.append(round(run.video_seconds, 2)),
    )
    assert shown == [round(n / 25, 2) for n in range(12)]


def test_old_avi_files_that_hold_the_order_of_decoding_alone_keep_every_frame(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.avi", frames=24, options={"bf": "2"})
    run, content = restored(source, tmp_path / "out.mkv")
    assert run.frames == len(content.seconds) == 24
    assert min(steps(content)) > 0
    assert float(content.seconds[-1] - content.seconds[0]) == pytest.approx(23 / 25, abs=0.09)


def test_a_cut_counts_in_the_times_behind_the_jump(tmp_path: Path) -> None:
    clip, source = second_of_video(tmp_path), tmp_path / "in.ts"
    source.write_bytes(b"".join(transport_stream(clip, Fraction(at)) for at in (100, 3)))
    options = FilterOptions(SourceOptions(end_seconds=1.5), THROUGH.target, THROUGH.restore)
    run, content = restored(source, tmp_path / "out.nut", options)
    assert run.frames == 35  # the sound begins 0.128 s before the picture
    assert set(steps(content)) == {FRAME}


@pytest.mark.parametrize(("ending", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video")])
def test_a_cut_of_recordings_that_were_joined_is_of_the_whole(
    tmp_path: Path, ending: str, codec: str
) -> None:
    """FFmpeg seeks in MPEG by time, which each of them begins anew."""
    parts = [
        make_clip(tmp_path / f"{n}.{ending}", codec=codec, frames=n, options={"g": "12"})
        for n in (300, 600)
    ]
    source = tmp_path / f"in.{ending}"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    options = replace(THROUGH, source=SourceOptions(start_seconds=8))
    run, content = restored(source, tmp_path / "out.nut", options)
    assert run.frames == pytest.approx(900 - 8 * 25, abs=3)
    last = read_content(parts[1]).planes
    assert equal_planes(content.planes[-25:], last[-25:])


def test_a_matroska_file_that_begins_late_is_whole(tmp_path: Path) -> None:
    late = tmp_path / "late.ts"
    late.write_bytes(transport_stream(second_of_video(tmp_path), Fraction(5)))
    _, first = restored(late, tmp_path / "late.mkv")
    assert first.seconds[0] > 4
    strict = replace(THROUGH, source=SourceOptions(stop_on_error=True))
    run, again = restored(tmp_path / "late.mkv", tmp_path / "again.mkv", strict)
    assert run.damaged == 0
    assert again.seconds == first.seconds


@pytest.mark.parametrize("copyts", [False, True])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("before", [Fraction(7, 10), Fraction(1, 5)])
def test_a_clock_that_wraps_within_a_file_hides_no_picture(
    tmp_path: Path, container: str, copyts: bool, before: Fraction
) -> None:
    source = tmp_path / "in.ts"
    source.write_bytes(transport_stream(second_of_video(tmp_path), WRAP - before))
    with av.open(str(source)) as opened:
        assert opened.start_time < 0
    options = replace(THROUGH, source=SourceOptions(copyts=copyts))
    run, content = restored(source, tmp_path / f"out.{container}", options)
    assert run.frames == len(content.seconds) == 25
    assert 0 <= content.seconds[0] < 0.2
    assert max(steps(content)) < 0.042


@pytest.mark.parametrize("name", ["in.ts", "in.mp4", "in.mkv"])
def test_a_cut_begins_where_it_should_however_far_the_key_frame_lies(
    tmp_path: Path, name: str
) -> None:
    options = {"g": "250", "bf": "2"}
    source = make_clip(tmp_path / name, frames=60, audio="aac", options=options)
    whole = read_content(source)
    with av.open(str(source)) as container:
        begin = Fraction(container.start_time, 1_000_000) + Fraction(8, 5)
    cut = SourceOptions(start_seconds=1.6)
    filter_video(source, tmp_path / "out.mkv", options=replace(THROUGH, source=cut))
    inside = [planes for planes, at in zip(whole.planes, whole.seconds, strict=True) if at >= begin]
    assert 15 < len(inside) < 25
    assert equal_planes(read_content(tmp_path / "out.mkv").planes, inside)


@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (None, 0.15, [("one", 0.0, 0.1), ("two", 0.1, 0.15)]),
        (0.15, None, [("two", 0.0, 0.05), ("three", 0.05, 0.15)]),
        (0.12, 0.18, [("two", 0.0, 0.06)]),
        (0.2, None, [("three", 0.0, 0.1)]),
    ],
)
def test_chapters_are_cut_with_their_pictures(
    tmp_path: Path, start: float | None, end: float | None, kept: list[tuple[str, float, float]]
) -> None:
    clip, source = make_clip(tmp_path / "clip.mkv", frames=10), tmp_path / "in.mkv"
    with av.open(str(clip)) as given, av.open(str(source), "w") as out:
        out.set_chapters(
            [
                {"id": n, "start": n * 100, "end": n * 100 + 100, "metadata": {"title": title},
                 "time_base": Fraction(1, 1000)}
                for n, title in enumerate(("one", "two", "three"))
            ]
        )  # fmt: skip
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    cut = SourceOptions(start_seconds=start, end_seconds=end)
    filter_video(source, tmp_path / "out.mkv", options=replace(THROUGH, source=cut))
    with av.open(str(tmp_path / "out.mkv")) as made:
        chapters = [
            (c["metadata"]["title"], *(float(c[at] * c["time_base"]) for at in ("start", "end")))
            for c in made.chapters()
        ]
    assert [title for title, *_ in chapters] == [title for title, *_ in kept]
    for found, wanted in zip(chapters, kept, strict=True):
        assert found[1:] == pytest.approx(wanted[1:], abs=0.002)
