"""Without torch int8 restores, and what does need torch says so in a sentence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from carfilter.restore.int8.rows import compiled_kind
from clips import make_clip

pytestmark = pytest.mark.skipif(compiled_kind() is None, reason="needs int8 compiled for this CPU")
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_LACKING = """
import sys
from importlib import import_module

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Lacking())
import_module(f"carfilter.commands.{sys.argv.pop(1)}").main()
"""


def run(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _LACKING, *words.split()]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_int8_restores_without_it(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mkv")
    done = run(tmp_path, "restore in.mkv out.mkv --device cpu")
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("restore in.mkv out.mkv --weights car", "car.pt: this model"),
        ("restore in.mkv out.mkv --device cpu --precision fp32", "--precision fp32"),
        ("restore in.mkv out.mkv --device cuda", "--device cuda"),
        ("restore deep.mkv out.mkv --device cpu", "footage of more than 8 bits"),
        ("inspect deep.mkv --device cpu", "footage of more than 8 bits"),
        ("batch in out --device cuda", "--device cuda"),
        ("train . out.pt", "carfilter-train"),
        ("evaluate in.mkv", "carfilter-eval"),
        ("export fast out.onnx", "carfilter-export"),
    ],
)
def test_what_needs_it_is_named_with_the_remedy(tmp_path: Path, words: str, what: str) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in.mkv", "in/in.mkv"):
        make_clip(tmp_path / name)
    make_clip(tmp_path / "deep.mkv", pix_fmt="yuv420p10le")
    done = run(tmp_path, words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = re.search(r'error: (.*) needs PyTorch, .*; pip install "(.*)"$', done.stderr, re.M)
    assert said is not None, done.stderr
    assert what in said[1]
    assert said[2] in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    assert not list(tmp_path.glob("out.*"))
