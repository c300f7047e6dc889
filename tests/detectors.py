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


def save_seeing_detector(path: Path, classes: int = 3) -> Path:
    """Write a YOLOX-like model of any input size that sees the first class where it is bright."""
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weights(name: str, values: np.ndarray) -> str:
        tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    levels = []
    for stride in (8, 16, 32):
        mean = weights(f"mean{stride}", np.full((2, 3, stride, stride), 1 / (3 * stride**2)))
        side = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        seen = node("Relu", [node("Conv", ["images", mean], f"c{stride}", **side)], f"f{stride}")
        size = weights(f"size{stride}", np.full((4, 2, 1, 1), 1e-3))
        sure = np.zeros((1 + classes, 2, 1, 1))
        sure[:2] = 0.05  # a logit of 5 and more above 178 grey levels
        bias = weights(f"b{stride}", np.array([-13.0, -13.0, *[-20.0] * (classes - 1)]))
        boxes = node("Conv", [seen, size], f"box{stride}")
        logits = node("Conv", [seen, weights(f"sure{stride}", sure), bias], f"logit{stride}")
        scores = node("Sigmoid", [logits], f"score{stride}")
        both = node("Concat", [boxes, scores], f"both{stride}", axis=1)
        tensors.append(numpy_helper.from_array(np.array([0, 0, -1]), f"flat{stride}"))
        levels.append(node("Reshape", [both, f"flat{stride}"], f"level{stride}"))
    node("Transpose", [node("Concat", levels, "all", axis=2)], "boxes", perm=[0, 2, 1])
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    shape = [1, ANCHORS, 5 + classes]
    boxes_info = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "seeing", [picture], [boxes_info], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", repr(dict(enumerate(NAMES)))
    onnx.save(model, str(path))
    return path
