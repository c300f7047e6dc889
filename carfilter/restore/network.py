"""The networks, as functions of their config alone (torch only; no files, no devices).

Every network maps luma in [-1, 1] and, where it is QP-aware, a QP plane to the *correction* that is
added to the luma. The caller adds it, so that the sum never passes through half precision:

    restored = luma + network(luma, qp)

`best` also takes other frames of the scene. Shapes are float [N, 1, H, W] throughout, of any H
and W.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carfilter.restore.window import REFERENCES

QP_UNKNOWN = -1.0
"""Value of the QP plane where the decoder exported no QP; known ones lie in 0..1 (QP / 51)."""


MAX_QP = 51.0
"""The coarsest quantiser of H.264 and HEVC at 8 bits."""


@dataclass(frozen=True)
class CarConfig:
    """Shape of the network of Aqqa & Shah, CAR-CNN, VISAPP 2020, section 3.1 and figure 2."""

    channels: int = 64
    blocks: int = 15
    slope: float = 0.2  # of the LeakyReLU


@dataclass(frozen=True)
class FastConfig:
    """Shape of `fast`; channels are a multiple of 16 for the vector units of int8 kernels."""

    channels: int = 48
    body: int = 6  # convolutions between head and tail
    factor: int = 2  # space-to-depth
    # Where the QP is known the correction fades in between these two: a block coded this finely has
    # little to gain and much to lose. Chosen on validation clips at CRF 18, 23 and 29.
    quiet_qp: float = 16.0
    full_qp: float = 30.0
    # Of activations; about twice what one in 10,000 reaches, where int8 clips them anyway. Without
    # it the layers of a `best` turned one picture in thousands into millions of grey levels.
    ceiling: float = 24.0

    def __post_init__(self) -> None:
        if min(self.channels, self.body, self.factor) < 1:
            raise ValueError("channels, body and factor are counts of at least one")
        if self.ceiling <= 0:
            raise ValueError(f"ceiling {self.ceiling} must be above zero")
        if self.full_qp <= self.quiet_qp:
            raise ValueError(f"full_qp {self.full_qp} must lie above quiet_qp {self.quiet_qp}")

    @property
    def inputs(self) -> int:
        """Channels of the first layer: the cells of the luma, and the QP."""
        return self.factor**2 + 1


@dataclass(frozen=True)
class BestConfig(FastConfig):
    """Shape of `best`."""

    references: int = REFERENCES
    # A reference enters as its difference to the frame, times this: finer than the luma, and
    # clipped at +-32 grey levels, beyond which it shows something else.
    contrast: float = 4.0

    @property
    def inputs(self) -> int:
        """Channels of the first layer: cells and QP, of the luma and of every reference."""
        return (self.factor**2 + 1) * (1 + self.references)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the picture's size, initialised after He et al. 2015."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    if not layer.weight.is_meta:  # where only shapes are asked for, it would load torch's compiler
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _scale_weight(layer: nn.Conv2d, factor: float) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


class ResidualBlock(nn.Module):
    """x + act(conv(act(conv(x)))), which starts as the identity: its second conv is zero."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.first = conv3x3(channels, channels)
        self.second = _scale_weight(conv3x3(channels, channels), 0.0)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.first(x), self.slope, inplace=True)
        return x + F.leaky_relu(self.second(inner), self.slope, inplace=True)


