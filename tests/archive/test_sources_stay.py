"""What carfilter-batch writes beside the results never costs a video of the archive."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from archives import FIXED, leftovers, make_archive, run_batch
from clips import make_clip


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["--report", "--log-json", "--state"])
def test_a_video_is_never_written_over(tmp_path: Path, option: str) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    victim = make_clip(archive / "victim.mp4")
    (archive / "empty.mp4").touch()  # a recorder may have begun it just now
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(victim)
    os.link(victim, hard)
    before = contents(archive)
    for name in (victim, archive / "empty.mp4", link, hard):
        code, _, said = run_batch(archive, out, *FIXED, option, name)
        assert code == 1
        assert f"{name}: is the source itself; write to another file" in said
        assert "Traceback" not in said
        assert contents(archive) == before
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["out/camera0/clip000.mp4", "out/camera0/clip000.mp4.json", "folder"]
)
def test_a_page_that_would_cost_a_result_or_fail_is_refused_before_the_work(
    tmp_path: Path, name: str
) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    (tmp_path / "folder").mkdir()
    code, _, said = run_batch(archive, out, *FIXED, "--sidecar", "--report", tmp_path / name)
    assert code == 1
    assert f"{tmp_path / name}: is " in said
    assert not out.exists()


def test_two_outputs_of_a_run_never_share_a_file(tmp_path: Path) -> None:
    archive, out, one = make_archive(tmp_path / "in", 1), tmp_path / "out", tmp_path / "one"
    code, _, said = run_batch(archive, out, *FIXED, "--report", one, "--log-json", one)
    assert code == 1
    assert "one: would be written twice; give each output its own name" in said
    assert not one.exists()


def test_a_page_and_a_log_may_lie_in_the_archive_and_be_written_again(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    page, log = archive / "page.html", archive / "events.jsonl"
    for runs in (1, 2):
        code, _, said = run_batch(archive, out, *FIXED, "--report", page, "--log-json", log)
        assert code == 0, said
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert events.count("scanned") == events.count("ended") == runs
    assert "clip000" in page.read_text()
    assert not leftovers(archive)


@pytest.mark.parametrize(("option", "name"), [("--report", "-"), ("--report", "/dev/stdout"),
                                              ("--state", "-")])  # fmt: skip
def test_what_is_no_single_stream_is_not_sent_to_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    make_archive(tmp_path / "in", 1)
    monkeypatch.chdir(tmp_path)
    code, output, said = run_batch("in", "out", *FIXED, option, name)
    assert (code, output, said.count("\n")) == (1, "", 1)
    assert f"{name}: a " in said
    assert "goes into a file; give its name" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_pipe_takes_the_page_and_stays_a_pipe(tmp_path: Path) -> None:
    archive, pipe, got = make_archive(tmp_path / "in", 1), tmp_path / "pipe", tmp_path / "got"
    os.mkfifo(pipe)
    with got.open("wb") as file, subprocess.Popen(["timeout", "60", "cat", pipe], stdout=file):
        code, _, said = run_batch(archive, tmp_path / "out", *FIXED, "--report", pipe)
    assert code == 0, said
    assert "clip000" in got.read_text()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
