"""The wheel alone, in an empty folder, can do the main job."""

import os
import subprocess
import sys
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
