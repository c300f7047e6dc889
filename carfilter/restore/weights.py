"""Checkpoints: one file with network name, config, weights, training and scores; shipped models.

No pickle is executed: `.pt` files go through torch's weights_only unpickler, `.safetensors` hold
no code at all. Everything that is not a carfilter checkpoint is refused with a WeightsError.
"""

import hashlib
import math
import pickle
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carfilter.errors import WeightsError, needing_torch
from carfilter.restore.checkpoint import (
    DAMAGED,
    check_file,
    check_pt,
    damaged,
    pickled,
    read_safetensors,
    save_safetensors,
)
from carfilter.restore.int8.quantised import Quantised, add_quantised, read_quantised
from carfilter.unfinished import written_whole

if TYPE_CHECKING:
    from torch import nn

    from carfilter.restore.network import Network

_FORMAT = "carfilter-1"
_PREFERENCE = ("best", "fast", "car")  # in which the default is looked for

SUITS = {
    "past": "past frames alone",
    "hevc": "H.265, VP9 and AV1",
    "mjpeg": "codecs without a loop filter",
}
"""Names of the other networks that a checkpoint may hold, and what each is for."""

# FFmpeg's names of codecs for which one serves that was trained on another's footage, and gains
# more there than one that was trained on H.264; see models/README.md.
_KIN = {
    **dict.fromkeys(("vp9", "av1"), "hevc"),
    **dict.fromkeys(("mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1", "wmv1", "wmv2"), "mjpeg"),
    **dict.fromkeys(("msmpeg4v1", "msmpeg4v2", "msmpeg4v3"), "mjpeg"),
}


class Model:
    """A checkpoint: its network in evaluation mode, and where it came from.

    Where the checkpoint carries what int8 needs, the network itself is loaded when it is asked for.

    Attributes:
        name: file name without its ending.
        sha256: of the file.
        suits: the name in SUITS under which it is another network of its checkpoint; else "".
        others: of its checkpoint, by that name.
    """

    def __init__(
        self,
        network: "Network | Path | nn.Module",
        name: str,
        sha256: str,
        training: dict[str, Any] | None = None,
        scores: dict[str, Any] | None = None,
        int8_ranges: list[float] | None = None,
        int8: Quantised | None = None,
        suits: str = "",
    ) -> None:
        self.name, self.sha256, self.suits = name, sha256, suits
        self.others: dict[str, Model] = {}
        self._stored = int8
        if isinstance(network, Path):
            self._path = network
        else:
            self._content = _Content(network, training or {}, scores or {}, int8_ranges)

    @cached_property
    def _content(self) -> "_Content":
        return _read(self._path)[self.suits]

    def suited(self, codec: str = "", *, past: bool = False) -> "Model":
        """Return the network of the checkpoint that suits a video best; most have but one.

        Args:
            codec: FFmpeg's name of what the video was coded with; "" where that is not known.
            past: it sees no later frames. What was trained for a codec serves so as well.
        """
        names = (_KIN.get(codec, codec), "past" if past else "")
        return next((self.others[name] for name in names if name in self.others), self)

    @property
    def network(self) -> Any:
        """The network, by torch; see carfilter.restore.network."""
        return self._content.network

    @property
    def training(self) -> dict[str, Any]:
        """How it was trained."""
        return self._content.training

    @property
    def scores(self) -> dict[str, Any]:
        """What it scored on validation clips."""
        return self._content.scores

    @property
    def int8_ranges(self) -> list[float] | None:
        """Ranges of the activations; see carfilter.restore.int8."""
        return self._content.int8_ranges

    @cached_property
    def int8(self) -> Quantised | None:
        """The network in int8; None where it has no such form."""
        if self._stored is not None or self._content.int8_ranges is None:
            return self._stored
        from carfilter.restore.int8.quantise import quantise
        from carfilter.restore.network import Fast

        fits = isinstance(self.network, Fast)
        return quantise(self.network, self._content.int8_ranges) if fits else None

    @property
    def is_ready(self) -> bool:
        """Whether the checkpoint carries its int8 form, so that torch is not needed."""
        return self._stored is not None

    @property
    def uses_qp(self) -> bool:
        """Whether the network takes the QP of each macroblock."""
        return self._stored is not None or bool(self.network.uses_qp)

    @property
    def references(self) -> int:
        """Other pictures that go with each; a network that says nothing of them takes none."""
        if self._stored is not None:
            return self._stored.references
        return int(getattr(self.network, "references", 0))


