"""The wheel alone, in an empty folder, can do the main job."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from carfilter.restore.weights import shipped_models
from clips import read_content

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_models_the_types_and_the_licence(unpacked: Path) -> None:
    assert (unpacked / "carfilter" / "py.typed").exists()
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    inside = {path.stem for path in (unpacked / "carfilter" / "models").glob("*.pt")}
    assert inside == set(shipped_models())
    assert not list(unpacked.glob("tests*"))


def test_the_wheel_holds_the_manual_of_each_wing(unpacked: Path) -> None:
    manuals = {path.relative_to(REPOSITORY) for path in REPOSITORY.glob("carfilter/*/README.md")}
    assert manuals
    assert manuals <= {path.relative_to(unpacked) for path in unpacked.rglob("README.md")}


@pytest.mark.skipif(not shipped_models(), reason="no model is shipped")
def test_the_wheel_restores_the_sample_without_the_repository(
    unpacked: Path, tmp_path: Path
) -> None:
    sample = REPOSITORY / "samples" / "plaza.mp4"
    run = subprocess.run(
        [sys.executable, "-c", "from carfilter.commands.restore import main; main()",
         str(sample), "clean.mp4", "-t", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "done: 10 frames" in run.stderr
    assert len(read_content(tmp_path / "clean.mp4").planes) == 10


def build(kind: str, where: Path, folder: Path) -> Path:
    """Build a wheel or a source distribution of a checkout, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=where, check=True, capture_output=True)
    (made,) = folder.glob("carfilter-*")
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own, with what it depends on as it is here."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder)
    command = ["--python", str(folder), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow
def test_a_wheel_runs_int8_where_no_compiler_is(installed: Path, tmp_path: Path) -> None:
    path = str(installed / "bin")
    assert not shutil.which("cc", path=path)
    sample = str(REPOSITORY / "samples" / "plaza.mp4")
    run = subprocess.run(
        ["carfilter", sample, "clean.mp4", "-t", "1"], cwd=tmp_path,
        env={"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ", int8 on " in run.stderr
    where = "import carfilter; print(carfilter.__file__)"
    said = subprocess.run(
        ["python", "-c", where], cwd=tmp_path,
        env={"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.startswith(str(installed))


@pytest.mark.slow
def test_the_wheel_keeps_its_promise_on_glibc(wheel: Path) -> None:
    pytest.importorskip("auditwheel")
    said = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    constrained = " ".join(said.split()).split('consistent with the following platform tag: "')[1]
    assert constrained.startswith("manylinux_2_")
    assert constrained.split('"')[0] in wheel.name


@pytest.mark.slow
def test_a_source_distribution_builds_the_same(wheel: Path, tmp_path: Path) -> None:
    source = build("sdist", REPOSITORY, tmp_path / "source")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("carfilter-*")
    twin = build("wheel", unpacked, tmp_path / "again")
    assert twin.name == wheel.name

    def content(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as archive:
            # The list of what is inside comes in the order of the folder.
            return {i.filename: i.CRC for i in archive.infolist() if "RECORD" not in i.filename}

    assert content(twin) == content(wheel)


@pytest.mark.slow
def test_man_and_completion_know_the_installed_command(installed: Path) -> None:
    environment = {"PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def said(*command: str) -> str:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    if shutil.which("man"):
        page = said("man", "-P", "cat", "-M", str(installed / "share" / "man"), "carfilter")
        assert "--lookahead" in page
        said_of_it, options = page.split("DESCRIPTION\n")[1].split("\nOPTIONS\n")
        lines = [line for line in said_of_it.splitlines() if line]
        assert {len(line) - len(line.lstrip()) for line in lines} == {7}
        assert options.lstrip().startswith("-")
    script = installed / "share" / "bash-completion" / "completions" / "carfilter"

    def completed(*words: str) -> list[str]:
        given = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
        # Outside of a terminal there is no compopt, which asks the shell for names of files.
        asked = f"compopt() {{ echo $2; }}; {given}; _carfilter_completion carfilter"
        return said("bash", "-c", f"source {script}; {asked}; echo $COMPREPLY").split()

    assert completed("carfilter", "--str") == ["--strength"]
    assert completed("carfilter", "--weights", "det") == ["detect"]
    assert completed("carfilter", "pla") == ["default"]