class Car(nn.Module):
    """The paper's network: 34 convolutions, blind, receptive field 34 pixels to each side.

    head 1->64; 15 residual blocks; one 64->64 closing the trunk before the long skip from the head;
    one more 64->64; tail 64->1 with tanh. LeakyReLU after every convolution but the last.
    The paper leaves open where the two convolutions beyond head, blocks and tail sit.
    """

    name = "car"
    uses_qp = False
    references = 0

    def __init__(self, config: CarConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CarConfig()
        self.head = conv3x3(1, config.channels)
        self.blocks = nn.Sequential(
            *(ResidualBlock(config.channels, config.slope) for _ in range(config.blocks))
        )
        self.close = conv3x3(config.channels, config.channels)
        self.last = conv3x3(config.channels, config.channels)
        # Small enough that the untrained network stays within one grey level of its input.
        self.tail = _scale_weight(conv3x3(config.channels, 1), 1e-3)
        self.slope = config.slope

    @property
    def halo(self) -> int:
        """Pixels to each side that a restored pixel depends on."""
        return 2 * self.config.blocks + 4

    @property
    def live_bytes(self) -> int:
        """Bytes a luma pixel needs at the peak in fp32: head, sum, inner layer and its output."""
        return 4 * 4 * self.config.channels

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:  # noqa: ARG002 (blind)
        head = F.leaky_relu(self.head(luma), self.slope, inplace=True)
        trunk = F.leaky_relu(self.close(self.blocks(head)), self.slope, inplace=True) + head
        return torch.tanh(self.tail(F.leaky_relu(self.last(trunk), self.slope, inplace=True)))


class Fast(nn.Module):
    """The QP-aware network for CPUs: works on a quarter of the positions, with bounded ReLU.

    space-to-depth 2 -> conv 5->48 -> 6 x conv 48->48 with one long skip -> conv 48->4 ->
    gate by QP -> depth-to-space 2. The fifth input is the QP plane. ReLU, since int8 fuses it.
    """

    name = "fast"
    uses_qp = True
    references = 0

    def __init__(self, config: FastConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FastConfig()
        self.head = conv3x3(config.inputs, config.channels)
        self.body = nn.ModuleList(
            conv3x3(config.channels, config.channels) for _ in range(config.body)
        )
        self.tail = _scale_weight(conv3x3(config.channels, config.factor**2), 1e-3)
        # In training, of the last call: by how much activations were over half of the ceiling, mean
        # squares of all layers together.
        self.excess: Tensor | float = 0.0

    @property
    def halo(self) -> int:
        """Pixels to each side that a restored pixel depends on."""
        return self.config.factor * (self.config.body + 2) + self.config.factor - 1

    @property
    def live_bytes(self) -> int:
        """Bytes a luma pixel needs at the peak in fp32: head, a layer's input and its output."""
        return 3 * 4 * self.config.channels // self.config.factor**2

    def forward(self, luma: Tensor, qp: Tensor | None = None) -> Tensor:
        """QP plane: float [N, 1, H, W], constant over each 16x16 block; None is unknown."""
        cells, plane = self._cells(luma), self._plane(luma, qp)
        return self._correct(torch.cat((cells, plane), 1), plane, luma.shape)

    def _cells(self, luma: Tensor) -> Tensor:
        factor = self.config.factor
        return F.pixel_unshuffle(_pad_to_multiple(luma, factor), factor)

    def _plane(self, luma: Tensor, qp: Tensor | None) -> Tensor:
        factor = self.config.factor
        if qp is None:
            qp = torch.full_like(luma, QP_UNKNOWN)
        return _pad_to_multiple(qp, factor)[..., ::factor, ::factor]

    def _correct(self, inputs: Tensor, plane: Tensor, shape: torch.Size) -> Tensor:
        if self.training:
            self.excess = 0.0
        head = self._bounded(self.head(inputs))
        x = head
        for layer in self.body[:-1]:
            x = self._bounded(layer(x))
        x = self._bounded(self.body[-1](x) + head)
        correction = F.pixel_shuffle(self.tail(x) * self.gate(plane), self.config.factor)
        return correction[..., : shape[-2], : shape[-1]]

    def _bounded(self, x: Tensor) -> Tensor:
        ceiling = self.config.ceiling
        if self.training:
            self.excess = self.excess + (x.float() - ceiling / 2).clamp_min(0).square().mean()
        return x.clamp(0, ceiling)

    def gate(self, plane: Tensor) -> Tensor:
        """Return the share of the correction, 0..1, for a plane of QP / 51 or QP_UNKNOWN (1)."""
        quiet, full = self.config.quiet_qp / MAX_QP, self.config.full_qp / MAX_QP
        share = ((plane - quiet) / (full - quiet)).clamp(0, 1)
        return torch.where(plane < 0, torch.ones_like(share), share)


class Best(Fast):
    """`fast` that also sees key frames before and after and the two neighbours (window.py).

    A reference adds five channels to the first layer: its difference to the frame, and its QP.
    One that is missing is the frame itself: no difference, the same QP.
    """

    name = "best"
    config: BestConfig

    def __init__(self, config: BestConfig | None = None) -> None:
        super().__init__(config or BestConfig())

    @property
    def references(self) -> int:  # type: ignore[override]
        """Number of other frames that a frame is restored with."""
        return self.config.references

    def forward(
        self,
        luma: Tensor,
        qp: Tensor | None = None,
        references: Tensor | None = None,
        reference_qp: Tensor | None = None,
    ) -> Tensor:
        """Luma of the references: float [N, R, H, W] in the slots of window.choose().

        Their QP planes have that shape too; None for either is all missing, all unknown.
        """
        cells, plane = self._cells(luma), self._plane(luma, qp)
        if references is None:
            others, planes = torch.zeros_like(cells), plane
            others = others.repeat(1, self.references, 1, 1)
            planes = planes.expand(-1, self.references, -1, -1)
        else:
            others = self._cells(self.difference(references, luma))
            planes = self._plane(references, reference_qp)
        return self._correct(torch.cat((cells, plane, others, planes), 1), plane, luma.shape)

    def difference(self, references: Tensor, luma: Tensor) -> Tensor:
        """Return what the first layer sees of references, in -1..1."""
        return ((references - luma) * self.config.contrast).clamp(-1, 1)


def grow(fast: Fast) -> Best:
    """Return `best` that restores as a trained `fast` does, whatever the references."""
    best = Best(BestConfig(**asdict(fast.config)))
    known = {name: value for name, value in fast.state_dict().items() if name != "head.weight"}
    best.load_state_dict(known, strict=False)
    with torch.no_grad():
        best.head.weight.zero_()
        best.head.weight[:, : fast.config.inputs] = fast.head.weight
    return best


def deepen(car: Car, blocks: int) -> Car:
    """Return a `car` of so many blocks that restores as a shallower trained one does.

    The blocks that are added start as the identity.

    Raises:
        ValueError: it has more blocks already.
    """
    if blocks < car.config.blocks:
        raise ValueError(f"{car.config.blocks} blocks cannot become {blocks}")
    deeper = Car(replace(car.config, blocks=blocks))
    deeper.load_state_dict(car.state_dict(), strict=False)
    return deeper


def _pad_to_multiple(plane: Tensor, factor: int) -> Tensor:
    bottom, right = -plane.shape[-2] % factor, -plane.shape[-1] % factor
    return F.pad(plane, (0, right, 0, bottom), mode="replicate") if bottom or right else plane


Network = Car | Fast  # Best is a Fast
_NETWORKS: dict[str, tuple[type[Network], type[CarConfig] | type[FastConfig]]] = {
    "car": (Car, CarConfig),
    "fast": (Fast, FastConfig),
    "best": (Best, BestConfig),
}


def build_network(name: str, config: dict[str, Any] | None = None) -> Network:
    """Build an untrained network by name; `config` overrides fields of its config.

    Raises:
        KeyError: there is no such network. TypeError: there is no such field.
    """
    network, fields = _NETWORKS[name]
    return network(fields(**(config or {})))  # type: ignore[arg-type]


def config_of(network: Network) -> dict[str, Any]:
    """Return the plain dictionary from which build_network() builds the same shape."""
    return asdict(network.config)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def mac_per_pixel(network: Network) -> float:
    """Return multiply-accumulates of all convolutions per luma pixel."""
    cells = 1 if isinstance(network, Car) else network.config.factor**2
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    return weights / cells
