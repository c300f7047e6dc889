"""What users of similar tools suffered from, one rule each, and the tests that hold it here."""

import ast
import itertools
import logging
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from cameras import COMMAND
from carfilter import filter_video
from carfilter.commands.display import RunDisplay, summary
from carfilter.commands.progress import eta_seconds
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import equal_planes, make_clip, read_content, tiny_weights

# The rule, and where it is held: "module::test", or a test of this module by its name alone.
LESSONS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "the decoder is drained: frames written are frames decoded",
        (
            "run/test_pipeline::test_strength_zero_through_ffv1_changes_nothing",
            "media/test_matrix::test_frames_out_are_the_frames_the_decoder_gives",
        ),
    ),
    2: (
        "no file is split among workers; batches come back in order",
        (
            "restore/test_restorer::test_what_comes_out_does_not_depend_on_the_batch",
            "archive/test_clean::test_a_result_is_what_the_filter_alone_gives_and_its_sidecar_names_it",
        ),
    ),
    3: (
        "sound and picture stay together: times travel in ticks, an offset is kept",
        (
            "media/test_matrix::test_every_target_holds_every_frame_at_its_time",
            "media/test_timestamps::"
            "test_a_clock_that_jumps_goes_on_without_a_gap_and_sound_stays_with_the_picture",
        ),
    ),
    4: (
        "a variable frame rate stays as it is",
        ("run/test_pipeline::test_strength_zero_through_ffv1_changes_nothing",),
    ),
    5: (
        "totals are estimates; an unknown length is no error",
        ("test_an_unknown_length_is_shown_as_such",),
    ),
    6: (
        "colours never pass through RGB: chroma stays bit by bit",
        (
            "run/test_pipeline::test_the_network_touches_luma_and_nothing_else",
            "media/test_pixel_formats::test_rgb_is_refused_with_the_remedy_and_converted_on_request",
        ),
    ),
    7: (
        "full range stays full range",
        (
            "test_full_range_keeps_its_tag_and_its_ends",
            "restore/test_restorer::test_every_value_of_every_depth_survives_a_zero_correction",
        ),
    ),
    8: (
        "colour tags are kept, unset ones too, through pipes as well; y4m's losses are told",
        (
            "run/test_pipeline::test_tags_chapters_dispositions_and_rotation_stay",
            "run/test_pipeline::test_unset_colour_tags_stay_unset",
            "media/test_pipes::test_frames_times_colours_and_audio_go_through_a_pipe",
        ),
    ),
    9: (
        "10 bits stay 10 bits, HDR10 reaches the encoder",
        (
            "media/test_pixel_formats::test_luma_moves_at_its_own_depth_and_everything_else_stays",
            "media/test_hdr::test_mastering_display_and_light_level_survive",
        ),
    ),
    10: (
        "a stream that the target cannot hold is named before any work",
        (
            "run/test_pipeline::test_a_stream_the_container_cannot_hold_stops_the_run_before_any_work",
            "media/test_streams::test_bitmap_subtitles_that_the_target_cannot_hold_are_named",
        ),
    ),
    11: (
        "audio is copied packet by packet, and the map of streams is printed",
        (
            "commands/test_restore::test_a_run_says_what_it_does_and_what_it_did",
            "media/test_streams::test_three_audio_tracks_keep_order_language_and_packets",
        ),
    ),
    12: (
        "no temporary frames; a full disk has a sentence of its own",
        (
            "test_a_run_writes_one_file_and_no_other",
            "commands/test_restore::test_every_mistake_gets_one_sentence_exit_one_and_leaves_nothing",
        ),
    ),
    13: (
        "memory does not grow with the length",
        (
            "commands/test_restore::test_memory_does_not_grow_with_length",
            "restore/test_references::test_what_waits_is_bounded_in_bytes",
        ),
    ),
    14: (
        "the stages overlap, and the summary tells how busy each was",
        (
            "test_the_summary_tells_how_busy_each_stage_was",
            "restore/test_cuda::test_both_slots_in_flight_keep_the_order",
        ),
    ),
    15: (
        "a slow encoder is named, with the option that helps",
        ("test_a_run_held_up_by_its_encoder_is_told_what_helps",),
    ),
    16: (
        "out of memory means smaller batches, then tiles, and never a lost frame",
        (
            "restore/test_restorer::test_out_of_memory_takes_smaller_batches_then_tiles_and_loses_no_frame",
            "restore/test_restorer::test_tiled_equals_untiled",
            "restore/test_cuda::test_a_full_card_ends_in_smaller_batches_or_tiles_and_not_in_a_lost_frame",
        ),
    ),
    17: (
        "a precision that the device lacks is not tried",
        (
            "restore/test_restorer::test_a_device_or_precision_that_is_not_there_is_refused",
            "restore/test_int8::test_auto_takes_int8_where_it_is_calibrated_and_floats_elsewhere",
        ),
    ),
    18: (
        "a library that prints cannot soil the video on stdout",
        ("commands/test_restore::test_a_library_that_prints_cannot_soil_the_video_on_stdout",),
    ),
    19: (
        "a reader that goes ends the run quietly and as a failure",
        ("commands/test_restore::test_a_reader_that_leaves_ends_any_pipe_quietly_with_one",),
    ),
    20: (
        "a power cut costs the file in work, not the archive",
        (
            "archive/test_clean::test_a_killed_driver_takes_its_workers_along_and_the_next_run_finishes",
            "archive/test_clean::test_only_what_is_missing_or_changed_is_done_again",
        ),
    ),
    21: (
        "a file under the target's name is a finished file",
        (
            "commands/test_restore::test_a_signal_never_leaves_a_file_under_the_targets_name",
            "run/test_pipeline::test_an_interrupted_run_keeps_a_playable_part_under_another_name",
        ),
    ),
    22: (
        "the source is never touched",
        (
            "test_the_source_is_not_touched_whatever_becomes_of_the_run",
            "archive/test_clean::test_a_result_that_lacks_frames_time_or_a_stream_is_found_out",
        ),
    ),
    23: (
        "clocks that jump are carried on with a warning; a bad file stops no other",
        (
            "media/test_timestamps::test_a_jump_reaches_every_container_with_sound_copied_or_encoded",
            "archive/test_clean::"
            "test_an_archive_is_mirrored_and_each_bad_file_fails_alone_with_its_reason",
        ),
    ),
    24: (
        "no edge adds or loses a frame",
        (
            "test_two_halves_hold_each_frame_once",
            "media/test_segments::test_segments_are_cut_at_the_second_and_hold_every_frame_and_packet",
        ),
    ),
    25: (
        "no deadlock: no clashing library, no logging through Python, a watchdog in batches",
        (
            "test_no_library_is_loaded_that_clashes_with_pyav",
            "test_every_log_level_ends",
            "archive/test_clean::test_a_worker_that_hangs_is_ended_and_its_file_fails_alone",
        ),
    ),
}
EXACT = FilterOptions(
    target=TargetOptions(video_codec="ffv1", overwrite=True), restore=RestoreOptions(strength=0)
)


