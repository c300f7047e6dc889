"""A smaller network out of a trained one: which channels stay, and what it is taught."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from carfilter.restore.network import Fast, Network, build_network, config_of
from carfilter.training.dataset import Crops

_TAUGHT = 0.5  # of what is learned is the teacher's picture, the rest the clean one


def taught(crops: Crops, teacher: Network) -> Crops:
    """Return crops whose clean luma is half what a teacher makes of the degraded one.

    It tells a small network what can be known, where the clean picture also shows what cannot:
    Hinton et al., Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531
    """
    inputs = crops.inputs if teacher.references else crops.inputs[:2]
    with torch.no_grad():
        shown = crops.degraded + teacher(*inputs)
    return replace(crops, clean=torch.lerp(crops.clean, shown, _TAUGHT))


def narrow(network: Fast, crops: Iterable[Crops], channels: int, body: int) -> Fast:
    """Return a network of fewer channels that starts near to what the given one does.

    Of each layer those channels stay whose mean activation times the weights that read it is
    largest; what the others add in the mean goes into the biases. Layers that are more than the
    given network's change nothing at first.

    Args:
        crops: to measure activations with.
        channels: at most the network's.
        body: layers between head and tail, at least the network's.
    """
    means, layers = _mean_activations(network, crops), _convolutions(network)
    ends = means[0] * _reading(layers[0]) + (means[0] + means[-1]) * _reading(network.tail)
    inner = (mean * _reading(layer) for mean, layer in zip(means[1:], layers[1:], strict=False))
    # The skip adds the head's channels to the last layer's, so the same ones stay of both.
    scores = [ends, *inner, ends]
    kept = [score.topk(channels).indices.sort().values for score in scores]
    config = {**config_of(network), "channels": channels, "body": body}
    small = build_network(network.name, config)
    assert isinstance(small, Fast)
    added = body - len(layers)
    with torch.no_grad():
        _copy(small.head, network.head, rows=kept[0])
        for layer in _convolutions(small)[:added]:
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(_bias(layer))
        for at, (made, layer) in enumerate(zip(_convolutions(small)[added:], layers, strict=True)):
            _copy(made, layer, rows=kept[at + 1], columns=kept[at])
            gone = means[at].clone()
            gone[kept[at]] = 0
            _bias(made).add_((layer.weight.sum((2, 3)) @ gone)[kept[at + 1]])
        _copy(small.tail, network.tail, columns=kept[-1])
    return small


def _mean_activations(network: Fast, crops: Iterable[Crops]) -> list[Tensor]:
    """Return of each layer but the tail the mean activation of its channels, float [channels]."""
    seen: dict[int, list[Tensor]] = defaultdict(list)

    def note(at: int, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[at].append(output.clamp(min=0).mean((0, 2, 3)))

    layers = [network.head, *_convolutions(network)]
    handles = [one.register_forward_hook(partial(note, at)) for at, one in enumerate(layers)]
    try:
        with torch.no_grad():
            for some in crops:
                network(*some.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.stack(seen[at]).mean(0) for at in range(len(layers))]


def _convolutions(network: Fast) -> list[nn.Conv2d]:
    return [layer for layer in network.body if isinstance(layer, nn.Conv2d)]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _reading(layer: nn.Conv2d) -> Tensor:
    """Return how strongly a layer reads each of its inputs, float [inputs]."""
    return layer.weight.detach().square().sum((0, 2, 3)).sqrt()


def _copy(
    made: nn.Conv2d, layer: nn.Conv2d, rows: Tensor | None = None, columns: Tensor | None = None
) -> None:
    weight, bias = layer.weight, _bias(layer)
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    made.weight.copy_(weight if columns is None else weight[:, columns])
    _bias(made).copy_(bias)
