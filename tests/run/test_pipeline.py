"""A file goes in, a file comes out: what a player, an editor and a court would check."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carfilter import filter_video, restored_frames
from carfilter.errors import CarfilterError, ImpossibleValueError, MediaError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import Model, load_weights
from carfilter.run.options import FilterOptions
from clips import draw_frame, equal_planes, make_clip, read_content, tiny_weights

LOSSLESS = TargetOptions(video_codec="ffv1")
EXACT = FilterOptions(target=LOSSLESS, restore=RestoreOptions(strength=0))
THROUGH = FilterOptions(target=LOSSLESS)


class Watch(nn.Module):
    """A network that changes nothing and keeps what it was shown."""

    uses_qp, halo, live_bytes = True, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.qp: list[Tensor | None] = []

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
        self.qp += [None] * len(luma) if qp is None else list(qp.clone())
        return torch.zeros_like(luma)


def model(network: nn.Module) -> Model:
    return Model(network, "test", "0" * 64)  # type: ignore[arg-type]


CLIPS = {
    "plain": {},
    "b_frames": {"options": {"bf": "3"}, "frames": 24},
    "variable_rate": {"pts": [0, 1, 4, 5, 9, 20, 21, 40, 41, 42, 43, 60]},
    "start_offset": {"pts": list(range(100, 112))},
    "fine_ticks": {
        "time_base": Fraction(1, 90000),
        "pts": [0, 3003, 6006, 9010, 12013, 15016, 18018, 21021, 24024, 27027, 30030, 33033],
    },
    "odd_size": {"size": (71, 53), "pix_fmt": "yuv444p"},
    "ten_bits": {"pix_fmt": "yuv420p10le"},
    "gray": {"pix_fmt": "gray"},
    "wide_chroma": {"pix_fmt": "yuv422p"},
    "full_range": {"pix_fmt": "yuvj420p"},
    "mpeg4": {"codec": "mpeg4"},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", sorted(CLIPS))
@pytest.mark.parametrize("container", ["mp4", "mkv", "nut"])
def test_strength_zero_through_ffv1_changes_nothing(
    tmp_path: Path, name: str, container: str
) -> None:
    audio = {"mp4": "aac", "mkv": "aac", "nut": "pcm_mulaw"}[container]
    text = {"mp4": "mov_text", "mkv": "srt", "nut": None}[container]
    source = make_clip(tmp_path / f"in.{container}", audio=audio, subtitles=text, **CLIPS[name])
    run = filter_video(source, tmp_path / f"out.{container}", options=EXACT)
    before, after = read_content(source), read_content(tmp_path / f"out.{container}")
    assert run.frames == len(before.planes) == CLIPS[name].get("frames", 12)
    assert equal_planes(after.planes, before.planes)
    assert after.seconds == before.seconds
    assert after.packets == before.packets
    assert len(after.packets) == (2 if text else 1)


def test_matroska_keeps_times_within_its_millisecond_and_negative_audio_start(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mp4", audio="aac", **CLIPS["fine_ticks"])
    filter_video(source, tmp_path / "out.mkv", options=EXACT)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert equal_planes(after.planes, before.planes)
    for a, b in zip(after.seconds, before.seconds, strict=True):
        assert abs(a - b) <= Fraction(1, 2000)
    assert before.packets[1][0][0] < 0  # the priming of AAC
    for (a, data), (b, same) in zip(after.packets[1], before.packets[1], strict=True):
        assert data == same
        assert abs(a - b) <= Fraction(1, 2000)


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_the_network_touches_luma_and_nothing_else(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / "in.mkv", audio="aac", **CLIPS[name])
    weights = tiny_weights(tmp_path / "tiny.pt")
    run = filter_video(source, tmp_path / "out.mkv", weights, THROUGH)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert run.frames == len(after.planes) == len(before.planes)
    assert equal_planes(after.chroma, before.chroma)
    assert not equal_planes(after.luma, before.luma)
    assert after.seconds == before.seconds
    assert after.packets == before.packets


def test_writing_luma_does_not_disturb_the_decoders_references(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=30, options={"bf": "0", "g": "30"})
    shift = _constant_shift(40)
    filter_video(source, tmp_path / "out.mkv", model(shift), THROUGH)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    for a, b in zip(after.luma, before.luma, strict=True):
        assert np.array_equal(a, np.minimum(b.astype(int) + 40, 255))


def _constant_shift(levels: int) -> nn.Module:
    class Shift(Watch):
        def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return torch.full_like(luma, levels / 128)

    return Shift()


def test_qp_maps_reach_the_network_with_h264_and_with_mpeg4(tmp_path: Path) -> None:
    watch = Watch()
    options = {"qp": "30", "bf": "2", "aq-mode": "0"}
    source = make_clip(tmp_path / "in.mp4", frames=12, options=options)
    run = filter_video(source, tmp_path / "out.mkv", model(watch), THROUGH)
    values = {round(float(v) * 51) for qp in watch.qp if qp is not None for v in qp.unique()}
    assert len(watch.qp) == 12
    assert 30 in values  # P-frames have the QP that was asked for, I and B the usual offsets
    assert values <= {27, 30, 32}
    assert run.qp_frames == 12
    assert run.mean_qp == pytest.approx(30, abs=3)

    watch = Watch()
    source = make_clip(tmp_path / "other.mp4", codec="mpeg4", options={"qmin": "8", "qmax": "8"})
    run = filter_video(source, tmp_path / "other.mkv", model(watch), THROUGH)
    values = {round(float(v) * 51) for qp in watch.qp if qp is not None for v in qp.unique()}
    assert values == {run.mean_qp} == {33}


def test_g711_from_avi_and_transport_streams_survives_exactly_in_matroska(tmp_path: Path) -> None:
    for name, codec in (("in.avi", "pcm_alaw"), ("in.nut", "pcm_mulaw"), ("in.mov", "pcm_alaw")):
        source = make_clip(tmp_path / name, codec="mpeg4", frames=25, audio=codec)
        filter_video(source, tmp_path / f"{name}.mkv", options=EXACT)
        assert np.array_equal(_samples(tmp_path / f"{name}.mkv"), _samples(source))
        with av.open(str(tmp_path / f"{name}.mkv")) as container:
            assert container.streams.audio[0].codec_context.name == "pcm_s16le"


def _samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize(("source", "target"), [("mp4", "mkv"), ("mkv", "mp4"), ("mkv", "mkv")])
def test_text_subtitles_cross_between_mp4_and_matroska(
    tmp_path: Path, source: str, target: str
) -> None:
    codec = "mov_text" if source == "mp4" else "srt"
    clip = make_clip(tmp_path / f"in.{source}", subtitles=codec)
    filter_video(clip, tmp_path / f"out.{target}", options=EXACT)
    assert _texts(tmp_path / f"out.{target}") == _texts(clip)


def _texts(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (round(float(packet.pts * packet.time_base), 3), re.sub(rb"{.*?}", b"", text.dialogue))
            for packet in container.demux(stream)
            if packet.size
            for text in stream.decode2(packet) or ()
            if text.dialogue
        ]


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_tags_chapters_dispositions_and_rotation_stay(tmp_path: Path, container: str) -> None:
    source = tmp_path / f"in.{container}"
    with av.open(str(source), "w") as out:
        out.metadata["title"] = "Gate 3"
        out.set_chapters(
            [
                {
                    "id": i,
                    "start": i * 100,
                    "end": i * 100 + 100,
                    "metadata": {"title": f"part{i}"},
                    "time_base": Fraction(1, 1000),
                }
                for i in range(2)
            ]
        )
        video = out.add_stream("libx264", rate=25, time_base=Fraction(1, 25))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        context = video.codec_context
        context.color_range, context.colorspace = 1, 1
        context.color_trc, context.color_primaries = 1, 1
        video.set_display_rotation(90)
        tones = [out.add_stream("aac", rate=48000) for _ in range(2)]
        tones[1].metadata["language"] = "deu"
        tones[1].disposition = av.stream.Disposition.forced
        if container == "mkv":
            out.add_attachment("note.txt", "text/plain", b"witness")
        for i in range(10):
            frame = draw_frame(i, (64, 48), "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for tone in tones:
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            silence.rate, silence.pts = 48000, 0
            out.mux(tone.encode(silence))
            out.mux(tone.encode(None))
    target = tmp_path / f"out.{container}"
    filter_video(source, target, tiny_weights(tmp_path / "t.pt"))
    seen = [_description(path) for path in (source, target)]
    assert seen[1] == seen[0]
    assert seen[0]["rotation"] == 90
    with av.open(str(target)) as made:
        tags = {key.lower(): value for key, value in made.metadata.items()}
        provenance = tags["carfilter" if container == "mkv" else "comment"]
    assert "restored by carfilter" in provenance
    assert load_weights(tmp_path / "t.pt").sha256 in provenance


def _description(path: Path) -> dict[str, object]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frame = next(container.decode(video))
        return {
            "title": container.metadata["title"],
            "chapters": [
                (Fraction(c["start"]) * Fraction(c["time_base"]), c["metadata"]["title"])
                for c in container.chapters()
            ],
            "sar": Fraction(video.sample_aspect_ratio),
            "rotation": frame.rotation,
            "colours": (
                frame.color_range,
                frame.colorspace,
                frame.color_trc,
                frame.color_primaries,
            ),
            "languages": [s.metadata.get("language", "und") for s in container.streams.audio],
            "dispositions": [int(s.disposition) for s in container.streams.audio],
            "attachments": [s.data for s in container.streams if s.type == "attachment"],
        }


def test_unset_colour_tags_stay_unset(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    filter_video(source, tmp_path / "out.mkv", options=FilterOptions(restore=EXACT.restore))
    for path in (source, tmp_path / "out.mkv"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert (frame.color_primaries, frame.color_trc) == (2, 2)


def test_start_and_length_cut_at_the_frame_and_begin_at_zero(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=50, audio="aac", options={"g": "20", "bf": "2"})
    cut = SourceOptions(start_seconds=0.6, end_seconds=1.2)
    options = FilterOptions(source=cut, target=LOSSLESS, restore=EXACT.restore)
    filter_video(source, tmp_path / "out.mkv", options=options)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    assert equal_planes(after.planes, before.planes[15:30])
    assert [float(s) for s in after.seconds] == pytest.approx([i / 25 for i in range(15)], abs=1e-3)
    wanted = [data for at, data in before.packets[1] if 0.6 <= at < 1.2]
    assert [data for _, data in after.packets[1]] == wanted


@pytest.mark.parametrize(
    ("changes", "types"),
    [
        ({}, ["video", "audio", "audio", "subtitle"]),
        ({"maps": ("0:v", "0:a:1")}, ["video", "audio"]),
        ({"maps": ("-0:a",)}, ["video", "subtitle"]),
        ({"maps": ("0:v:0", "0:s", "0:d?")}, ["video", "subtitle"]),
        ({"audio": False}, ["video", "subtitle"]),
        ({"subtitles": False}, ["video", "audio", "audio"]),
    ],
)
def test_map_and_its_shorthands_choose_the_streams(
    tmp_path: Path, changes: dict[str, object], types: list[str]
) -> None:
    one = make_clip(tmp_path / "one.mkv", audio="aac", subtitles="srt")
    source = _with_second_audio(one, tmp_path / "in.mkv")
    options = FilterOptions(SourceOptions(**changes), LOSSLESS, EXACT.restore)  # type: ignore[arg-type]
    filter_video(source, tmp_path / "out.mkv", options=options)
    assert read_content(tmp_path / "out.mkv").types == types


def _with_second_audio(path: Path, out: Path) -> Path:
    with av.open(str(path)) as one, av.open(str(path)) as again, av.open(str(out), "w") as both:
        ways = [(one, one.streams.video[0]), (one, one.streams.audio[0])]
        ways += [(again, again.streams.audio[0])]
        made = {(id(c), s.index): both.add_stream_from_template(s, opaque=True) for c, s in ways}
        text = one.streams.subtitles[0]
        made[(id(one), text.index)] = both.add_stream_from_template(text)
        for container in (one, again):
            for packet in container.demux():
                stream = made.get((id(container), packet.stream_index))
                if packet.size and stream is not None:
                    packet.stream = stream
                    both.mux(packet)
    return out


def test_a_map_that_finds_nothing_is_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    options = FilterOptions(SourceOptions(maps=("0:v", "0:a:3")), restore=EXACT.restore)
    with pytest.raises(MediaError, match="no such stream"):
        filter_video(source, tmp_path / "out.mkv", options=options)


def test_a_map_that_takes_no_video_is_named(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", audio="pcm_s16le")
    options = FilterOptions(SourceOptions(maps=("0:a",)), restore=EXACT.restore)
    with pytest.raises(MediaError, match=r"in\.mkv: -map takes none of its video streams"):
        filter_video(source, tmp_path / "out.mkv", options=options)


def test_a_stream_the_container_cannot_hold_stops_the_run_before_any_work(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", audio="pcm_s16le")
    target = tmp_path / "out.ts"
    with pytest.raises(MediaError, match=r"cannot hold stream #1.*-c:a aac.*--drop-unsupported"):
        filter_video(source, target, options=FilterOptions(restore=EXACT.restore))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]
    for change in ({"drop_unsupported": True}, {"audio_codec": "aac"}):
        options = FilterOptions(
            target=TargetOptions(overwrite=True, **change), restore=EXACT.restore
        )
        assert filter_video(source, target, options=options).frames == 12
    assert read_content(target).types == ["video", "audio"]


def test_compare_shows_the_input_left_and_the_result_right(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(70, 50), frames=8)
    options = FilterOptions(target=LOSSLESS, compare=True)
    filter_video(source, tmp_path / "out.mkv", model(_constant_shift(9)), options)
    before, after = read_content(source), read_content(tmp_path / "out.mkv")
    for a, b in zip(after.planes, before.planes, strict=True):
        assert np.array_equal(a[0][:, :70], b[0])
        assert np.array_equal(a[0][:, 70:], np.minimum(b[0].astype(int) + 9, 255))
        assert np.array_equal(a[1], np.hstack([b[1], b[1]]))


def test_a_failing_network_leaves_no_file_and_no_thread(tmp_path: Path) -> None:
    class Fails(Watch):
        def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
            if len(self.qp) > 3:
                raise ValueError("broken")
            return super().forward(luma, qp)

    source = make_clip(tmp_path / "in.mp4", frames=24)
    options = FilterOptions(restore=RestoreOptions(batch_size=1))
    with pytest.raises(ValueError, match="broken"):
        filter_video(source, tmp_path / "out.mp4", model(Fails()), options)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_an_interrupted_run_keeps_a_playable_part_under_another_name(tmp_path: Path) -> None:
    source, stop = make_clip(tmp_path / "in.mp4", frames=200, audio="aac"), threading.Event()
    run = filter_video(
        source,
        tmp_path / "out.mp4",
        options=FilterOptions(restore=EXACT.restore),
        stop=stop,
        progress=lambda run: stop.set() if run.frames >= 10 else None,
    )
    assert run.interrupted
    assert run.partial == str(tmp_path / "out.partial.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.partial.mp4"]
    assert 10 <= len(read_content(tmp_path / "out.partial.mp4").planes) == run.frames < 200


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_time_without_end_is_an_error_of_ours(name: str, seconds: float) -> None:
    with pytest.raises(CarfilterError, match=rf"{name}_seconds has to be finite, not {seconds}"):
        SourceOptions(**{f"{name}_seconds": seconds})  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.5), (1.0, 1.0), (None, 0.0), (-2.0, -1.0)])
def test_times_that_leave_nothing_are_refused_as_the_command_does(
    start: float | None, end: float
) -> None:
    with pytest.raises(ImpossibleValueError, match=r"^-to .*has to lie behind -ss .* and behind"):
        SourceOptions(start_seconds=start, end_seconds=end)


def test_what_has_no_name_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"^no output is named; give a file"):
        filter_video(make_clip(tmp_path / "in.mp4"), "", options=EXACT)
    with pytest.raises(MediaError, match=r"^no input is named; give a file"):
        filter_video("", tmp_path / "out.mkv", options=EXACT)
    with pytest.raises(MediaError, match=r"^no input is named"):
        next(restored_frames("", options=EXACT))


def test_a_name_that_no_file_can_have_is_an_error_of_ours(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(MediaError, match=r"cannot be made \(embedded null byte\); choose another"):
        filter_video(source, tmp_path / "out\0.mkv", options=EXACT)


def test_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=24)
    weights = tiny_weights(tmp_path / "tiny.pt")
    # FFV1, since libx264 itself does not repeat itself at every width on CPUs with AVX-512.
    options = FilterOptions(target=TargetOptions(video_codec="ffv1", threads=2))
    for name in ("one.mkv", "two.mkv"):
        filter_video(source, tmp_path / name, weights, options)
    one, two = (read_content(tmp_path / name) for name in ("one.mkv", "two.mkv"))
    assert equal_planes(one.planes, two.planes)


def test_the_sidecar_holds_the_checksums(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    weights = tiny_weights(tmp_path / "tiny.pt")
    filter_video(source, tmp_path / "out.mp4", weights, FilterOptions(sidecar=True))
    record = json.loads((tmp_path / "out.mp4.json").read_text())
    assert record["weights"]["sha256"] == load_weights(weights).sha256
    assert record["frames"] == 12
    for key, path in (("source", source), ("target", tmp_path / "out.mp4")):
        assert record[key]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_restored_frames_feed_a_detector_lazily(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=60)
    weights = tiny_weights(tmp_path / "tiny.pt")
    frames = restored_frames(source, weights)
    first = next(frames)
    assert first.to_ndarray(format="rgb24").shape == (48, 64, 3)
    frames.close()  # leaving early stops the threads: the fixture looks for them
    every = list(restored_frames(source, weights))
    assert [frame.pts for frame in every] == sorted(frame.pts for frame in every)
    assert len(every) == 60


_FORKS = """
import gc, os, signal, sys
import carfilter
from carfilter.media.options import SourceOptions

