"""The network alone: time a frame, share of the machine's peak, and the same network elsewhere."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from carfilter.pictures import Luma, Picture, uniform_qp
from carfilter.restore.int8.convolutions import torch_is_exact
from carfilter.restore.int8.engine import RowsEngine
from carfilter.restore.network import Fast, mac_per_pixel
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.torch_engine import TorchEngine
from carfilter.restore.weights import Model

from .rows import Row, bar, size_name
from .timing import median_ms, ratio, take_times


def peaks(device: torch.device) -> Row:
    """Measure what this device gives at best: a matrix product, and a copy in memory."""
    side = 8192 if device.type == "cuda" else 2048
    kind = torch.float16 if device.type == "cuda" else torch.float32
    a, b = torch.rand(2, side, side, device=device).to(kind)
    source = torch.empty(1 << 26, device=device)
    target = torch.empty_like(source)

    def wait(job: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            job()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    jobs = {"mm": wait(lambda: a @ b), "copy": wait(lambda: target.copy_(source))}
    times = take_times(jobs, 7)
    gflops = 2 * side**3 / median_ms(times, "mm") / 1e6
    copied = 2 * source.numel() * 4 / median_ms(times, "copy") / 1e6
    return {"part": "peak", "matrix_product": str(kind), "gflops": gflops, "copy_gb_s": copied}


def measure(model: Model, device: str, size: tuple[int, int], runs: int, peak: Row) -> list[Row]:
    """Time the network alone in each precision there is, and in other runtimes."""
    jobs = _engines(model, device, size)
    times = take_times(jobs, runs)
    flop = 2 * mac_per_pixel(model.network) * size[0] * size[1]
    rows: list[Row] = []
    ours = next(iter(jobs))
    for name in jobs:
        ms = median_ms(times, name) / _frames(device)
        rows.append({
            "part": "network", "model": model.name, "size": size_name(size), "engine": name,
            "ms_per_frame": ms, "gflops": flop / ms / 1e6,
            "of_fp32_peak": flop / ms / 1e6 / peak["gflops"],
            "ours_times_faster": ratio(times, name, ours),
        })  # fmt: skip
    for other, wanted in _BARS.items() if ours == "int8" else ():
        if other in jobs:
            what = f"{model.name}, {size_name(size)}: network in int8, times faster than {other}"
            rows.append(bar(what, ratio(times, other, ours), wanted))
    return rows


_BARS = {
    "fp32": 4.5,
    "openvino int8, latency": 1.2,
    "openvino int8, throughput": 1.2,
    "onnxruntime fp32": 2.0,
}


def _frames(device: str) -> int:
    return 8 if device == "cpu" else 64


def _engines(model: Model, device: str, size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return jobs of _frames() frames each, ours first."""
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, size, dtype=np.uint8)
    count = _frames(device)
    jobs: dict[str, Callable[[], object]] = {}
    on_cpu = ("int8", "fp32") if model.int8_ranges else ("fp32",)
    on_cuda = ("fp16 compiled", "fp16", "bf16", "fp32")
    for engine in on_cpu if device == "cpu" else on_cuda:
        precision, _, compiled = engine.partition(" ")
        compile_after = 0.0 if compiled else float("inf")
        options = RestoreOptions(device, precision, reuse=False, compile_after=compile_after)
        restorer = Restorer(model, options, size)
        qp = uniform_qp(luma.shape, 33)
        # Each another one: nobody restores the same picture all the time.
        given = [Picture(np.roll(luma, i, 1), qp=qp, frame_type=1 + (i > 0)) for i in range(count)]
        jobs[engine] = lambda restorer=restorer, given=given: list(restorer.restore(given))
        if isinstance(restorer.engine, RowsEngine) and torch_is_exact():
            by_torch = TorchEngine(model, options, size)
            jobs["int8 by torch"] = lambda e=by_torch, given=given: _restored(e, given)
    if isinstance(model.network, Fast):
        jobs |= _peers(model, size, count) if device == "cpu" else _card_peers(model, size, count)
    return jobs


_CARD_PEERS: dict[str, tuple[str, dict[str, object]]] = {
    "onnxruntime CUDA, fp32": ("CUDAExecutionProvider", {}),
    "onnxruntime TensorRT, fp16": ("TensorrtExecutionProvider", {"trt_fp16_enable": True}),
}


