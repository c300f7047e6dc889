"""Exported models, run by ONNX Runtime: they restore as carfilter does."""

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from carfilter.commands.export import main
from carfilter.hosts.export import LEVELS, ExportOptions, export
from carfilter.media.clips import read_clip
from carfilter.metrics import psnr
from carfilter.pictures import Picture, uniform_qp
from carfilter.restore.int8.convolutions import Int8Fast
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.slots import Inputs
from carfilter.restore.weights import load_weights
from clips import tiny_weights

QP = 38
PLAZA = Path(__file__).parents[2] / "samples" / "plaza.mp4"


def run(path: Path, luma: np.ndarray, levels: str = "unit", qp: int | None = None) -> np.ndarray:
    """Restore uint8 [H, W], or [planes, H, W] of a frame and its references."""
    options = onnxruntime.SessionOptions()
    # Where a CPU has no VNNI, products of bytes would saturate.
    # https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = 1
    black, span = LEVELS[levels]
    planes = luma.reshape(1, -1, *luma.shape[-2:]).astype(np.float32)
    given = {"luma": (planes - black) / np.float32(span)}
    if qp is not None:
        given["qp"] = np.full((1, 1, 1, 1), qp, np.float32)
    (restored,) = onnxruntime.InferenceSession(path, options).run(None, given)
    return (restored[0, 0] * span + black).round().clip(0, 255)


