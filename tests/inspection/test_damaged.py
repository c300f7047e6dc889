"""Whatever is done to a file, looking at it ends in order."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from carfilter.inspection.inspect import InspectOptions, look_at
from clips import make_clip
from fuzz.job import make_case
from fuzz.seeds import make_seeds


def test_a_wild_time_does_not_stretch_the_clip(tmp_path: Path) -> None:
    look = look_at(make_clip(tmp_path / "a.mp4", frames=20), InspectOptions(tries=False))
    length = look.packets.seconds
    look.packets.pts[9] -= 11883.0  # as a damaged packet of MPEG-TS came through
    assert np.allclose(look.packets.seconds, length, atol=0.5)


def test_a_time_lapse_keeps_the_times_of_its_b_frames(tmp_path: Path) -> None:
    apart = Fraction(20)  # seconds from picture to picture
    clip = make_clip(
        tmp_path / "a.mp4", frames=20, rate=1 / apart, time_base=apart, options={"bf": "3"}
    )
    look = look_at(clip, InspectOptions(tries=False))
    assert np.array_equal(np.sort(look.packets.seconds), np.arange(20) * 20.0)


@pytest.mark.slow
def test_sixty_mutants_are_looked_at_in_order(tmp_path: Path) -> None:
    (seeds := tmp_path / "seeds").mkdir()
    make_seeds(seeds)
    cases = (make_case(seeds, 1, number) for number in range(100))
    videos = [case for case in cases if not case.seed.startswith("tiny")][:60]
    assert len(videos) == 60
    codes = []
    for number, case in enumerate(videos):
        (folder := tmp_path / f"run{number}").mkdir()
        mutant, page = folder / f"mutant{Path(case.seed).suffix}", folder / "page.html"
        mutant.write_bytes(case.content)
        given = [mutant, "--html", page, "--weights", seeds / "tiny.pt"]
        run = subprocess.run(
            [sys.executable, "-m", "carfilter.commands.inspect", *map(str, given)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        about = f"mutant {number} of {case.seed}: {run.stderr[-2000:]}"
        assert run.returncode in (0, 1), about
        assert "Traceback" not in run.stderr, about
        assert (run.returncode == 1) == ("carfilter: error: " in run.stderr), about
        assert page.exists() == (run.returncode == 0), about
        assert {path.name for path in folder.iterdir()} <= {mutant.name, page.name}, about
        codes.append(run.returncode)
    assert {*codes} == {0, 1}