@dataclass(frozen=True)
class _Content:
    """What a checkpoint holds, as far as torch reads it."""

    network: Any
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    int8_ranges: list[float] | None = None


def models_folder() -> Path:
    """Return the folder of the shipped models: in the wheel inside the package, else beside it."""
    package = Path(__file__).parent.parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def shipped_models() -> list[str]:
    """Return the names that --weights accepts without a path."""
    return sorted(path.stem for path in models_folder().glob("*.pt"))


def find_weights(name: str | Path | None = None) -> Path:
    """Return the file behind a path, a shipped model's name (with or without .pt), or the default.

    Raises:
        WeightsError: there is no such file and no such shipped model.
    """
    shipped = shipped_models()
    if name is None:
        name = next((known for known in _PREFERENCE if known in shipped), "fast")
        if name in shipped:  # whatever lies in the working directory
            return models_folder() / f"{name}.pt"
    path = Path(name)
    if path.is_file() or (path.exists() and str(name) not in shipped):
        return path
    stem = path.name.removesuffix(".pt")
    if path.parent == Path() and stem in shipped:
        return models_folder() / f"{stem}.pt"
    raise WeightsError(
        f"{name}: no such weights file, and no shipped model of that name;"
        f" give a path or one of: {', '.join(shipped) or '(none shipped)'}"
    )


def save_weights(
    path: Path,
    network: "Network",
    training: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    int8_ranges: list[float] | None = None,
    others: Mapping[str, Model] | None = None,
) -> None:
    """Write a checkpoint (.pt or .safetensors by the ending), under a temporary name first.

    The weights are stored in half precision, and their int8 form is made of what then is stored.
    `training` and `scores` hold plain numbers, strings, lists and dictionaries.

    Args:
        others: what else it holds, by the names of SUITS.
    """
    import torch

    own = Model(network, "", "", training, scores, int8_ranges)
    models = {"": own, **(others or {})}
    contents = {name: _content_of(model) for name, model in models.items()}
    with written_whole(path) as part:
        if path.suffix == ".safetensors":
            save_safetensors(part, {"format": _FORMAT, **contents.pop(""), "others": contents})
            return
        forms = {name: _stored(model, contents[name]).int8 for name, model in models.items()}
        about = {"format": _FORMAT, **contents.pop("")}
        torch.save({**about, "others": contents} if contents else about, part)
        made = {name: form for name, form in forms.items() if form is not None}
        if len(made) == len(forms):
            add_quantised(part, made)


def _content_of(model: Model) -> dict[str, Any]:
    """Return what a checkpoint says of a network, its weights in half precision."""
    import torch

    from carfilter.restore.network import config_of

    return {
        "network": model.network.name,
        "config": config_of(model.network),
        "training": model.training,
        "scores": model.scores,
        "int8_ranges": model.int8_ranges,
        "weights": {
            key: value.detach().cpu().to(torch.float16).contiguous()
            for key, value in model.network.state_dict().items()
        },
    }


def _stored(model: Model, content: dict[str, Any]) -> Model:
    """Return a model as it will be read again from what is stored of it."""
    network = deepcopy(model.network).cpu()
    network.load_state_dict(content["weights"])
    return Model(network, "", "", int8_ranges=model.int8_ranges)


