"""What a frozen detector sees of a picture, as a loss.

Squared error is content to fade small things that an encoder has half erased; to a detector they
are then gone. Comparing the features of a frozen network instead goes back to Johnson et al.,
"Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from carfilter.detection.detector import DetectorSettings, OnnxDetector
from carfilter.errors import CarfilterError

GRID = 32  # pixels of a detector's coarsest cell
_SURE = 0.3  # score from which something counts as seen on a clean picture
# A cell weighs as much as the detector is sure of it, and this much anyway: else flat road, which
# fills most of a crop, would outvote the cars on it.
_BACKGROUND = 0.02
# Share of the clean features' size that is added to the decode's distance from them, so that hardly
# compressed crops do not weigh infinitely.
_FLOOR = 0.03
_TINY = 1e-6  # where even the clean picture excites nothing


class FeatureLoss:
    """Distance of restored luma from the clean one as a detector sees it, the decode's being 1.

    Compared are the inputs of the detector's last convolutions (features) and what these return
    (predictions), by the L1 norm.
    """

    def __init__(self, path: Path) -> None:
        """Read the detector, an ONNX file without its own suppression.

        Raises:
            CarfilterError: missing or unusable, or packages of the `train` extra are missing.
        """
        self.detector = OnnxDetector(path, DetectorSettings(score=_SURE), threads=1)
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        # YOLOX is shown 0..255, its relatives 0..1.
        self._scale = 1.0 if self.detector.layout == "yolox" else 1 / 255
        self._trunk, self._sure = _trunk_of(path)

    def to(self, device: torch.device) -> "FeatureLoss":
        """Move the detector to where the crops are."""
        self._trunk.to(device)
        for layer in self._trunk.modules():  # half again as fast on a CPU
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(
        self, restored: Tensor, degraded: Tensor, clean: Tensor, size: float = 1.0
    ) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            restored, degraded, clean: luma, float [N, 1, H, W] in -1..1, H and W of 32s.
            size: show them to the detector at this share of their size, to the nearest of 32s.
        """
        restored, degraded, clean = (_scaled(luma, size) for luma in (restored, degraded, clean))
        with torch.no_grad():
            both = self._seen(torch.cat((clean, degraded)))
            truth, before = zip(*(seen.chunk(2) for seen in both), strict=True)
            weights = self._weights(truth)
        after = self._seen(restored)
        ratios = []
        for there, was, now in zip(truth, before, after, strict=True):
            weight = weights[there.shape[-2:]]
            distance = _mean((now - there).abs(), weight)
            with torch.no_grad():
                scale = _mean((was - there).abs(), weight)
                scale += _FLOOR * _mean(there.abs(), weight)
            ratios.append(distance / (scale + _TINY))
        return torch.stack(ratios).mean()

    def _seen(self, luma: Tensor) -> tuple[Tensor, ...]:
        """Return features and predictions of a gray picture, limited range spread to the full."""
        full = ((luma * 128 + 112) * (255 / 219)).clamp(0, 255) * self._scale
        colours = full.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        seen: tuple[Tensor, ...] = self._trunk(colours)
        return seen

    def _weights(self, truth: Sequence[Tensor]) -> dict[torch.Size, Tensor]:
        """Return the weight of each cell, [N, 1, h, w], for each size of feature map."""
        weights: dict[torch.Size, Tensor] = {}
        for seen in truth:
            weights.setdefault(seen.shape[-2:], torch.ones_like(seen[:, :1]))
        for index in self._sure:
            size = truth[index].shape[-2:]
            weights[size] = weights[size] * truth[index].sigmoid().amax(1, keepdim=True)
        return {size: weight + _BACKGROUND for size, weight in weights.items()}


def _scaled(luma: Tensor, scale: float) -> Tensor:
    """Return the picture in another size, both sides of 32s; as it is if that is its own."""
    size = [max(GRID, round(side * scale / GRID) * GRID) for side in luma.shape[-2:]]
    if size == list(luma.shape[-2:]):
        return luma
    return F.interpolate(luma, size, mode="bilinear", antialias=True)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of each sample, [N], over its channels and cells."""
    return (values.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def _trunk_of(path: Path) -> tuple[fx.GraphModule, list[int]]:
    """Return a network of a picture's features and predictions, and which of these are scores.

    Walks from the output to the last convolutions; a score passes a sigmoid on the way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: Any = _converter()(str(path)).eval().requires_grad_(False)
    except ImportError as error:
        raise CarfilterError(
            f"{path}: training with a detector needs onnx2torch; pip install carfilter[train]"
        ) from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise CarfilterError(
            f"{path}: has layers that onnx2torch does not know; export it without suppression"
        ) from error
    layers = dict(network.named_modules())
    last: dict[fx.Node, bool] = {}  # convolution -> whether a sigmoid follows

    def walk(node: fx.Node, sigmoid: bool) -> None:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d):
            last[node] = sigmoid
            return
        for before in node.all_input_nodes:
            walk(before, sigmoid or isinstance(layer, nn.Sigmoid))

    (output,) = (node for node in network.graph.nodes if node.op == "output")
    walk(output, False)
    features = list(dict.fromkeys(node.all_input_nodes[0] for node in last))
    if not last:
        raise CarfilterError(f"{path}: has no convolutions, so no features; give another detector")
    output.args = ((*features, *last),)
    network.graph.eliminate_dead_code()
    network.recompile()
    network.delete_all_unused_submodules()
    scores = [len(features) + at for at, sigmoid in enumerate(last.values()) if sigmoid]
    return network, scores


def _converter() -> Callable[[str], nn.Module]:
    """Import onnx2torch, which asks for torchvision: for suppression alone, which is not used here.

    torchvision loads only beside the very build of torch that it was made for, and PyPI has none
    for torch's CPU builds, https://github.com/pytorch/vision/issues/9085.
    """
    try:
        import torchvision  # type: ignore[import-untyped] # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules["torchvision"] = ModuleType("torchvision")
        operators: Any = ModuleType("torchvision.ops")
        operators.roi_align = None
        sys.modules["torchvision.ops"] = operators
    from onnx2torch import convert  # type: ignore[import-untyped]

    return convert  # type: ignore[no-any-return]
