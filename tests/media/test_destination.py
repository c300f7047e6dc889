"""Where results go: names that others take, links, modes, devices, full disks, long names."""

import json
import os
import resource
import signal
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from click.testing import CliRunner, Result

from cameras import COMMAND
from carfilter import filter_video
from carfilter.commands.restore import carfilter
from carfilter.errors import MediaError
from carfilter.media.options import TargetOptions
from carfilter.process import cpu_flags
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from clips import equal_planes, make_clip, read_content

THROUGH = RestoreOptions(strength=0)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(carfilter, [*map(str, arguments), "--strength", "0"])


def frames_of(path: Path) -> int:
    return len(read_content(path).planes)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_with_one_target_never_mix_and_neither_result_is_lost(
    tmp_path: Path, overwrite: bool
) -> None:
    long = make_clip(tmp_path / "long.mkv", frames=30)
    short = make_clip(tmp_path / "short.mkv", frames=12)
    target = tmp_path / "out.mkv"
    options = FilterOptions(restore=THROUGH, target=TargetOptions(overwrite=overwrite))
    others: list[Run] = []

    def run_another(_: Run) -> None:
        if not others:
            others.append(filter_video(short, target, options=options))

    if overwrite:
        filter_video(long, target, options=options, progress=run_another)
        assert frames_of(target) == 30
    else:
        with pytest.raises(MediaError, match=r"came to exist.*complete and lies in .*out-2\.mkv"):
            filter_video(long, target, options=options, progress=run_another)
        assert frames_of(target) == 12
        assert frames_of(tmp_path / "out-2.mkv") == 30
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("leads_to", ["a file", "nothing yet"])
def test_a_link_as_target_is_written_through_and_the_mode_stays(
    tmp_path: Path, leads_to: str
) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real.mkv", tmp_path / "link.mkv"
    link.symlink_to("disk/real.mkv")
    if leads_to == "a file":
        real.write_text("precious")
        real.chmod(0o640)
        refused = call(clip, link)
        assert (refused.exit_code, real.read_text()) == (1, "precious")
        assert "exists already; give -y" in refused.stderr
    assert call(clip, link, "-y").exit_code == 0
    assert link.readlink() == Path("disk/real.mkv")
    assert frames_of(real) == 12
    if leads_to == "a file":
        assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [p.name for p in real.parent.iterdir()] == ["real.mkv"]


def test_a_link_to_itself_is_refused_in_one_sentence(tmp_path: Path) -> None:
    clip, loop = make_clip(tmp_path / "in.mkv"), tmp_path / "loop.mkv"
    loop.symlink_to("loop.mkv")
    for arguments in ((clip, loop), (loop, tmp_path / "out.mkv")):
        result = call(*arguments, "-loglevel", "error")
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/{}", "fifo.mkv", "fifo.mp4", "fifo.mov"])
def test_pipes_and_descriptors_are_written_directly(tmp_path: Path, name: str) -> None:
    clip, out = make_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    with out.open("wb") as file:
        number = file.fileno()
        target = name.format(number) if name.startswith("/") else str(tmp_path / name)
        command = [*COMMAND, str(clip), target, "--strength", "0"]
        command += [
            "-f",
            {"fifo.mp4": "mp4", "fifo.mov": "mov"}.get(name, "matroska"),
            "-c:v",
            "libx264",
            "-loglevel",
            "error",
        ]
        if name.startswith("fifo"):
            os.mkfifo(target)
            reader = subprocess.Popen(["cat", target], stdout=file)
        stdout = file if name == "/dev/stdout" else None
        subprocess.run(command, stdout=stdout, pass_fds=[number], check=True, timeout=60)
        if name.startswith("fifo"):
            assert reader.wait(20) == 0
            assert stat.S_ISFIFO(Path(target).stat().st_mode)
    assert frames_of(out) == 12


