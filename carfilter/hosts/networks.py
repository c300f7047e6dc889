"""The networks as graphs of ONNX, in floating point, or in the int8 of carfilter.restore.int8.

What is added to a graph is called by its name there. Luma is float32 as a network sees it, and so
is the correction that comes out: in units of 128 grey levels, see carfilter.restore.network.
"""

from typing import Protocol

import numpy as np
from onnx import TensorProto
from torch import Tensor, nn

from carfilter.hosts.graph import Graph
from carfilter.restore.int8.convolutions import Convolution, Int8Fast
from carfilter.restore.network import MAX_QP, QP_UNKNOWN, Best, Car, Fast

_CODES = 128  # of int8's first layer, from 0 to 1


class Layers(Protocol):
    """The convolutions of `fast` and its like, from the channels of the first one on.

    Attributes:
        qp_codes: from 0 to 1, which a QP is rounded to; 0 where it is not.
    """

    qp_codes: int

    def add(self, first: str) -> str:
        """Add them: first channels, as choose_channels() says, in; the tail's, float32, out."""
        ...


class _Floats:
    """Convolutions in single or half precision."""

    def __init__(self, graph: Graph, *, half: bool) -> None:
        self._graph, self._half = graph, half
        self.dtype = np.float16 if half else np.float32

    def enter(self, x: str) -> str:
        return self._graph.add("Cast", x, to=TensorProto.FLOAT16) if self._half else x

    def leave(self, x: str) -> str:
        return self._graph.add("Cast", x, to=TensorProto.FLOAT) if self._half else x

    def convolve(self, x: str, layer: nn.Conv2d, channels: list[int] | None = None) -> str:
        weight = layer.weight if channels is None else layer.weight[:, channels]
        parts = [weight] if layer.bias is None else [weight, layer.bias]
        constants = (self._graph.constant(part.detach().numpy(), self.dtype) for part in parts)
        return self._graph.add("Conv", x, *constants, pads=[1, 1, 1, 1])


def add_car(graph: Graph, network: Car, luma: str, *, half: bool) -> str:
    """Add the paper's network to luma [N, 1, H, W]; return its correction, of that shape."""
    floats = _Floats(graph, half=half)

    def activate(x: str, layer: nn.Conv2d) -> str:
        return graph.add("LeakyRelu", floats.convolve(x, layer), alpha=network.slope)

    x = head = activate(floats.enter(luma), network.head)
    for block in network.blocks:
        x = graph.add("Add", x, activate(activate(x, block.first), block.second))  # type: ignore[arg-type]
    x = activate(graph.add("Add", activate(x, network.close), head), network.last)
    return floats.leave(graph.add("Tanh", floats.convolve(x, network.tail)))


def add_fast(
    graph: Graph, network: Fast, luma: str, maps: int, qp: int | str, layers: Layers
) -> str:
    """Add a network of `fast`'s kind; return its correction, [N, 1, H, W].

    Args:
        luma: [N, maps, H, W]: the frame, and its references where `maps` is not 1.
        qp: of all, 0 to 51; or the name of a float32 input, which broadcasts to that shape.
    """
    factor = network.config.factor
    seen = luma if maps == 1 else _differences(graph, network, luma, maps)
    cells = _cells(graph, seen, maps, factor)
    if isinstance(qp, str):
        plane = graph.every(_qp_plane(graph, qp, luma, layers.qp_codes), factor)
        gate = _gate(graph, network, graph.channels(plane, 0, 1))
    else:
        value = qp / MAX_QP
        if layers.qp_codes:
            value = min(round(value * layers.qp_codes), layers.qp_codes - 1) / layers.qp_codes
        plane = graph.scaled(graph.channels(cells, 0, maps), 0.0, value)  # of the cells' size
        gate = graph.constant(float(network.gate(Tensor([value]))))
    missing = 1 + network.references - maps  # of the references' QPs, which are the frame's then
    first = graph.add("Concat", cells, *[plane] * (1 + missing), axis=1)
    change = graph.add("Mul", layers.add(first), gate)
    wide = graph.add("DepthToSpace", change, blocksize=factor, mode="CRD")
    return graph.cropped(wide, luma)


def choose_channels(network: Fast, maps: int) -> tuple[list[int], list[int]]:
    """Return which channels of the first layer are there, in the order of add_fast().

    That is the frame's cells, those of the references if there are any, all QPs. Without references
    there is no difference to them: those cells are zero. Once as the network counts, once as its
    int8 twin does.
    """
    own, others = network.config.factor**2, network.references
    cells, qps = own * others, list(range(own * (1 + others), (own + 1) * (1 + others)))
    there = range(cells if maps > 1 else 0)
    float_order = [*range(own), *(own + 1 + i for i in there), own, *qps[1:]]
    return float_order, [*range(own), *(own + i for i in there), *qps]