def load_weights(name: str | Path | None = None) -> Model:
    """Load a checkpoint by path or shipped name; see find_weights().

    Raises:
        WeightsError: missing, truncated, not ours, or its weights do not fit its network.
        DeviceError: it carries no int8 form, and torch is not installed.
    """
    path = find_weights(name)
    check_file(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    stored = read_quantised(path) if path.suffix == ".pt" else {}
    if stored:
        opened = {
            suits: Model(path, path.stem, sha256, int8=form, suits=suits)
            for suits, form in stored.items()
        }
    else:
        opened = {
            suits: Model(
                c.network, path.stem, sha256, c.training, c.scores, c.int8_ranges, suits=suits
            )
            for suits, c in _read(path).items()
        }
    model = opened.pop("")
    model.others = opened
    return model


def _read(path: Path) -> dict[str, _Content]:
    """Return the networks of a checkpoint by their names in SUITS; "" is the first."""
    is_pt = path.suffix != ".safetensors"
    with needing_torch(f"{path}: this model"):
        about = _checked(path, read_pt(path) if is_pt else read_safetensors(path))
    others = _notes(path, about, "others")
    if not all(name in SUITS and isinstance(other, dict) for name, other in others.items()):
        raise WeightsError(f"{path}: holds networks this version does not know; update carfilter")
    contents = {name: _content(path, part) for name, part in {"": about, **others}.items()}
    first = contents[""].network
    if any(
        (other.network.name, getattr(other.network, "references", 0))
        != (first.name, getattr(first, "references", 0))
        for other in contents.values()
    ):
        raise WeightsError(damaged(path))
    return contents


def _content(path: Path, about: dict[str, Any]) -> _Content:
    network = _network_from(path, about)
    return _Content(
        network=network.eval().requires_grad_(False),
        training=_notes(path, about, "training"),
        scores=_notes(path, about, "scores"),
        int8_ranges=_ranges_of(path, network, about.get("int8_ranges")),
    )


def read_pt(path: Path) -> Any:
    """Return what torch saved in a file of plain values and tensors; the tensors lie in the file.

    Raises:
        WeightsError: damaged, too large, or it holds more than plain values.
    """
    check_file(path)
    check_pt(path)
    import torch

    try:
        # Mapped, so that a tensor cannot claim more than the file holds.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(pickled(path)) from error
    except DAMAGED as error:
        raise WeightsError(damaged(path)) from error


def _checked(path: Path, about: Any) -> dict[str, Any]:
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: not a carfilter checkpoint (another program's weights?);"
            " use one made by carfilter-train or a shipped model"
        )
    return about


def _notes(path: Path, about: dict[str, Any], key: str) -> dict[str, Any]:
    notes = about.get(key) or {}
    if not isinstance(notes, dict):
        raise WeightsError(damaged(path))
    return notes


def _ranges_of(path: Path, network: "Network", ranges: Any) -> list[float] | None:
    from carfilter.restore.network import Fast

    if ranges is None or not isinstance(network, Fast):
        return None
    count = len(network.body) + 1
    if not isinstance(ranges, list) or len(ranges) != count or not all(map(_is_range, ranges)):
        raise WeightsError(f"{path}: its int8 ranges are damaged; fetch or calibrate it again")
    return [float(value) for value in ranges]


def _is_range(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and value >= 0


def _network_from(path: Path, about: dict[str, Any]) -> "Network":
    import torch

    from carfilter.restore.network import build_network

    weights = about.get("weights")
    try:
        # Without memory of its own: a config may ask for any size, its weights show the true one.
        with torch.device("meta"):
            network = build_network(about["network"], _checked_config(about.get("config")))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: made for a network this version does not know"
            f" ({str(about.get('network'))[:40]!r}); update carfilter"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(w, torch.Tensor) for w in weights.values()
    ):
        raise WeightsError(f"{path}: its weights are missing; fetch or train it again")
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    if wanted != {key: value.shape for key, value in weights.items()}:
        raise WeightsError(
            f"{path}: its weights do not fit the network {about['network']!r} that it names;"
            " fetch or train it again"
        )
    try:
        # To fp32 by copying, since the tensors lie in the file so far.
        values = {key: value.to(torch.float32, copy=True) for key, value in weights.items()}
        network.load_state_dict(values, strict=True, assign=True)
    except DAMAGED as error:
        raise WeightsError(damaged(path)) from error
    if not all(bool(value.isfinite().all()) for value in values.values()):
        raise WeightsError(f"{path}: its weights are no finite numbers; fetch or train it again")
    return network


def _checked_config(config: Any) -> dict[str, Any]:
    """Refuse sizes and factors that no network of ours has.

    Raises:
        ValueError: a number out of bounds, or none at all.
    """
    config = config or {}
    for name, value in config.items():
        is_size = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024
        if not (is_size or (isinstance(value, float) and math.isfinite(value))):
            raise ValueError(f"{name} is {value!r}")
    return dict(config)
