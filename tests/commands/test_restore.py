"""The command as people and scripts use it: exit codes, sentences, pipes, signals."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cameras import COMMAND
from carfilter.commands.options import Seconds
from carfilter.commands.restore import carfilter
from carfilter.restore.int8.rows import open_rows
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import load_weights
from clips import draw_frame, equal_planes, make_clip, read_content, tiny_weights


def call(*arguments: object) -> Result:
    return CliRunner().invoke(carfilter, [str(a) for a in arguments])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    return tiny_weights(folder / "tiny.pt")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", audio="aac")


def test_help_answers_at_once_and_loads_neither_torch_nor_av() -> None:
    script = "import sys; from carfilter.commands.restore import main\n"
    script += "try: main()\nfinally: print([m for m in ('torch', 'av') if m in sys.modules])"
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - started
    assert "Remove compression artifacts" in run.stdout
    assert run.stdout.strip().endswith("[]")
    assert seconds < 0.5 or os.getloadavg()[0] > 2, f"{seconds:.2f} s"


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_numpy_starts_no_threads_beside_the_first_frame() -> None:
    script = "import os; from carfilter.process import load_numpy; load_numpy(); import numpy\n"
    script += "print(len(os.listdir('/proc/self/task')), 'OPENBLAS_NUM_THREADS' in os.environ)"
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
    )
    assert run.stdout.split() == ["1", "False"]


def test_help_shows_the_defaults_of_the_library() -> None:
    # Written twice, since --help would take twice as long with NumPy, let alone with torch.
    defaults = asdict(RestoreOptions())
    shown = {option.name: option.default for option in carfilter.params}
    for name in ("device", "precision", "strength", "lookahead"):
        assert shown[name] == defaults[name], name
    qp = next(option for option in carfilter.params if option.name == "qp")
    assert f"taken as {defaults['qp']} where" in str(qp.to_info_dict()["help"])


def test_a_run_says_what_it_does_and_what_it_did(clip: Path, weights: Path) -> None:
    target = clip.with_name("out.mp4")
    result = call(clip, target, "--weights", weights)
    assert result.exit_code == 0
    assert result.stdout == ""
    for words in (
        "#0 video (h264, 64x48 yuv420p) -> restore, encode with libx264",
        "#1 audio (aac) -> copy",
        "model tiny (sha256 ",
        "on CPU (",
        "fp32, batch 8",
        "done: 12 frames",
        "bottleneck ",
        "mean QP ",
        "0 damaged",
    ):
        assert words in result.stderr, words
    assert len(read_content(target).planes) == 12


def test_a_frozen_camera_is_reported_as_saved_work(tmp_path: Path, weights: Path) -> None:
    frozen, target = tmp_path / "frozen.mkv", tmp_path / "out.mkv"
    with av.open(str(frozen), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = draw_frame(0, (64, 48), "yuv420p")
        for pts in range(10):
            picture.pts = pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    reused = call(frozen, target, "--weights", weights, "-c:v", "ffv1")
    assert "reuse saved 90% of the network's work" in reused.stderr
    plain = call(frozen, target, "--weights", weights, "-c:v", "ffv1", "-y", "--no-reuse")
    assert plain.exit_code == 0
    assert "reuse" not in plain.stderr


def test_quiet_levels_say_less(clip: Path) -> None:
    result = call(clip, clip.with_name("out.mkv"), "--strength", "0", "-loglevel", "error")
    assert (result.exit_code, result.stderr) == (0, "")


def failing_cases(folder: Path) -> dict[str, tuple[list[object], str]]:
    clip, out = folder / "in.mp4", folder / "out.mp4"
    text, empty, sound = folder / "notes.mp4", folder / "empty.mp4", folder / "sound.mp4"
    text.write_text("these are notes and no video\n" * 40)
    empty.touch()
    cut = folder / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:700])
    with av.open(str(sound), "w") as container:
        tone = container.add_stream("aac", rate=8000)
        tone.codec_context.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 8000
        container.mux(tone.encode(silence))
        container.mux(tone.encode(None))
    weights = folder / "weights" / "tiny.pt"
    use = ["--weights", weights]
    return {
        "missing input": ([folder / "no.mp4", out, *use], "no.mp4: no such file"),
        "folder as input": ([folder, out, *use], "is a folder"),
        "text as input": ([text, out, *use], "notes.mp4: not a video file"),
        "empty input": ([empty, out, *use], "empty.mp4: is empty"),
        "index cut off": ([cut, out, *use], "cut.mp4: not a video file, or its header is damaged"),
        "no video": ([sound, out, *use], "sound.mp4: holds no video stream"),
        "missing weights": ([clip, out, "--weights", "no.pt"], "no.pt: no such weights file"),
        "weights that are a video": ([clip, out, "--weights", clip], "not a checkpoint"),
        "unknown codec": ([clip, out, "-c:v", "h999", *use], "-c:v h999: there is no such encoder"),
        "audio codec for video": ([clip, out, "-c:v", "aac", *use], "-c:v aac: encodes audio"),
        "unknown audio codec": ([clip, out, "-c:a", "mp9", *use], "-c:a mp9: there is no such"),
        "unknown option": ([clip, out, "--enc-opt", "nix=1", *use], "no option 'nix'"),
        "option that the source decides": (
            [clip, out, "--enc-opt", "time_base=1/7", *use],
            "time_base follows the source's times; leave it out",
        ),
        "size that the source decides": (
            [clip, out, "--enc-opt", "video_size=32x32", *use],
            "video_size follows the source's size; leave it out",
        ),
        "progress in the sidecar": (
            [clip, out, "--sidecar", "-progress", f"{out}.json", *use],
            "would be written twice",
        ),
        "refused setting": ([clip, out, "-preset", "warp", *use], "libx264 refuses these settings"),
        "odd pixel format": ([clip, out, "-pix_fmt", "pal8", *use], "no default for pixel format"),
        "pixel format the encoder refuses": (
            [clip, out, "-pix_fmt", "pal8", "-c:v", "libx264", *use],
            "cannot encode pixel format pal8; give -pix_fmt with one of",
        ),
        "unknown container": ([clip, folder / "out.xyz", *use], "does not say which container"),
        "unknown format": ([clip, out, "-f", "xyz", *use], "no output format 'xyz'"),
        "codec the container refuses": (
            [clip, folder / "out.webm", "-c:v", "libx264", *use],
            "the webm format cannot hold it",
        ),
        "target is the source": ([clip, clip, "-y", *use], "is the source itself"),
        "target is a folder": ([clip, folder, *use], "is a folder"),
        "folder of the target": ([clip, folder / "no" / "o.mp4", *use], "folder does not exist"),
        "map not understood": ([clip, out, "-map", "1:v", *use], "-map 1:v: not understood"),
        "past the end": ([clip, out, "-ss", "99", *use], "not one frame could be decoded"),
        "full disk": ([clip, "/dev/full", "-f", "nut", "-c:v", "rawvideo", *use], "disk is full"),
        "no such device": ([clip, out, "--device", "cuda:77", *use], "--device cuda:77"),
    }


def test_every_mistake_gets_one_sentence_exit_one_and_leaves_nothing(
    tmp_path: Path, clip: Path, weights: Path
) -> None:
    assert clip.exists()
    assert weights.exists()
    cases = failing_cases(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, (arguments, sentence) in cases.items():
        result = call(*arguments, "-loglevel", "error")
        assert result.exit_code == 1, name
        assert isinstance(result.exception, SystemExit), name
        assert sentence in result.stderr, f"{name}: {result.stderr}"
        assert result.stderr.count("\n") == 1, f"{name}: {result.stderr}"
        assert "Traceback" not in result.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == before, name


def test_an_existing_target_is_refused_without_y(clip: Path) -> None:
    target = clip.with_name("out.mkv")
    target.write_text("precious")
    for flags in ([], ["-n"]):
        result = call(clip, target, "--strength", "0", *flags)
        assert result.exit_code == 1
        assert "exists already; give -y" in result.stderr
        assert target.read_text() == "precious"
    assert call(clip, target, "--strength", "0", "-y").exit_code == 0
    assert len(read_content(target).planes) == 12


@pytest.mark.parametrize(
    "arguments",
    [
        ["-y", "-n"],
        ["-t", "1", "-to", "2"],
        ["-ss", "soon"],
        ["--strength", "2"],
        ["--enc-opt", "a"],
        ["-threads", "99999999999"],
    ],
)
def test_wrong_usage_is_exit_two(clip: Path, arguments: list[str]) -> None:
    assert call(clip, clip.with_name("out.mkv"), *arguments).exit_code == 2


def test_x265_takes_as_many_threads_as_it_can(clip: Path) -> None:
    out = clip.with_name("out.mkv")
    result = call(clip, out, "--strength", "0", "-c:v", "libx265", "-threads", "64")
    assert result.exit_code == 0, result.stderr
    assert len(read_content(out).planes) == 12


@pytest.mark.parametrize(("pix_fmt", "said"), [("yuv420p10le", "fp32"), ("yuv420p", "int8")])
def test_the_log_and_the_sidecar_say_how_footage_of_this_depth_is_computed(
    tmp_path: Path, pix_fmt: str, said: str
) -> None:
    if open_rows(load_weights("fast").int8) is None:  # type: ignore[arg-type]
        pytest.skip("nothing was compiled for this CPU")
    source = make_clip(tmp_path / "in.mkv", frames=2, pix_fmt=pix_fmt)
    out = tmp_path / "out.mkv"
    result = call(source, out, "--weights", "fast", "--device", "cpu", "--sidecar")
    assert result.exit_code == 0, result.stderr
    engine = json.loads(out.with_name("out.mkv.json").read_text())["engine"]
    assert said in engine
    assert engine in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("1:02.5", 62.5), ("01:00:00", 3600.0), ("500ms", 0.5), (".25", 0.25)],
)
def test_times_are_written_as_in_ffmpeg(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


def test_rate_control_of_the_user_replaces_the_default_crf(clip: Path) -> None:
    sizes = {}
    for name, options in {
        "default": [],
        "same": ["-crf", "18"],
        "small": ["-crf", "45"],
        "qp": ["--enc-opt", "qp=45"],
        "params": ["--enc-opt", "x264-params=crf=45"],
        "rate": ["-b:v", "20k", "-maxrate", "20k", "-bufsize", "20k"],
    }.items():
        target = clip.with_name(f"{name}.mkv")
        assert call(clip, target, "--strength", "0", "-an", *options).exit_code == 0
        sizes[name] = target.stat().st_size
    # libx264 does not always repeat itself to the byte, see the README.
    assert sizes["default"] == pytest.approx(sizes["same"], rel=0.02)
    assert all(sizes[name] < sizes["default"] * 0.6 for name in ("small", "qp", "params", "rate"))


def test_progress_writes_blocks_as_ffmpeg_does(clip: Path) -> None:
    report = clip.with_name("progress.txt")
    target = clip.with_name("out.mkv")
    result = call(clip, target, "--strength", "0", "-progress", report, "-stats_period", "0.001")
    assert result.exit_code == 0
    blocks = report.read_text().split("progress=")
    assert blocks[-1] == "end\n"
    last = dict(line.split("=", 1) for line in (blocks[-2]).splitlines() if "=" in line)
    assert last["frame"] == "12"
    for key in ("fps", "bitrate", "total_size", "out_time_us", "out_time", "speed", "infer_fps"):
        assert key in last
    refused = call(clip, "-", "-progress", "pipe:1", "--strength", "0")
    assert refused.exit_code == 1
    assert "stdout carries the video" in refused.stderr


@pytest.mark.ffmpeg
def test_a_pipe_through_ffmpeg_on_both_sides_keeps_frames_times_and_audio(
    tmp_path: Path, weights: Path
) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=30, audio="pcm_s16le", pts=[*range(0, 40, 2), *range(60, 70)]
    )
    outputs = {}
    for name, options in {
        "exact": ["--strength", "0"],
        "restored": ["--weights", str(weights)],
    }.items():
        target = tmp_path / f"{name}.mkv"
        read = ["ffmpeg", "-v", "error", "-i", str(source), "-copyts", "-fps_mode", "passthrough"]
        read += ["-c:v", "rawvideo", "-c:a", "copy", "-f", "nut", "-"]
        write = ["ffmpeg", "-v", "error", "-copyts", "-i", "-", "-fps_mode", "passthrough"]
        write += ["-c:v", "ffv1", "-c:a", "copy", str(target)]
        through = [*COMMAND, "-", "-", *options]
        with (
            subprocess.Popen(read, stdout=subprocess.PIPE) as first,
            subprocess.Popen(through, stdin=first.stdout, stdout=subprocess.PIPE) as middle,
        ):
            subprocess.run(write, stdin=middle.stdout, check=True, timeout=120)
        assert (first.returncode, middle.returncode) == (0, 0)
        outputs[name] = read_content(target)
    before = read_content(source)
    for after in outputs.values():
        assert after.seconds == before.seconds
        assert equal_planes(after.chroma, before.chroma)
        assert b"".join(d for _, d in after.packets[1]) == b"".join(d for _, d in before.packets[1])
    assert equal_planes(outputs["exact"].luma, before.luma)
    assert not equal_planes(outputs["restored"].luma, before.luma)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-f", "matroska", "-c:v", "ffv1"],
        ["-f", "mp4", "-c:v", "libx264", "-crf", "1"],
        ["-f", "yuv4mpegpipe", "-an"],
    ],
    ids=" ".join,
)
def test_a_reader_that_leaves_ends_any_pipe_quietly_with_one(
    tmp_path: Path, options: list[str]
) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=300, size=(320, 240), options={"preset": "ultrafast"}
    )
    command = [*COMMAND, str(source), "-", "--strength", "0", "-loglevel", "error", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10_000)
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_a_library_that_prints_cannot_soil_the_video_on_stdout(clip: Path) -> None:
    noisy = (
        "import os, carfilter.run.pipeline as p; from carfilter.commands.restore import main\n"
        "real = p.report_losses\n"
        "def report(*run): os.write(1, b'noise'); print('noise'); real(*run)\n"
        "p.report_losses = report; main()"
    )
    command = [sys.executable, "-c", noisy, str(clip), "-", "--strength", "0"]
    run = subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert b"noise" not in run.stdout
    assert b"noise" in run.stderr
    out = clip.with_name("piped.nut")
    out.write_bytes(run.stdout)
    assert equal_planes(read_content(out).planes, read_content(clip).planes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_never_leaves_a_file_under_the_targets_name(
    tmp_path: Path, number: signal.Signals
) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=900, size=(320, 240), options={"preset": "ultrafast"}
    )
    target = tmp_path / "out.mp4"
    command = [*COMMAND, str(source), str(target), "--strength", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1000 for p in tmp_path.glob(".out.*.part.mp4")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    code = process.wait(60)
    assert not target.exists()
    if number is signal.SIGKILL:
        assert code == -9
    else:
        assert code == 128 + number
        kept = read_content(tmp_path / "out.partial.mp4")
        assert 0 < len(kept.planes) < 900
        assert not list(tmp_path.glob(".*"))


def test_a_file_that_grows_past_its_limit_leaves_nothing(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=100, size=(320, 240), options={"preset": "ultrafast"}
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    run = subprocess.run(
        [*COMMAND, str(source), str(tmp_path / "out.mkv"), "--strength", "0", "-c:v", "ffv1",
         "-loglevel", "error"],
        preexec_fn=limit, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "out.mkv: the file would be larger than allowed" in run.stderr
    assert run.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


_PEAK = """
import resource, sys
from carfilter import filter_video
from carfilter.run.options import FilterOptions
from carfilter.media.options import TargetOptions
options = FilterOptions(target=TargetOptions(threads=2, encoder=(("preset", "veryfast"),)))
run = filter_video(sys.argv[1], sys.argv[2], sys.argv[3], options)
print(run.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(source: Path, weights: Path, frames: int) -> int:
    target = source.with_name(f"out{frames}.mp4")
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(source), str(target), str(weights)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    counted, peak = map(int, run.stdout.split())
    assert counted == frames
    return peak


def loop_clip(source: Path, target: Path, times: int) -> Path:
    """Write 12 seconds of video and sound several times over, interleaved as recorders do it."""
    with av.open(str(target), "w") as out:
        streams: dict[int, av.stream.Stream] = {}
        for turn in range(times):
            with av.open(str(source)) as container:
                if not streams:
                    streams = {s.index: out.add_stream_from_template(s) for s in container.streams}
                for packet in container.demux():
                    if packet.dts is None:
                        continue
                    # The sound is a little longer than the video.
                    shift = round(turn * 12.2 / float(packet.time_base))
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    packet.stream = streams[packet.stream_index]
                    out.mux(packet)
    return target


def test_memory_does_not_grow_with_length(tmp_path: Path, weights: Path) -> None:
    options = {"preset": "ultrafast"}
    clip = make_clip(
        tmp_path / "clip.mkv", frames=300, size=(192, 160), audio="aac", options=options
    )
    peaks = [
        peak_kilobytes(loop_clip(clip, tmp_path / f"in{times}.mp4", times), weights, 300 * times)
        for times in (1, 10)
    ]
    assert peaks[1] <= peaks[0] * 1.05, peaks


def test_ffmpegs_filters_and_ends_that_leave_nothing_are_wrong_usage(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    for given, sentence in (
        (
            ("-vf", "scale=64:48"),
            "there is no -vf; put an ffmpeg -vf before or after it, in a pipe",
        ),
        (("-t", "0"), "-t has to be more than zero"),
        (("-ss", "1.5", "-to", "1"), "-to has to lie behind -ss"),
    ):
        refused = call(clip, tmp_path / "out.mp4", *given)
        assert refused.exit_code == 2
        assert sentence in refused.stderr
