"""A model as a file of ONNX: luma in, restored luma out, in the numbers of what runs it.

The graph is written out node by node and not traced by torch: so int8 is our own, product by
product, the correction is added inside, and sizes stay free.
"""

from dataclasses import dataclass
from pathlib import Path

from carfilter import __version__
from carfilter.errors import WeightsError
from carfilter.hosts.graph import Graph
from carfilter.hosts.networks import FloatLayers, Int8Layers, Layers, add_car, add_fast
from carfilter.pictures import ASSUMED_QP
from carfilter.restore.int8.convolutions import Int8Fast
from carfilter.restore.network import Car
from carfilter.restore.weights import Model
from carfilter.unfinished import written_whole

# The code of 8 bits that a host gives as 0, and how many codes lie between its 0 and its 1.
LEVELS = {"unit": (0.0, 255.0), "limited": (16.0, 219.0), "codes": (0.0, 1.0)}
_CENTRE = 128  # the network sees (code - 128) / 128
_WHITE = 255


@dataclass(frozen=True)
class ExportOptions:
    """What the file is to be.

    Attributes:
        precision: of the network: fp32, fp16, int8; what goes in and comes out is float32 always.
        levels: what luma the host gives, one of LEVELS: "unit" is 0 to 1 for codes 0 to 255
            (FFmpeg), "limited" 0 to 1 for codes 16 to 235 (VapourSynth), "codes" 0 to 255.
        qp: how coarsely the video was coded; None makes it an input.
        references: take the planes of a multi-frame network's other frames as well.
    """

    precision: str = "fp32"
    levels: str = "unit"
    qp: int | None = ASSUMED_QP
    references: bool = False


def export(model: Model, target: Path, options: ExportOptions) -> int:
    """Write a model to a file.

    Its input "luma" is float32 [N, 1, H, W]; with references [N, 1 + R, H, W]: the frame, and what
    carfilter.restore.references gives for it, in that order. A reference that is missing is the
    frame itself. The input "qp", where there is one, is float32 of that shape, or of one that
    broadcasts to it, as [1, 1, 1, 1] does: 0 to 51, or below zero for unknown. The output
    "restored" is float32 [N, 1, H, W], within the codes of 8 bits, not rounded.

    Returns:
        How many bytes it has.

    Raises:
        WeightsError: the model has not what the options ask for.
    """
    _check(model, options)
    network, graph = model.network, Graph()
    maps = 1 + network.references if options.references else 1
    black, span = LEVELS[options.levels]
    inputs: dict[str, list[int | str]] = {"luma": ["batch", maps, "height", "width"]}
    seen = graph.scaled("luma", span / _CENTRE, black / _CENTRE - 1)
    if isinstance(network, Car):
        correction = add_car(graph, network, seen, half=options.precision == "fp16")
    else:
        if options.qp is None:
            inputs["qp"] = ["qp_batch", "qp_planes", "qp_height", "qp_width"]
        qp = "qp" if options.qp is None else options.qp
        layers = _layers(graph, model, maps, options.precision)
        correction = add_fast(graph, network, seen, maps, qp, layers)
    frame = graph.channels("luma", 0, 1) if maps > 1 else "luma"
    total = graph.add("Add", frame, graph.scaled(correction, _CENTRE / span))
    restored = graph.clip(total, -black / span, (_WHITE - black) / span)
    made = graph.model(inputs, (restored, "restored"), _about(model, options))
    with written_whole(target) as part:
        return part.write_bytes(made.SerializeToString())


def _check(model: Model, options: ExportOptions) -> None:
    network, name = model.network, model.name
    if options.references and not network.references:
        raise WeightsError(f"{name} sees one frame at a time; export it without --references")
    if options.qp != ExportOptions.qp and not network.uses_qp:
        raise WeightsError(f"{name} knows no QP; export it without --qp")
    if options.precision == "int8" and model.int8 is None:
        raise WeightsError(f"{name} was not calibrated for int8; export it with --precision fp16")


def _layers(graph: Graph, model: Model, maps: int, precision: str) -> Layers:
    network = model.network
    assert not isinstance(network, Car)
    if precision != "int8":
        return FloatLayers(graph, network, maps, half=precision == "fp16")
    assert model.int8 is not None
    return Int8Layers(graph, network, Int8Fast(model.int8, exact=True), maps)


def _about(model: Model, options: ExportOptions) -> dict[str, str]:
    qp = "input" if options.qp is None else str(options.qp)
    return {
        "carfilter": __version__,
        "model": model.name,
        "sha256": model.sha256,
        "precision": options.precision,
        "levels": options.levels,
        **({"qp": qp} if model.network.uses_qp else {}),
    }
