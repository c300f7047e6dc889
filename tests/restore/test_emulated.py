"""Motion and averages in C give on ARM64, emulated, the bytes that they give here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from carfilter.restore.int8.kinds import usable_kinds
from emulation import CPUS, SOURCES, build_hook, can_emulate, compiled

COMPILER = shutil.which(os.environ.get("CC", "cc"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CPUS)
def test_motion_and_averages_are_the_same_on_arm64(kind: str, tmp_path: Path) -> None:
    usable = [one.name for one in usable_kinds() if one.name not in CPUS]
    if COMPILER is None or not usable or not can_emulate():
        pytest.skip("this is no x86-64 with AVX2, or there is no compiler, or no emulator")
    hook, program = build_hook(), tmp_path / "here"
    flags = hook.KINDS["x86_64", "linux"][usable[0]]
    drawn = Path(__file__).parents[1] / "drawn.c"
    subprocess.run([COMPILER, *hook.FLAGS, *flags, "-I", SOURCES, drawn, "-o", program], check=True)
    here = subprocess.run([program], capture_output=True, check=True).stdout
    there = subprocess.run(compiled("drawn.c", kind, tmp_path), capture_output=True, check=True)
    assert len(here) > 5_000_000
    assert here == there.stdout
