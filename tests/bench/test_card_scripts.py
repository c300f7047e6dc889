"""The two scripts for a machine with a card, rehearsed on a CPU at a toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from carfilter.pairs.packs import Twin, save_clean, save_twin
from carfilter.restore.weights import load_weights
from detectors import save_seeing_detector

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "tests" / "bench" / script), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DEVICE": "cpu", "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.ffmpeg
def test_gpu_sh_writes_a_folder_of_results(tmp_path: Path) -> None:
    parts = {"PARTS": "network convolution tool", "SIZE": "toy", "RUNS": "1"}
    ran = run("gpu.sh", tmp_path / "out", **parts, MODELS="fast best")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "out" / "summary.txt").read_text().count("exit code 0") == 3
    for name in parts["PARTS"].split():
        rows = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert {"hardware", name} <= {row["part"] for row in rows}


def test_train_sh_brings_checkpoints_back_within_its_minutes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 200, (4, 12, 16)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    degraded = clean + rng.integers(0, 9, clean.shape).astype(np.uint8)
    (tmp_path / "packs").mkdir()
    save_clean(tmp_path / "packs", "blocks", clean, {})
    qp = rng.integers(20, 50, (4, 6, 8)).astype(np.int8)
    twin = Twin("noisy", degraded, qp, np.ones(4, np.uint8), {"crf": 30})
    save_twin(tmp_path / "packs", "blocks", clean, twin)
    small = "--crop 32 --late-crop 0 --warmup 5"
    parts = "car-mse car-ssim fast best light best-light detect"
    detector = save_seeing_detector(tmp_path / "seeing.onnx")
    given = {"PARTS": parts, "BATCH": "4", "EXTRA": small, "DETECTOR": str(detector)}
    channels = {"FAST_CHANNELS": "16", "BEST_CHANNELS": "16", "LIGHT_CHANNELS": "8"}
    ran = run("train.sh", tmp_path / "packs", tmp_path / "out", 0.3, **given, **channels)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for name in given["PARTS"].split():
        assert load_weights(tmp_path / "out" / f"{name}.pt").training["steps"] > 0
    light = load_weights(tmp_path / "out" / "best-light.pt").network.config
    assert (light.channels, light.body) == (8, 7)
    assert "car-mse.pt" in (tmp_path / "out" / "SHA256SUMS").read_text()
