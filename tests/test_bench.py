"""The benchmark compares like with like."""

import numpy as np
import pytest
import torch
from bench.network import median_ms, to_onnx

from carfilter.weights import load_weights


@pytest.mark.parametrize(("quantised", "allowed"), [(False, 1e-3), (True, 0.2)])
def test_the_network_given_to_other_runtimes_is_the_same(quantised: bool, allowed: float) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load_weights("fast")
    network, shape = model.network, (1, 5, 24, 32)
    cells = (np.random.default_rng(0).integers(-64, 64, shape) / 128).astype(np.float32)
    with torch.no_grad():
        x = head = network.head(torch.from_numpy(cells)).relu()
        for layer in network.body[:-1]:
            x = layer(x).relu()
        wanted = network.tail((network.body[-1](x) + head).relu()).numpy()
    data = to_onnx(network, shape, model.int8_ranges if quantised else []).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = np.abs(session.run(None, {"cells": cells})[0] - wanted).mean()
    assert difference < allowed * np.abs(wanted).mean()


def test_times_are_medians_in_milliseconds() -> None:
    assert 0 <= median_ms({"nothing": lambda: None}, 5)["nothing"] < 50
