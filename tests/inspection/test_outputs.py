"""Where carfilter-inspect writes: devices and pipes stay what they are, no video is lost."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from carfilter.commands.inspect import carfilter_inspect
from clips import make_clip, tiny_weights

COMMAND = [sys.executable, "-c", "from carfilter.commands.inspect import main; main()"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=3)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path / "tiny.pt")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(carfilter_inspect, [str(a) for a in arguments])


def refused(*arguments: object) -> str:
    """Run what is to be refused before any work, and return the sentence."""
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("option", ["--html", "--json", "--csv"])
def test_a_device_stays_a_device(clip: Path, weights: Path, option: str) -> None:
    null = clip.with_name("null")
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_bytes(b"")
    except PermissionError:
        pytest.skip("no device can be made or used here")
    result = call(clip, option, null, "--weights", weights)
    assert result.exit_code == 0, result.output
    assert stat.S_ISCHR(null.stat().st_mode)
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "null", "tiny.pt"}


@pytest.mark.parametrize("option", ["--html", "--json", "--csv"])
def test_the_reader_of_a_pipe_gets_all_of_it(clip: Path, weights: Path, option: str) -> None:
    pipe, link, got = (clip.with_name(name) for name in ("pipe", "link", "got"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with got.open("wb") as file, subprocess.Popen(["timeout", "60", "cat", pipe], stdout=file):
        assert call(clip, option, link, "--weights", weights).exit_code == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    text = got.read_text()
    assert "in.mp4" in text
    assert text.rstrip().endswith({"--html": "</html>", "--json": "}"}.get(option, ""))


def test_stdout_by_its_path_holds_nothing_else(clip: Path, weights: Path) -> None:
    command = [*COMMAND, str(clip), "--json", "/dev/stdout", "--weights", str(weights)]
    told = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    assert json.loads(told)["filter"]["model"] == "tiny"
    with clip.with_name("told.json").open("wb") as file:
        subprocess.run(command, stdout=file, check=True, timeout=120)
    assert json.loads(clip.with_name("told.json").read_bytes())["filter"]["model"] == "tiny"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_page_on_stdout_is_nothing_but_the_page(clip: Path, weights: Path, name: str) -> None:
    command = [*COMMAND, clip, "--html", name, "--weights", weights]
    run = subprocess.run(command, cwd=clip.parent, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    assert run.stderr == ""
    assert run.stdout.startswith("<!doctype html>")
    assert run.stdout.rstrip().endswith("</html>")
    assert {path.name for path in clip.parent.iterdir()} == {"in.mp4", "tiny.pt"}


def test_stdout_takes_one_output(clip: Path) -> None:
    result = call(clip, "--html", "-", "--csv", "/dev/stdout")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--html and --csv cannot both go to stdout" in result.stderr


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_a_video_of_the_folder_is_never_written_over(clip: Path, option: str) -> None:
    before = clip.read_bytes()
    link, hard = clip.with_name("link"), clip.with_name("hard")
    link.symlink_to(clip)
    os.link(clip, hard)
    for name in (clip, link, hard):
        said = refused(clip.parent, option, name)
        assert f"{name}: is the source itself; write to another file" in said
    assert clip.read_bytes() == before
    assert link.is_symlink()


@pytest.mark.parametrize("option", ["--html", "--json", "--csv"])
def test_what_could_not_be_written_is_said_before_the_work(clip: Path, option: str) -> None:
    assert "make it first" in refused(clip, option, clip.with_name("no") / "x")
    assert "is a folder; name a file in it" in refused(clip, option, clip.parent)


def test_two_outputs_never_share_a_file(clip: Path) -> None:
    one, link = clip.with_name("one"), clip.with_name("link")
    link.symlink_to(one)
    for pair in (("--json", one, "--html", one), ("--json", one, "--csv", link)):
        assert "would be written twice; give each output its own name" in refused(clip, *pair)
    assert not one.exists()


@pytest.mark.parametrize("beside", [(), ("broken.mp4",)], ids=["one file", "two files"])
def test_a_reader_of_stdout_that_leaves_costs_no_file(
    clip: Path, weights: Path, beside: tuple[str, ...]
) -> None:
    for name in beside:
        clip.with_name(name).write_bytes(b"no video")
    files = {option: clip.with_name(f"out.{option}") for option in ("csv", "html")}
    written = {k: file for k, file in files.items() if k == "csv" or not beside}
    reader, writer = os.pipe()
    os.close(reader)
    for stdout in ((), ("--json", "-")):
        command = [*COMMAND, clip.name, *beside, "--weights", weights, *stdout]
        command += [word for k, file in written.items() for word in (f"--{k}", file)]
        run = subprocess.run(
            command, cwd=clip.parent, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
        )
        assert run.returncode == 1
        assert "Traceback" not in run.stderr
        assert ("broken.mp4" in run.stderr) == bool(beside)
        for file in written.values():
            assert "in.mp4" in file.read_text()
            file.unlink()
    os.close(writer)
