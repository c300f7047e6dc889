"""Tiny ONNX detectors that see the same boxes in every picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64  # of their square input
NAMES = ("person", "car", "tree")
ANCHORS = sum((SIDE // stride) ** 2 for stride in (8, 16, 32))


def save_detector(path: Path, output: np.ndarray, names: Sequence[str] = NAMES) -> Path:
    """Write a model that takes [1, 3, 64, 64] and returns `output` whatever it is shown."""
    result = numpy_helper.from_array(output.astype(np.float32), "value")
    node = helper.make_node("Constant", [], ["boxes"], value=result)
    graph = helper.make_graph(
        [node],
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, list(output.shape))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", repr(dict(enumerate(names)))
    onnx.save(model, str(path))
    return path


def yolox_output(cells: dict[int, Sequence[float]]) -> np.ndarray:
    """Return [1, A, 5 + C], zeros but for these: x, y, log w, log h, objectness, classes."""
    out = np.zeros((1, ANCHORS, 5 + len(NAMES)), np.float32)
    for anchor, values in cells.items():
        out[0, anchor] = values
    return out
