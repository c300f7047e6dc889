"""Which command for which job: each line of the manual runs as it stands."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clips import make_clip

REPOSITORY = Path(__file__).parents[2]
_MANUAL = (REPOSITORY / "carfilter" / "run" / "README.md").read_text()
_PAGE = _MANUAL.split("## Which command for which job")[1].split("```")[1]
_CALL = "if __name__ == '__main__':\n    "  # for processes that it starts
LINES = [line.split("  #")[0].strip() for line in _PAGE.splitlines()[1:] if line]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with footage, and the commands as an installation has them."""
    folder = tmp_path_factory.mktemp("desk")
    make_clip(folder / "camera.mp4", audio="aac")
    make_clip(folder / "camera.ts", audio="aac")
    (folder / "footage").mkdir()
    make_clip(folder / "footage" / "night.mp4")
    about = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (folder / "bin").mkdir()
    for name, target in about["scripts"].items():
        module, function = target.split(":")
        script = folder / "bin" / name
        script.write_text(
            f"#!{sys.executable}\nfrom {module} import {function}\n{_CALL}{function}()\n"
        )
        script.chmod(0o755)
    return folder


@pytest.mark.parametrize("line", LINES)
def test_a_line_does_its_job(line: str, desk: Path) -> None:
    before = set(desk.iterdir())
    path = f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(
        ["sh", "-c", line], cwd=desk, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    made = set(desk.iterdir()) - before
    assert made
    assert all(re.search(rf"\b{path.name.split('.')[0]}", line) for path in made)
