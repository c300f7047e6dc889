"""The benchmark compares like with like."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench import idle, network, plot, reuse, scaling, tool
from bench.footage import changed_tiles, make_clip, make_quiet, pictures
from bench.network import to_onnx
from bench.processes import run
from bench.timing import median_ms, ratio, take_times
from carfilter.restore.weights import load_weights


@pytest.mark.parametrize(("quantised", "allowed"), [(False, 1e-3), (True, 0.2)])
def test_the_network_given_to_other_runtimes_is_the_same(quantised: bool, allowed: float) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load_weights("fast")
    net, shape = model.network, (1, 5, 24, 32)
    cells = (np.random.default_rng(0).integers(-64, 64, shape) / 128).astype(np.float32)
    with torch.no_grad():
        x = head = net.head(torch.from_numpy(cells)).relu()
        for layer in net.body[:-1]:
            x = layer(x).relu()
        wanted = net.tail((net.body[-1](x) + head).relu()).numpy()
    data = to_onnx(net, shape, model.int8_ranges if quantised else []).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = np.abs(session.run(None, {"cells": cells})[0] - wanted).mean()
    assert difference < allowed * np.abs(wanted).mean()


def test_a_ratio_is_taken_within_each_round_and_its_median_counts() -> None:
    # The machine runs at half its speed in the second round, and another program in the third.
    times = {"ours": [1.0, 2.0, 1.0], "theirs": [3.0, 6.0, 9.0]}
    assert ratio(times, "theirs", "ours") == 3
    assert median_ms(times, "ours") == 1000


def test_every_job_runs_once_a_round_and_once_to_warm_up() -> None:
    ran: list[str] = []
    times = take_times({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2)
    assert "".join(ran) == "ababba"
    assert all(len(seconds) == 2 and min(seconds) >= 0 for seconds in times.values())


def test_the_memory_of_a_program_is_its_own() -> None:
    mine = np.ones(400 << 20, np.uint8)  # a child that is forked now would inherit this peak
    ran = run([sys.executable, "-S", "-c", "x = b'a' * (50 << 20)"])
    assert 50 < ran.peak_mb < mine.nbytes / 2**20 / 2
    assert ran.seconds > 0


def test_a_program_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="this failed"):
        run([sys.executable, "-S", "-c", "raise SystemExit(3)"])


def test_changed_tiles_are_counted() -> None:
    before = np.zeros((128, 192), np.uint8)
    after = before.copy()
    after[70, 130] = 1  # one of two rows of three tiles
    assert changed_tiles([before, after, after]) == pytest.approx(1 / 6 / 2)


def test_the_network_is_measured_in_each_engine_and_held_against_the_bars() -> None:
    model = load_weights("fast")
    rows = network.measure(model, "cpu", (64, 96), 1, {"gflops": 100.0})
    engines = {row["engine"]: row for row in rows if row["part"] == "network"}
    assert engines["int8"]["ours_times_faster"] == 1
    bars = [row for row in rows if row["part"] == "bar"]
    assert bars[0]["measured"] == engines["fp32"]["ours_times_faster"]
    assert bars[0]["met"] == (bars[0]["measured"] >= 4.5)


def test_the_scaling_is_measured_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = scaling.measure_network(load_weights("fast"), "cpu", 1, ((32, 48), (48, 64)))
    assert {row["against"] for row in rows} == {"resolution", "cores", "batch"}
    assert all(row["ms_per_frame"] > 0 for row in rows)
    plot.draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"


def test_a_device_is_idle_where_no_kernel_ran() -> None:
    assert idle.idle_share([(0, 4), (2, 5), (2, 3), (9, 10)]) == pytest.approx(0.4)
    assert idle.idle_share([(7, 9), (0, 7)]) == 0
    with pytest.raises(ValueError, match="no kernel"):
        idle.idle_share([])


def test_the_times_of_events_are_read_from_a_profile() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        torch.ones(64, 64) @ torch.ones(64, 64)
    assert 0 <= idle.idle_share(idle.kernels(profiled, "cpu_op")) < 1


@pytest.mark.ffmpeg
def test_quiet_footage_is_quiet(tmp_path: Path) -> None:
    # libx264 needs some frames until a still picture stays still.
    quiet = pictures(make_quiet(tmp_path, (544, 960), 40, "ffmpeg"), 40)
    assert 0 < changed_tiles([picture.luma for picture in quiet]) < 0.05


@pytest.mark.ffmpeg
def test_reuse_is_measured_on_a_clip_and_held_against_the_bars(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, (128, 192), 3, "ffmpeg")
    row, cost, equal = reuse.measure(load_weights("fast"), "cpu", [clip], 1, 3, "ffmpeg")
    assert row["changed_64_pixel_tiles"] > 0.5
    assert cost["met"] == (row["cost"] <= 0.02)
    assert equal["met"]


@pytest.mark.ffmpeg
def test_the_whole_tool_is_measured_beside_its_stages_and_ffmpeg() -> None:
    rows = tool.measure([load_weights("fast")], (64, 96), "cpu", 1, 3, "ffmpeg")
    measured = {row["what"]: row for row in rows if row["part"] == "tool"}
    assert {"carfilter --weights fast", "ffmpeg", "decode alone", "encode alone",
            "network alone, fast", "ffmpeg spp=qp=10"} <= measured.keys()  # fmt: skip
    memory = {row["what"]: row["peak_mb"] for row in rows if row["part"] == "process"}
    assert memory["ffmpeg"] < memory["carfilter --strength 0"] <= memory["carfilter --weights fast"]
    assert len([row for row in rows if row["part"] == "bar"]) == 4


@pytest.mark.ffmpeg
def test_the_whole_tool_is_measured_against_length() -> None:
    (row,) = scaling.measure_length("fast", "cpu", "ffmpeg", (9,))
    assert row["frames"] == 9
    assert row["peak_mb"] > 50
