"""The fuzz job: a short run with the suite, the long one with the slow tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def fuzz(*arguments: str, seconds: float) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_few_mutants_end_in_order() -> None:
    assert "24 mutants with seed 5" in fuzz("--runs", "24", "--seed", "5", seconds=300)


@pytest.mark.slow
def test_five_hundred_mutants_end_in_order() -> None:
    assert "500 mutants with seed 1" in fuzz("--runs", "500", "--seed", "1", seconds=3600)
