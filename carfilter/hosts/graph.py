"""A graph of ONNX, node by node: what a network of ours needs is little, and all of it is seen."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17  # of July 2022
_IR_VERSION = 8  # of that time
_HEIGHT, _WIDTH = 2, 3  # axes of [N, C, H, W]


class Graph:
    """Nodes in the order of their making; each is called by the name of what it gives."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its result."""
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, values: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Add a tensor; return its name."""
        name = f"constant_{len(self._constants)}"
        array = np.array(values, dtype, order="C")
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def scaled(self, x: str, factor: float, added: float = 0.0) -> str:
        """Add factor x + added."""
        product = self.add("Mul", x, self.constant(factor))
        return self.add("Add", product, self.constant(added)) if added else product

    def clip(self, x: str, low: float, high: float, dtype: DTypeLike = np.float32) -> str:
        """Add bounds on both sides."""
        return self.add("Clip", x, self.constant(low, dtype), self.constant(high, dtype))

    def channels(self, x: str, start: int, stop: int) -> str:
        """Add a choice of the channels of [N, C, H, W]."""
        return self.add("Slice", x, *(self._indices(at) for at in (start, stop, 1)))

    def every(self, x: str, step: int) -> str:
        """Add a choice of each step-th sample of each step-th row, the first ones among them."""
        most = np.iinfo(np.int32).max
        choice = ((0, 0), (most, most), (_HEIGHT, _WIDTH), (step, step))
        return self.add("Slice", x, *(self._indices(*each) for each in choice))

    def cropped(self, x: str, like: str) -> str:
        """Add a cut at bottom and right to the size of another."""
        size = self.add("Shape", like, start=_HEIGHT, end=_WIDTH + 1)
        return self.add("Slice", x, self._indices(0, 0), size, self._indices(_HEIGHT, _WIDTH))

    def _indices(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def model(
        self, inputs: dict[str, list[int | str]], result: tuple[str, str], about: dict[str, str]
    ) -> onnx.ModelProto:
        """Return all of it, checked.

        Args:
            inputs: their names and shapes; sides of any length have names. All are float32.
            result: the name of one that was added, and what it is to be called; [N, 1, H, W].
            about: what the file says of itself.
        """
        made, name = result
        output = _float(name, ["batch", 1, "height", "width"])
        graph = helper.make_graph(
            [*self._nodes, helper.make_node("Identity", [made], [name], name)],
            "carfilter",
            [_float(name, shape) for name, shape in inputs.items()],
            [output],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version, model.producer_name = _IR_VERSION, "carfilter"
        helper.set_model_props(model, about)
        onnx.checker.check_model(model)
        return model


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
