"""The recipe that feeds a detector, as it stands."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from carfilter.media.clips import Clip, write_clip
from detectors import save_seeing_detector

RECIPE = Path(__file__).parents[2] / "samples" / "detect.py"


def test_the_detector_recipe_draws_what_it_finds_before_and_after(tmp_path: Path) -> None:
    luma = np.full((5, 96, 128), 40, np.uint8)
    luma[:, 32:64, 64:96] = 230
    chroma = np.full((5, 2, 48, 64), 128, np.uint8)
    write_clip(tmp_path / "in.mp4", Clip(luma, chroma, Fraction(25)), {"crf": "35"})
    detector = save_seeing_detector(tmp_path / "seeing.onnx")
    target = tmp_path / "boxes.mp4"
    command = [sys.executable, str(RECIPE), str(tmp_path / "in.mp4"), str(detector), str(target)]
    done = subprocess.run([*command, "fast"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (int(word) for word in done.stdout.split() if word.isdigit())
    assert before >= 5
    assert after >= 5
    with av.open(target) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (96, 256, 3)
    yellow = (frames[0].astype(int) @ [1, 1, -2]) > 150
    assert yellow[:, :128].any()
    assert yellow[:, 128:].any()