@pytest.mark.parametrize("name", ["n" * 246 + ".mkv", "n" * 251 + ".mkv", "ü" * 125 + ".mkv"])
def test_names_as_long_as_they_may_be(tmp_path: Path, name: str) -> None:
    clip, target = make_clip(tmp_path / "in.mkv", frames=90), tmp_path / name
    stop = threading.Event()
    assert call(clip, target).exit_code == 0
    assert frames_of(target) == 90
    target.unlink()
    options = FilterOptions(restore=THROUGH)
    run = filter_video(clip, target, None, options, stop=stop, progress=lambda _: stop.set())
    assert run.interrupted
    assert Path(run.partial).name.endswith(".partial.mkv")
    assert frames_of(Path(run.partial)) > 0
    sidecar = call(clip, target, "--sidecar", "-loglevel", "error")
    assert len(os.fsencode(name)) + len(".json") > 255 or sidecar.exit_code == 0
    longer = call(clip, tmp_path / f"{'n' * 10}{name}", "-loglevel", "error")
    assert (longer.exit_code, longer.stderr.count("\n")) == (1, 1)
    assert "Traceback" not in longer.stderr


def smaller_files(limit: int) -> Callable[[], None]:
    """Return what lets files of a process grow to `limit` bytes, as on a disk that gets full."""

    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_segment_that_finds_no_room_leaves_those_before_it_and_one_sentence(
    tmp_path: Path, ending: str
) -> None:
    # Second 0 holds two frames, second 1 many.
    clip = make_clip(
        tmp_path / "in.mkv", frames=42, size=(160, 120), pts=[0, 12, *range(25, 65)],
        options={"preset": "ultrafast", "qp": "1"},
    )  # fmt: skip
    command = [*COMMAND, str(clip), str(tmp_path / f"part%d.{ending}"), "--strength", "0"]
    command += [
        "-f",
        "segment",
        "-segment_time",
        "1",
        "-c:v",
        "ffv1",
        "-g",
        "1",
        "-loglevel",
        "error",
    ]
    run = subprocess.run(
        command, preexec_fn=smaller_files(200_000), capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1, run.stderr
    assert "larger than allowed" in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", f"part0.{ending}"]
    assert frames_of(tmp_path / f"part0.{ending}") == 2


def test_more_than_eight_bits_go_into_y4m_and_it_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le", options={"qp": "1"})
    for name, form in (("out.y4m", []), ("other", ["-f", "yuv4mpegpipe"])):
        result = call(clip, tmp_path / name, *form)
        assert result.exit_code == 0, result.stderr
        assert "Y4M with yuv420p10le is an extension of FFmpeg's (its -strict -1)" in result.stderr
        assert equal_planes(read_content(tmp_path / name).planes, read_content(clip).planes)


def test_what_a_muxer_refuses_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    result = call(clip, tmp_path / "out.ogv", "-c:v", "mpeg4", "-loglevel", "error")
    assert result.exit_code == 1
    assert "the ogv format refuses what it is given" in result.stderr
    assert "disk" not in result.stderr
    result = call(clip, tmp_path / "out.mp4", "-movflags", "+slowstart", "-loglevel", "error")
    assert result.exit_code == 1
    assert "; correct -movflags +slowstart, use an .mkv target" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]
    assert call(clip, tmp_path / "out.mkv", "-c:v", "mpeg4").exit_code == 0


@pytest.mark.parametrize("ending", ["mkv", "webm", "mp4", "ogv", "ts", "nut", "avi"])
def test_the_same_input_gives_the_same_file(tmp_path: Path, ending: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", audio="libopus" if ending in ("webm", "ogv") else "aac")
    codec = {"webm": ["-c:v", "libvpx-vp9"], "ogv": ["-c:v", "libvpx"]}.get(ending, [])
    made = [tmp_path / f"{number}.{ending}" for number in range(2)]
    for path in made:
        result = call(clip, path, *codec, "-b:v", "100k", "-maxrate", "100k", "-bufsize", "100k")
        assert result.exit_code == 0, result.stderr
    assert made[0].read_bytes() == made[1].read_bytes()


def test_segments_repeat_themselves(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=60)
    options = ("-f", "segment", "-segment_time", "1")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert call(clip, tmp_path / folder / "%d.mkv", *options).exit_code == 0
    for number in range(3):
        one, two = (tmp_path / folder / f"{number}.mkv" for folder in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()


AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="this CPU has no AVX2")
@pytest.mark.parametrize(
    ("flags", "given", "avoids"),
    [
        (AVX512, [], True),
        (AVX512, ["x264-params=keyint=50"], True),
        (AVX512, ["x264-params=asm=auto"], False),
        (AVX512, ["x264-params=keyint=50:cpu-independent=1"], False),
        (AVX512 - {"avx512vl"}, [], False),
        (frozenset(), [], False),
    ],
)
def test_libx264_is_kept_from_avx512_unless_the_user_says_otherwise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: frozenset[str],
    given: list[str],
    avoids: bool,
) -> None:
    monkeypatch.setattr("carfilter.media.encoder.cpu_flags", lambda: flags)
    clip = make_clip(tmp_path / "in.mkv")
    options = [word for option in given for word in ("--enc-opt", option)]
    result = call(clip, tmp_path / "out.mkv", *options)
    assert result.exit_code == 0, result.stderr
    assert ("libx264 without AVX-512" in result.stderr) == avoids
    assert frames_of(tmp_path / "out.mkv") == 12


