"""Commands whose stdout, stderr or terminal goes away, or was never there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cameras import COMMAND
from clips import make_clip, read_content

BATCH = [sys.executable, "-c", "from carfilter.commands.batch import main; main()"]
INSPECT = [sys.executable, "-c", "from carfilter.commands.inspect import main; main()"]
THROUGH = ["--strength", "0", "-preset", "ultrafast"]


@pytest.mark.parametrize("command", [COMMAND, BATCH], ids=["carfilter", "carfilter-batch"])
def test_the_work_goes_on_when_nobody_reads_stderr(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    clip, out = make_clip(tmp_path / "in" / "a.mkv", frames=60), tmp_path / "out" / "a.mkv"
    given = [clip, out] if command is COMMAND else [clip.parent, out.parent]
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [*map(str, given), *THROUGH, "-stats_period", "0.01"]
    run = subprocess.run([*command, *arguments], stderr=writer, timeout=120, check=False)
    os.close(writer)
    assert run.returncode == 0
    assert len(read_content(out).planes) == 60


def test_an_inspection_goes_on_when_nobody_reads_stderr(tmp_path: Path) -> None:
    bad, clip = tmp_path / "bad.mkv", make_clip(tmp_path / "good.mkv", frames=30)
    bad.write_bytes(b"no video")  # of which stderr would tell
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [str(bad), str(clip), "--json", str(tmp_path / "found.json")]
    run = subprocess.run(
        [*INSPECT, *arguments], stderr=writer, stdout=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writer)
    assert run.returncode == 1
    assert "good.mkv" in (tmp_path / "found.json").read_text()


def test_streams_that_are_closed_get_one_sentence_and_never_the_media(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    out = tmp_path / "out.mkv"

    def run(words: str) -> tuple[int, str]:
        shell = " ".join([*(f"'{word}'" for word in COMMAND), *THROUGH, words])
        done = subprocess.run(
            ["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    code, said = run("-loglevel error in.mkv - >&-")
    assert (code, said) == (1, "carfilter: error: stdout: is closed; open it, or give a file\n")
    code, said = run("-loglevel error - x.mkv <&-")
    assert (code, said.count("\n")) == (1, 1)
    assert "stdin: is closed" in said
    code, said = run("-loglevel error -progress - in.mkv x.mkv >&-")
    assert (code, said.count("\n")) == (1, 1)
    assert "-progress -: cannot be written" in said
    assert run("in.mkv - -f matroska -c:v libx264 2>&- >out.mkv") == (0, "")
    assert len(read_content(out).planes) == len(read_content(clip).planes)


@pytest.mark.parametrize("where", ["/dev/full", "-", "pipe:1"])
def test_a_report_of_progress_that_finds_no_room_costs_nothing_but_itself(
    tmp_path: Path, where: str
) -> None:
    clip, out = make_clip(tmp_path / "in.mkv", frames=60), tmp_path / "out.mkv"
    command = [*COMMAND, str(clip), str(out), *THROUGH, "-progress", where, "-loglevel", "warning"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert run.returncode == 0
    assert len(read_content(out).planes) == 60
    assert run.stderr.count("\n") == 1, run.stderr
    assert f"-progress {where}: cannot be written any more (No space left" in run.stderr


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_closes_ends_a_run_as_sigterm_does_unless_it_was_to_outlive_it(
    tmp_path: Path, ignored: bool
) -> None:
    clip = make_clip(
        tmp_path / "in.mkv", frames=900, size=(320, 240), options={"preset": "ultrafast"}
    )
    out = tmp_path / "out.mkv"
    answer = signal.SIG_IGN if ignored else signal.SIG_DFL
    process = subprocess.Popen(
        [*COMMAND, str(clip), str(out), *THROUGH],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, answer),
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob(".out.*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    code = process.wait(60)
    assert code == (0 if ignored else 128 + signal.SIGHUP)
    kept = out if ignored else tmp_path / "out.partial.mkv"
    assert (0 < len(read_content(kept).planes) < 900) != ignored


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("in.mkv", "./in.mkv"),
        ("in.mkv", "link.mkv"),
        ("link.mkv", "file:in.mkv"),
        ("in.mkv", "hard.mkv"),
        ("-", "in.mkv"),
    ],
)
def test_a_report_of_progress_never_empties_the_recording(
    tmp_path: Path, source: str, name: str
) -> None:
    clip = make_clip(tmp_path / "in.mkv")
    before = clip.read_bytes()
    (tmp_path / "link.mkv").symlink_to("in.mkv")
    os.link(clip, tmp_path / "hard.mkv")
    command = [*COMMAND, source, "out.mkv", *THROUGH, "-progress", name, "-loglevel", "error"]
    with clip.open("rb") as stdin:
        run = subprocess.run(
            command, cwd=tmp_path, stdin=stdin, capture_output=True, text=True, timeout=60
        )
    assert run.returncode == 1
    assert run.stderr.endswith("mkv: is the source itself; write to another file\n")
    assert run.stderr.count("\n") == 1
    assert clip.read_bytes() == before


def test_a_report_of_progress_never_empties_an_earlier_result(tmp_path: Path) -> None:
    clip, out = make_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    out.write_bytes(b"an earlier result")
    command = [*COMMAND, clip, out, *THROUGH, "-progress", out, "-loglevel", "error"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert run.returncode == 1
    assert "out.mkv: would be written twice; give each output its own name" in run.stderr
    assert out.read_bytes() == b"an earlier result"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_stdout_has_no_signs_for_ends_no_command(tmp_path: Path, encoding: str) -> None:
    clip = make_clip(tmp_path / "Zürich ▶.mkv", frames=30)
    told = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*INSPECT, str(clip)]
    run = subprocess.run(command, env=told, capture_output=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    shown = run.stdout.decode(encoding)
    assert ("Zürich ▶.mkv" in shown) == ("▁" in shown or "█" in shown) == (encoding == "utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", ""])
def test_a_full_stdout_is_told_in_a_sentence(tmp_path: Path, words: str, unbuffered: str) -> None:
    words = words or str(make_clip(tmp_path / "in.mkv"))
    told = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [*INSPECT, words], env=told, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert run.returncode == 1
    assert run.stderr.startswith("carfilter-inspect: error: stdout: cannot be written (No space")
    assert run.stderr.count("\n") == 1