def to_the_end():
    return sum(1 for _ in carfilter.restored_frames(sys.argv[1], "fast"))

def left_early():
    return next(carfilter.restored_frames(sys.argv[1], "fast"))

def failing():
    options = carfilter.FilterOptions(source=SourceOptions(stop_on_error=True))
    try:
        list(carfilter.restored_frames(sys.argv[2], "fast", options))
        sys.exit("no failure")
    except carfilter.errors.MediaError:
        pass

gc.disable()  # as by chance between two collections
for use in (to_the_end, left_early, failing):
    use()
    if os.fork() == 0:
        signal.alarm(5)
        gc.collect()
        os._exit(0)
    print(use.__name__, os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
def test_a_process_that_has_read_frames_can_fork(tmp_path: Path) -> None:
    source, bad = make_clip(tmp_path / "in.mp4", frames=30), tmp_path / "bad.mp4"
    sound = source.read_bytes()
    bad.write_bytes(sound[:2000] + bytes(1000) + sound[3000:])
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, str(source), str(bad)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.split() == ["to_the_end", "0", "left_early", "0", "failing", "0"], run.stderr


def test_restored_frames_of_which_there_is_none_are_an_error(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4")
    behind = replace(EXACT, source=SourceOptions(start_seconds=99))
    with pytest.raises(MediaError, match="not one frame could be decoded"):
        list(restored_frames(source, options=behind))


def test_damaged_packets_are_concealed_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.ts", frames=50, size=(128, 96))
    data = bytearray(source.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 211):
        data[place] ^= 0x55
    source.write_bytes(data)
    run = filter_video(source, tmp_path / "out.mkv", options=EXACT)
    assert run.damaged > 0
    assert run.frames == len(read_content(tmp_path / "out.mkv").planes) > 25
    options = FilterOptions(SourceOptions(stop_on_error=True), LOSSLESS, EXACT.restore)
    with pytest.raises(MediaError, match="damaged"):
        filter_video(source, tmp_path / "never.mkv", options=options)
    assert not (tmp_path / "never.mkv").exists()


def test_a_file_is_encoded_whole_frames_at_a_time_and_a_live_stream_without_delay(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=12, size=(320, 240))
    two = TargetOptions(threads=2)  # with one there is nothing to choose
    file = FilterOptions(target=two, restore=EXACT.restore)
    filter_video(source, tmp_path / "file.mkv", options=file)
    # libx264 writes its settings into the stream.
    assert b"sliced_threads=0" in (tmp_path / "file.mkv").read_bytes()
    live = replace(file, target=replace(two, live=True))
    filter_video(source, tmp_path / "live.mkv", options=live)
    assert b"sliced_threads=1" in (tmp_path / "live.mkv").read_bytes()