def _card_peers(model: Model, size: tuple[int, int], count: int) -> dict[str, Callable[[], object]]:
    """The same convolutions on a card in ONNX Runtime's hands, as far as it is installed for one.

    Its inputs and outputs cross the bus in float, ours with the rest of the work as bytes.
    """
    try:
        import onnxruntime
    except ImportError:
        return {}
    jobs: dict[str, Callable[[], object]] = {}
    shape = (1, model.network.config.inputs, -(-size[0] // 2), -(-size[1] // 2))
    cells = np.random.default_rng(0).random(shape, dtype=np.float32) * 2 - 1
    data = to_onnx(model.network, shape, []).SerializeToString()
    for name, provider in _CARD_PEERS.items():
        if provider[0] in onnxruntime.get_available_providers():
            session = onnxruntime.InferenceSession(data, providers=[provider])
            jobs[name] = lambda s=session: [s.run(None, {"cells": cells}) for _ in range(count)]
    return jobs


def _restored(engine: TorchEngine, given: list[Picture]) -> list[Luma]:
    with engine.working():
        return list(engine.restore(given))


def _peers(model: Model, size: tuple[int, int], count: int) -> dict[str, Callable[[], object]]:
    """The same convolutions of `count` frames in other runtimes, where they are installed."""
    jobs: dict[str, Callable[[], object]] = {}
    shape = (1, model.network.config.inputs, -(-size[0] // 2), -(-size[1] // 2))
    cells = np.random.default_rng(0).random(shape, dtype=np.float32) * 2 - 1
    ranges = model.int8_ranges or []
    try:
        import onnxruntime

        for kind, given in (("fp32", []), ("int8", ranges)):
            data = to_onnx(model.network, shape, given).SerializeToString()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
            jobs[f"onnxruntime {kind}"] = lambda s=session: [
                s.run(None, {"cells": cells}) for _ in range(count)
            ]
    except ImportError:
        pass
    try:
        import openvino

        for kind, given in (("fp32", []), ("int8", ranges)):
            data = to_onnx(model.network, shape, given).SerializeToString()
            core = openvino.Core()
            network = core.read_model(io.BytesIO(data))
            for hint in ("latency", "throughput"):
                # Left alone, it computes in bf16 where the CPU has it.
                hints = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": "f32"}
                hints["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
                compiled = core.compile_model(network, "CPU", hints)
                queue = openvino.AsyncInferQueue(compiled)  # frames side by side, as with ours
                jobs[f"openvino {kind}, {hint}"] = lambda q=queue: _infer(q, cells, count)
    except ImportError:
        pass
    return jobs


def _infer(queue: Any, cells: Any, count: int) -> None:
    for _ in range(count):
        queue.start_async({0: cells})
    queue.wait_all()


def to_onnx(network: Fast, shape: tuple[int, ...], ranges: list[float]) -> Any:
    """Return the convolutions of `fast` as ONNX, quantised as ours where ranges are given."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    values: list[Any] = []

    def constant(name: str, value: Any) -> str:
        values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantised(x: str, scale: float, zero: int) -> str:
        given = [
            constant(f"{x}_s", np.float32(scale)),
            constant(f"{x}_z", np.uint8(zero)),
        ]
        nodes.append(helper.make_node("QuantizeLinear", [x, *given], [f"{x}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", *given], [f"{x}_d"]))
        return f"{x}_d"

    def convolution(x: str, layer: Any, name: str) -> str:
        weight = layer.weight.detach().numpy()
        kernel = f"{name}_w"
        if ranges:
            scale = np.abs(weight).max((1, 2, 3)) / 127
            rounded = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
            given = [constant(f"{name}_q", rounded), constant(f"{name}_s", scale)]
            given.append(constant(f"{name}_z", np.zeros(len(scale), np.int8)))
            nodes.append(helper.make_node("DequantizeLinear", given, [kernel], axis=0))
        else:
            constant(kernel, weight)
        bias = constant(f"{name}_b", layer.bias.detach().numpy())
        nodes.append(helper.make_node("Conv", [x, kernel, bias], [name], pads=[1, 1, 1, 1]))
        return name

    def relu(x: str, index: int) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}_r"]))
        return quantised(f"{x}_r", ranges[index] / 255, 0) if ranges else f"{x}_r"

    x = quantised("cells", 1 / 128, 128) if ranges else "cells"
    x = head = relu(convolution(x, network.head, "head"), 0)
    for i, layer in enumerate(network.body):
        x = convolution(x, layer, f"body{i}")
        if i == len(network.body) - 1:
            nodes.append(helper.make_node("Add", [x, head], ["sum"]))
            x = "sum"
        x = relu(x, i + 1)
    convolution(x, network.tail, "tail")
    own = helper.make_tensor_value_info("cells", TensorProto.FLOAT, shape)
    out = (1, network.config.factor**2, *shape[2:])
    result = helper.make_tensor_value_info("tail", TensorProto.FLOAT, out)
    graph = helper.make_graph(nodes, "fast", [own], [result], values)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