def footage(height: int, width: int) -> np.ndarray:
    """A smooth picture with blocks and noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    smooth = 120 + 60 * np.sin(y / 17) + 45 * np.cos(x / 23)
    blocks = rng.normal(0, 5, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
    noise = rng.normal(0, 3, (height, width))
    return (smooth + blocks[:height, :width] + noise).clip(0, 255).astype(np.uint8)


def by_carfilter(name: str, luma: np.ndarray, precision: str) -> np.ndarray:
    model = load_weights(name)
    options = RestoreOptions("cpu", precision)
    restorer = Restorer(model.network, options, luma.shape, model.int8_ranges)
    picture = Picture(luma, qp=uniform_qp(luma.shape, QP))
    return next(restorer.restore([picture])).astype(float)


@pytest.mark.parametrize("name", ["fast", "best", "car-mse"])
def test_a_file_restores_as_carfilter_does_at_any_size(tmp_path: Path, name: str) -> None:
    model = load_weights(name)
    qp = QP if model.network.uses_qp else ExportOptions.qp
    export(model, tmp_path / "x.onnx", ExportOptions(qp=qp))
    sizes = [(48, 64)] if name == "car-mse" else [(96, 144), (51, 77)]
    for size in sizes:
        luma = footage(*size)
        wanted = by_carfilter(name, luma, "fp32")
        assert np.abs(wanted - luma).mean() > 0.2
        assert np.abs(run(tmp_path / "x.onnx", luma) - wanted).max() <= 1


@pytest.mark.parametrize("levels", ["limited", "codes"])
def test_a_host_may_give_other_numbers_and_the_qp(tmp_path: Path, levels: str) -> None:
    luma = footage(96, 144)
    export(load_weights("fast"), tmp_path / "x.onnx", ExportOptions(levels=levels, qp=None))
    assert (
        np.abs(
            run(tmp_path / "x.onnx", luma, levels, QP) - by_carfilter("fast", luma, "fp32")
        ).max()
        <= 1
    )
    assert np.array_equal(run(tmp_path / "x.onnx", luma, levels, 12), luma)  # too good to touch


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lesser_precision_costs_no_quality(tmp_path: Path, precision: str) -> None:
    degraded = footage(96, 144)
    y, x = np.mgrid[:96, :144]
    clean = (120 + 60 * np.sin(y / 17) + 45 * np.cos(x / 23)).clip(0, 255)
    export(load_weights("fast"), tmp_path / "x.onnx", ExportOptions(precision, qp=QP))
    ours = by_carfilter("fast", degraded, "int8" if precision == "int8" else "fp32")
    theirs = run(tmp_path / "x.onnx", degraded)
    assert np.abs(ours - theirs).max() <= 2
    assert abs(psnr(clean, ours) - psnr(clean, theirs)) <= 0.02
    assert psnr(clean, theirs) > psnr(clean, degraded) + 0.5


@pytest.mark.parametrize(
    ("name", "precision"), [("fast", "fp32"), ("fast", "int8"), ("car-mse", "fp32")]
)
def test_the_sample_comes_out_alike(tmp_path: Path, name: str, precision: str) -> None:
    luma = np.ascontiguousarray(read_clip(PLAZA, 20).luma[-1][96:192, 96:240])
    qp = QP if name == "fast" else ExportOptions.qp
    export(load_weights(name), tmp_path / "x.onnx", ExportOptions(precision, qp=qp))
    ours, theirs = by_carfilter(name, luma, precision), run(tmp_path / "x.onnx", luma)
    if precision == "fp32":
        assert np.abs(ours - theirs).max() <= 1
    # Nothing clean is known of the sample: as far from the decoded picture is as much corrected.
    assert abs(psnr(luma, ours) - psnr(luma, theirs)) <= 0.02
    assert psnr(ours, theirs) > psnr(luma, ours) + 10


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_references_come_as_further_planes(tmp_path: Path, precision: str) -> None:
    model = load_weights("best")
    count = model.network.references
    rng = np.random.default_rng(1)
    planes = (footage(64, 96) + rng.normal(0, 4, (1 + count, 64, 96))).clip(0, 255)
    planes = planes.astype(np.uint8)
    frame, others = torch.from_numpy(planes[:1]), torch.from_numpy(planes[None, 1:])
    if precision == "int8":
        assert model.int8 is not None
        maps = torch.full((1, 1 + count, 4, 6), QP, dtype=torch.int8)
        twin = Int8Fast(model.int8)
        wanted = twin.restored(Inputs(frame, maps[:, 0], others, maps[:, 1:]), 128.0)[0].numpy()
    else:
        scaled = [(each.reshape(1, -1, 64, 96).float() - 128) / 128 for each in (frame, others)]
        qps = [torch.full_like(each, QP / 51) for each in scaled]
        with torch.inference_mode():
            correction = model.network(scaled[0], qps[0], scaled[1], qps[1])
        wanted = (planes[0] + correction[0, 0].numpy() * 128).round().clip(0, 255)
    export(model, tmp_path / "x.onnx", ExportOptions(precision, qp=None, references=True))
    alone = np.repeat(planes[:1], 1 + count, 0)
    restored = run(tmp_path / "x.onnx", planes, qp=QP)
    assert np.abs(restored - wanted).max() <= (2 if precision == "int8" else 1)
    assert np.abs(restored - run(tmp_path / "x.onnx", alone, qp=QP)).mean() > 0.2


def test_the_command_says_what_cannot_be(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code != 0
        return result.output

    target = str(tmp_path / "x.onnx")
    assert "without --references" in said("fast", target, "--references")
    assert "without --qp" in said("car-mse", target, "--qp", "38")
    assert "--precision fp16" in said("car-mse", target, "--precision", "int8")
    for qp in ("60", "²"):
        assert f"{qp!r} is neither 'input' nor" in said("fast", target, "--qp", qp)
    assert CliRunner().invoke(main, ["fast", target]).exit_code == 0
    assert "-y" in said("fast", target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_a_model_is_never_replaced_by_its_export(tmp_path: Path) -> None:
    tiny_weights(tmp_path / "mine.pt")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "mine.pt")
    before = (tmp_path / "mine.pt").read_bytes()
    for name in ("mine.pt", "link.onnx"):
        result = CliRunner().invoke(main, [str(tmp_path / "mine.pt"), str(tmp_path / name), "-y"])
        assert result.exit_code == 1
        assert "is the source itself" in result.output
    assert (tmp_path / "mine.pt").read_bytes() == before


def test_a_pipe_takes_the_model_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, got, plain = (tmp_path / name for name in ("pipe.onnx", "got.onnx", "plain.onnx"))
    os.mkfifo(pipe)
    with got.open("wb") as file, subprocess.Popen(["timeout", "60", "cat", pipe], stdout=file):
        result = CliRunner().invoke(main, ["fast", str(pipe)])
    assert result.exit_code == 0, result.output
    assert "(0.00 MB)" not in result.output
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert CliRunner().invoke(main, ["fast", str(plain)]).exit_code == 0
    assert got.read_bytes() == plain.read_bytes()