class FloatLayers:
    """Those of a network in single or half precision."""

    qp_codes = 0

    def __init__(self, graph: Graph, network: Fast, maps: int, *, half: bool) -> None:
        self._graph, self._network = graph, network
        self._floats = _Floats(graph, half=half)
        self._channels, _ = choose_channels(network, maps)

    def add(self, first: str) -> str:
        """See Layers."""
        network, convolve = self._network, self._floats.convolve
        head = self._bounded(convolve(self._floats.enter(first), network.head, self._channels))
        x, (*body, last) = head, network.body
        for layer in body:
            x = self._bounded(convolve(x, layer))  # type: ignore[arg-type]
        total = self._graph.add("Add", convolve(x, last), head)  # type: ignore[arg-type]
        return self._floats.leave(convolve(self._bounded(total), network.tail))

    def _bounded(self, x: str) -> str:
        return self._graph.clip(x, 0, self._network.config.ceiling, self._floats.dtype)


class Int8Layers:
    """Those of an int8 twin: its weights and scales, between QuantizeLinear and DequantizeLinear.

    Sums are exact, as the twin's are, where a runtime multiplies bytes without saturating.
    """

    qp_codes = _CODES

    def __init__(self, graph: Graph, network: Fast, twin: Int8Fast, maps: int) -> None:
        self._graph, self._twin = graph, twin
        _, self._channels = choose_channels(network, maps)

    def add(self, first: str) -> str:
        """See Layers."""
        twin = self._twin
        x = self._codes(first, twin.head.scale, twin.head.zero)
        head = self._layer(x, twin.head, self._channels)
        x, (*body, last) = head, twin.body
        for layer in body:
            x = self._layer(x, layer)
        total = self._graph.add("Add", self._convolve(x, last), head)
        assert last.out_scale is not None
        return self._convolve(self._codes(total, last.out_scale), twin.tail)

    def _layer(self, x: str, layer: Convolution, channels: list[int] | None = None) -> str:
        assert layer.out_scale is not None
        return self._codes(self._convolve(x, layer, channels), layer.out_scale)

    def _convolve(self, x: str, layer: Convolution, channels: list[int] | None = None) -> str:
        weight = layer.weight if channels is None else layer.weight[:, channels]
        kernel = self._values(weight, layer.weight_scale, np.int8)
        sums = (layer.bias.double() / layer.sum_scale.double()).round()
        bias = self._values(sums, layer.sum_scale, np.int32)
        return self._graph.add("Conv", x, kernel, bias, pads=[1, 1, 1, 1])

    def _codes(self, x: str, scale: float, zero: int = 0) -> str:
        """Round to uint8, which is the ReLU as well, and back."""
        step = self._graph.constant(scale), self._graph.constant(zero, np.uint8)
        return self._graph.add(
            "DequantizeLinear", self._graph.add("QuantizeLinear", x, *step), *step
        )

    def _values(self, codes: Tensor, scale: Tensor, dtype: type) -> str:
        """Add constants that have a scale for each output."""
        parts = (codes.numpy(), dtype), (scale.numpy(), np.float32), (np.zeros(len(scale)), dtype)
        constants = [self._graph.constant(values, kind) for values, kind in parts]
        return self._graph.add("DequantizeLinear", *constants, axis=0)


def _differences(graph: Graph, network: Fast, luma: str, maps: int) -> str:
    """Replace references by what the first layer sees of them."""
    assert isinstance(network, Best)
    frame = graph.channels(luma, 0, 1)
    apart = graph.add("Sub", graph.channels(luma, 1, maps), frame)
    contrasted = graph.clip(graph.scaled(apart, network.config.contrast), -1, 1)
    return graph.add("Concat", frame, contrasted, axis=1)


def _cells(graph: Graph, planes: str, maps: int, factor: int) -> str:
    """Bring [N, maps, H, W] to the samples of cells, [N, maps x factor^2, h, w].

    By a convolution, which leaves out what is no whole cell: so one row and column more than there
    are, whether they are needed or not, keep odd sizes from needing another graph.
    """
    more = graph.constant([0] * 6 + [factor - 1] * 2, np.int64)
    padded = graph.add("Pad", planes, more, mode="edge")
    pick = np.eye(factor**2).reshape(-1, 1, factor, factor)
    weight = graph.constant(np.tile(pick, (maps, 1, 1, 1)))
    return graph.add("Conv", padded, weight, group=maps, strides=[factor, factor])


def _qp_plane(graph: Graph, qp: str, luma: str, codes: int) -> str:
    """Bring QPs to luma's shape, as a network sees them."""
    wide = graph.add("Expand", qp, graph.add("Shape", luma))
    value = graph.scaled(wide, 1 / MAX_QP)
    if codes:
        rounded = graph.scaled(graph.add("Round", graph.scaled(wide, codes / MAX_QP)), 1 / codes)
        value = graph.clip(rounded, 0, (codes - 1) / codes)
    return graph.add("Where", _below_zero(graph, wide), graph.constant(QP_UNKNOWN), value)


def _gate(graph: Graph, network: Fast, plane: str) -> str:
    """See Fast.gate()."""
    quiet, full = (qp / MAX_QP for qp in (network.config.quiet_qp, network.config.full_qp))
    rising = graph.scaled(plane, 1 / (full - quiet), -quiet / (full - quiet))
    share = graph.clip(rising, 0, 1)
    return graph.add("Where", _below_zero(graph, plane), graph.constant(1), share)


def _below_zero(graph: Graph, x: str) -> str:
    return graph.add("Less", x, graph.constant(0))
