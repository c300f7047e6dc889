"""Checkpoints: one file with network name, config, weights, training and scores; shipped models.

No pickle is executed: `.pt` files go through torch's weights_only unpickler, `.safetensors` hold
no code at all. Everything that is not a carfilter checkpoint is refused with a WeightsError.
"""

import hashlib
import json
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carfilter.errors import WeightsError
from carfilter.network import Fast, Network, build_network, config_of

_FORMAT = "carfilter-1"
_PREFERENCE = ("best", "fast", "car")  # in which the default is looked for


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: the network in evaluation mode and where it came from."""

    network: Network
    name: str  # file name without its ending
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    int8_ranges: list[float] | None = None  # of the activations, see carfilter.int8


def models_folder() -> Path:
    """Return the folder of the shipped models: in the wheel inside the package, else beside it."""
    inside = Path(__file__).parent / "models"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "models"


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
    path = Path(name)
    if path.exists():
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
    network: Network,
    training: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    int8_ranges: list[float] | None = None,
) -> None:
    """Write a checkpoint (.pt or .safetensors by the ending), under a temporary name first.

    `training` and `scores` hold plain numbers, strings, lists and dictionaries.
    """
    about = {
        "format": _FORMAT,
        "network": network.name,
        "config": config_of(network),
        "training": training or {},
        "scores": scores or {},
        "int8_ranges": int8_ranges,
    }
    weights = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    part = path.with_name(f".{path.name}.part")
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(weights, part, metadata={"carfilter": json.dumps(about)})
    else:
        torch.save({**about, "weights": weights}, part)
    part.replace(path)


def load_weights(name: str | Path | None = None) -> Model:
    """Load a checkpoint by path or shipped name; see find_weights().

    Raises:
        WeightsError: missing, truncated, not ours, or its weights do not fit its network.
    """
    path = find_weights(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    about = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
    network = _network_from(path, about)
    return Model(
        network=network.eval().requires_grad_(False),
        name=path.stem,
        sha256=hashlib.sha256(content).hexdigest(),
        training=about.get("training", {}),
        scores=about.get("scores", {}),
        int8_ranges=_ranges_of(path, network, about.get("int8_ranges")),
    )


def _read_pt(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        magic = file.read(2)
    if magic != b"PK":  # our files are zips; a bare pickle is an old format or a trap
        if magic.startswith(b"\x80"):
            raise WeightsError(_pickled(path))
        raise WeightsError(f"{path}: not a checkpoint; give a .pt or .safetensors of carfilter")
    try:
        about = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_pickled(path)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        raise WeightsError(
            f"{path}: damaged or not a checkpoint at all; fetch or train it again"
        ) from error
    return _checked(path, about)


def _pickled(path: Path) -> str:
    return (
        f"{path}: refused, since it holds pickled code or objects and not only weights;"
        " use a carfilter checkpoint"
    )


def _checked(path: Path, about: Any) -> dict[str, Any]:
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: not a carfilter checkpoint (another program's weights?);"
            " use one made by carfilter-train or a shipped model"
        )
    return about


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs the safetensors package; pip install carfilter[safetensors]"
        ) from error
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        about = json.loads(metadata.get("carfilter", "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged or not a safetensors file; fetch or train it again"
        ) from error
    return {**_checked(path, about), "weights": weights}


def _ranges_of(path: Path, network: Network, ranges: Any) -> list[float] | None:
    if ranges is None or not isinstance(network, Fast):
        return None
    if not isinstance(ranges, list) or len(ranges) != len(network.body) + 1:
        raise WeightsError(f"{path}: its int8 ranges are damaged; fetch or calibrate it again")
    return [float(value) for value in ranges]


def _network_from(path: Path, about: dict[str, Any]) -> Network:
    weights = about.get("weights")
    try:
        network = build_network(about["network"], about.get("config"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: made for a network this version does not know"
            f" ({about.get('network')!r}); update carfilter"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise WeightsError(f"{path}: its weights are missing; fetch or train it again")
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: its weights do not fit the network {about['network']!r} that it names;"
            " fetch or train it again"
        ) from error
    return network