def test_there_are_twenty_five_rules() -> None:
    assert sorted(LESSONS) == list(range(1, 26))


def _file_of(module: str) -> Path:
    (path,) = Path(__file__).parents[1].glob(f"{module}.py")
    return path


@pytest.mark.parametrize("number", sorted(LESSONS))
def test_every_rule_is_held_by_tests_that_exist(number: int) -> None:
    rule, tests = LESSONS[number]
    assert rule
    assert tests
    for test in tests:
        module, _, name = test.rpartition("::")
        path = _file_of(module) if module else Path(__file__)
        functions = [n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")]
        assert name in functions, test


def test_an_unknown_length_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("stdin", "stdout", frames=50, video_seconds=2.0, elapsed_seconds=1.0)
    run.busy_seconds = {"decode": 0.5, "encode": 0.2}
    assert run.seconds_expected is None
    assert eta_seconds(run) is None
    with RunDisplay(quiet=False, period_seconds=1e-9) as display:
        display(run)
    shown = capsys.readouterr().err
    assert "50 frames" in shown
    assert "left" not in shown


@pytest.mark.parametrize(("pix_fmt", "full"), [("yuvj420p", True), ("yuv420p", False)])
def test_full_range_keeps_its_tag_and_its_ends(tmp_path: Path, pix_fmt: str, full: bool) -> None:
    """Black 0 and white 255 through the default encoder; limited range is not stretched."""
    source = tmp_path / "in.mp4"
    ends = (0, 255) if full else (16, 235)
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
        video.codec_context.options = {"qp": "1"}
        video.codec_context.color_range = 2 if full else 1
        for number in range(6):
            frame = av.VideoFrame(64, 48, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            rows = np.frombuffer(frame.planes[0], np.uint8).reshape(48, -1)
            rows[:, :32], rows[:, 32:] = ends
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    weights = tiny_weights(tmp_path / "tiny.pt")
    for options in (FilterOptions(restore=EXACT.restore), FilterOptions(target=EXACT.target)):
        filter_video(source, tmp_path / "out.mkv", weights, options)
        assert _range_tag(tmp_path / "out.mkv") == _range_tag(source)
        (tmp_path / "out.mkv").unlink()
    assert (_range_tag(source) == 2) == full
    run = FilterOptions(restore=EXACT.restore, target=TargetOptions(encoder=(("qp", "1"),)))
    filter_video(source, tmp_path / "out.mp4", options=run)
    for luma in read_content(tmp_path / "out.mp4").luma:
        assert abs(int(luma.min()) - ends[0]) <= 1
        assert abs(int(luma.max()) - ends[1]) <= 1


def _range_tag(path: Path) -> int:
    with av.open(str(path)) as container:
        return int(next(container.decode(video=0)).color_range)


def test_a_run_writes_one_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    source = make_clip(tmp_path / "in.mp4", frames=60, audio="aac")
    seen: set[str] = set()

    def look(_: Run) -> None:
        seen.update(path.name for path in (*tmp_path.iterdir(), *scratch.iterdir()))

    filter_video(
        source, tmp_path / "out.mp4", options=FilterOptions(restore=EXACT.restore), progress=look
    )
    (grown,) = seen - {"in.mp4", "scratch"}
    assert re.fullmatch(r"\.out\.[0-9a-f]{8}\.part\.mp4", grown)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "scratch", "out.mp4"}


def test_the_summary_tells_how_busy_each_stage_was(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=30)
    run = filter_video(source, tmp_path / "out.mp4", tiny_weights(tmp_path / "tiny.pt"))
    assert set(run.busy_seconds) == {"decode", "network", "encode"}
    assert all(0 < seconds <= run.elapsed_seconds for seconds in run.busy_seconds.values())
    for stage in run.busy_seconds:
        assert f"{stage} {run.busy_seconds[stage] / run.elapsed_seconds:.0%}" in summary(run)


def test_a_run_held_up_by_its_encoder_is_told_what_helps() -> None:
    run = Run("in.mp4", "out.mp4", frames=100, elapsed_seconds=10.0)
    run.busy_seconds = {"decode": 2.0, "network": 4.0, "encode": 9.5}
    assert "bottleneck encode (busy: decode 20%, network 40%, encode 95%), a faster -preset" in (
        summary(run)
    )
    run.busy_seconds["encode"] = 3.0
    assert "-preset" not in summary(run)


def test_the_source_is_not_touched_whatever_becomes_of_the_run(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=12)
    before, stat = source.read_bytes(), source.stat()
    filter_video(source, tmp_path / "out.mp4", options=FilterOptions(restore=EXACT.restore))
    refused = (TargetOptions(overwrite=True), source), (TargetOptions(), tmp_path / "out.mp4")
    for target, path in (*refused, (TargetOptions(video_codec="nothing"), tmp_path / "x.mp4")):
        with pytest.raises(Exception, match=r"in\.mp4|out\.mp4|nothing"):
            filter_video(source, path, options=FilterOptions(target=target, restore=EXACT.restore))
    assert source.read_bytes() == before
    assert source.stat().st_mtime_ns == stat.st_mtime_ns
    assert source.stat().st_ino == stat.st_ino


@pytest.mark.parametrize("codec", [{"options": {"bf": "3", "g": "10"}}, {"codec": "mpeg2video"}])
def test_two_halves_hold_each_frame_once(tmp_path: Path, codec: dict[str, object]) -> None:
    """Cut wherever one likes, at a key frame and between: -to of one part is -ss of the next."""
    source = make_clip(tmp_path / "in.mp4", frames=40, **codec)
    whole = read_content(source).planes
    edges = [None, 0.4, 0.44, 1.0, None]  # seconds; 10, 11 and 25 frames
    parts: list[list[np.ndarray]] = []
    for begin, end in itertools.pairwise(edges):
        options = FilterOptions(
            SourceOptions(start_seconds=begin, end_seconds=end), EXACT.target, EXACT.restore
        )
        filter_video(source, tmp_path / "part.mkv", options=options)
        parts += read_content(tmp_path / "part.mkv").planes
    assert len(parts) == len(whole) == 40
    assert equal_planes(parts, whole)


def test_no_library_is_loaded_that_clashes_with_pyav(tmp_path: Path) -> None:
    """torchvision and OpenCV bring an FFmpeg of their own, with which PyAV deadlocks or crashes."""
    source = make_clip(tmp_path / "in.mp4")
    script = "import sys; from carfilter import filter_video\n"
    script += f"filter_video({str(source)!r}, {str(tmp_path / 'out.mp4')!r})\n"
    script += "print([m for m in ('torchvision', 'torchaudio', 'cv2') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("level", ["verbose", "debug"])
def test_every_log_level_ends(tmp_path: Path, level: str) -> None:
    """FFmpeg's messages through Python's logging deadlock; here they go to stderr by themselves."""
    source = make_clip(tmp_path / "in.ts", frames=50, size=(128, 96))
    data = bytearray(source.read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 211):
        data[place] ^= 0x55  # damage makes decoders talk, from their own threads
    source.write_bytes(data)
    command = [
        *COMMAND,
        str(source),
        str(tmp_path / "out.mkv"),
        "--strength",
        "0",
        "-loglevel",
        level,
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout == ""
    assert "[" in run.stderr  # FFmpeg's own lines begin with [h264 @ ...]
    assert logging.getLogger("libav").handlers == []