def test_a_result_that_replaces_another_takes_its_sidecar_away(tmp_path: Path) -> None:
    clip, target = make_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    record = tmp_path / "out.mkv.json"
    assert call(clip, target, "--sidecar").exit_code == 0
    replaced = call(clip, target, "-y", "-crf", "40")
    assert f"{record}: described what was replaced and is removed" in replaced.stderr
    assert not record.exists()
    record.write_text('{"mine": 1}')
    assert call(clip, target, "-y").exit_code == 0
    assert record.read_text() == '{"mine": 1}'


def test_a_sidecar_of_what_is_no_file_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    for target in ("-", "/dev/null", "udp://127.0.0.1:9"):
        refused = call(clip, target, "--sidecar", "-f", "nut")
        assert refused.exit_code == 1
        assert f"{target}: is no file that --sidecar could describe; leave it out" in refused.stderr


def test_a_sidecar_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    source, target = make_clip(tmp_path / "in.ts", frames=25), tmp_path / "out.mkv"
    command = [*COMMAND, "--live", "-", str(target), "--sidecar", "--strength", "0"]
    subprocess.run(command, input=source.read_bytes(), check=True, capture_output=True)

    def refuse(name: str) -> None:
        raise ValueError(name)

    record = json.loads((tmp_path / "out.mkv.json").read_text(), parse_constant=refuse)
    assert record["options"]["restore"]["compile_after"] is None


def test_a_file_that_comes_in_by_stdin_is_not_replaced_by_its_result(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    before = source.read_bytes()
    with source.open("rb") as file:
        run = subprocess.run(
            [*COMMAND, "-", str(source), "-y", "--strength", "0", "-loglevel", "error"],
            stdin=file, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.endswith("in.mkv: is the source itself; write to another file\n")
    assert source.read_bytes() == before


def test_a_source_that_is_called_stdin_is_not_replaced_by_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_clip(tmp_path / "in.mkv").rename(tmp_path / "stdin").read_bytes()
    monkeypatch.chdir(tmp_path)
    target = TargetOptions(overwrite=True, format="matroska")
    with pytest.raises(MediaError, match="stdin: is the source itself; write to another file"):
        filter_video("stdin", "stdin", options=FilterOptions(target=target, restore=THROUGH))
    assert Path("stdin").read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_a_sidecar_never_replaces_the_source(tmp_path: Path, how: str, overwrite: bool) -> None:
    source = make_clip(tmp_path / "in.mkv")
    beside, before = tmp_path / "out.mkv.json", source.read_bytes()
    if how == "itself":
        source = source.rename(beside)
    elif how == "link":
        beside.symlink_to(source)
    else:
        os.link(source, beside)
    options = FilterOptions(
        target=TargetOptions(overwrite=overwrite), restore=THROUGH, sidecar=True
    )
    with pytest.raises(MediaError, match=r"out\.mkv\.json: is the source itself; write to another"):
        filter_video(source, tmp_path / "out.mkv", options=options)
    assert source.read_bytes() == before
    assert not (tmp_path / "out.mkv").exists()


def test_a_sidecar_never_replaces_a_file_unasked(tmp_path: Path) -> None:
    clip, target = make_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    (tmp_path / "out.mkv.json").write_text("precious")
    refused = call(clip, target, "--sidecar")
    assert "out.mkv.json: exists already; give -y" in refused.stderr
    assert (tmp_path / "out.mkv.json").read_text() == "precious"
    assert not target.exists()
    assert call(clip, target, "--sidecar", "-y").exit_code == 0
    with av.open(str(target)) as made:
        assert made.streams.video
