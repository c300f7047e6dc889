"""`fast` and `best` in whole numbers: all that an int8 engine needs, read and written by numpy.

A checkpoint carries one of each of its networks as an entry of its own in its zip file, in the
format of safetensors (https://github.com/huggingface/safetensors#format), with the SHA-256 of all
that is no such entry: so it is taken only where it was made from those very weights.
carfilter.restore.int8.quantise makes it.
"""

import hashlib
import json
import math
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.pictures import MACROBLOCK, Luma, Picture
from carfilter.restore.checkpoint import DAMAGED

ENTRY = "int8.safetensors"
"""Of the network itself; "int8-past.safetensors" is that of the other one named "past"."""

INPUT_ZERO = 128
"""The code of zero in the first layer: (code - 128) / 128 is the value it was trained on."""

QP_CODE_UNKNOWN = 0
_OURS = re.compile(r"[^/]*/int8(?:-(\w+))?\.safetensors")
_FORMAT = "carfilter-int8-1"
_MAX_QP = 51
_MOST_BYTES = 16 << 20  # of the entry; a shipped one has 140 kB
_KINDS: dict[str, npt.DTypeLike] = {"I8": "<i1", "F32": "<f4"}
_DRAWN = (80, 112)  # sides of the picture that an engine is tried on

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layer:
    """One convolution: uint8 codes in; codes with ReLU, or float32, out.

    Attributes:
        weight: int8 [out, in, 3, 3].
        weight_scale: what a step of it is worth, float32 [out].
        bias: what is added, float32 [out].
        scale: what a step of the input's codes is worth.
        zero: the input's code of zero.
        out_scale: the output's scale; None is float32.
    """

    weight: npt.NDArray[np.int8]
    weight_scale: Floats
    bias: Floats
    scale: float
    zero: int
    out_scale: float | None

    @property
    def sum_scale(self) -> Floats:
        """What a sum of products of codes is worth, float32 [out]."""
        return self.weight_scale * np.float32(self.scale)


@dataclass(frozen=True)
class Quantised:
    """A network in int8.

    Attributes:
        network: its name, "fast" or "best".
        factor: of space-to-depth.
        references: pictures beside the one that is restored.
        contrast: of the differences to them.
        halo: pixels to each side that a restored pixel depends on.
        layers: head, body and tail. The head of `best` has its channels in another order than the
            float network's: the cells of the frame and of each reference, then all QPs, then what
            fills up to a multiple of four, so that they are written four at a time.
        gates: shares of the correction by QP code, float32 [256].
        drawn: SHA-256 of what drawn() has to give, by any engine.
    """

    network: str
    factor: int
    references: int
    contrast: int
    halo: int
    layers: tuple[Layer, ...]
    gates: Floats
    drawn: str = ""

    @property
    def channels(self) -> int:
        """Of the layers between head and tail."""
        return len(self.layers[0].weight)

    @property
    def spare(self) -> int:
        """Channels of the first layer that fill up, see `layers`."""
        return -(1 + self.references) % 4 if self.references else 0


def qp_codes() -> Codes:
    """Return the first layer's code of each QP, uint8 [256]; see QP_CODE_UNKNOWN for none."""
    steps = np.arange(256, dtype=np.float32) * np.float32(128 / _MAX_QP) + np.float32(128)
    codes: Codes = np.rint(steps).clip(0, 255).astype(np.uint8)
    return codes


def drawn(references: int) -> Picture:
    """Draw a picture that is the same on any machine, and references of it; one is missing."""
    height, width = _DRAWN
    rows, columns = np.mgrid[:height, :width].astype(np.uint32)
    smooth = 40 + rows + columns // 2 + 30 * (columns // 24 % 2)

    def noisy(seed: int, levels: int) -> Luma:
        # Numbers as of a linear congruential generator, whose upper bits are the random ones.
        number = ((rows * width + columns) * 97 + seed) * np.uint32(747796405) + np.uint32(12345)
        noise = (number ^ (number >> np.uint32(13))) * np.uint32(277803737) >> np.uint32(24)
        luma: Luma = (smooth + noise % levels).clip(0, 255).astype(np.uint8)
        return luma

    blocks = np.arange(-(-height // MACROBLOCK) * -(-width // MACROBLOCK), dtype=np.int16)
    qp = (blocks * 5 % 58 - 6).clip(-1, 51).reshape(-(-height // MACROBLOCK), -1)
    others = [Picture(noisy(i, 6), qp=(qp + i).clip(-1, 51)) for i in range(1, references + 1)]
    seen = tuple(None if i == 1 else other for i, other in enumerate(others))
    return Picture(noisy(0, 8), qp=qp, references=seen)


def fingerprint(luma: Luma) -> str:
    """Return the SHA-256 of a restored picture."""
    return hashlib.sha256(np.ascontiguousarray(luma).tobytes()).hexdigest()


def read_quantised(path: Path) -> dict[str, Quantised]:
    """Return what a checkpoint carries, by the name of the network, "" for itself.

    Nothing where it carries none, or not of its weights. Nothing is unpickled.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            of = ""
            for entry in filter(_is_ours, archive.namelist()):
                if archive.getinfo(entry).file_size > _MOST_BYTES:
                    return {}
                of = of or _sha256_of_others(archive)
                about, arrays = _unpacked(archive.read(entry))
                if about["format"] != _FORMAT or about["of"] != of:
                    return {}
                found[_network_of(entry)] = _checked(about, arrays)
    except DAMAGED:
        return {}  # load_weights() then looks at the file with care, and says what it is
    return found if "" in found else {}


def add_quantised(path: Path, networks: dict[str, Quantised]) -> None:
    """Put them, by name as of read_quantised(), into a checkpoint that torch has just written."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        of = _sha256_of_others(archive)
        for name, network in networks.items():
            about, arrays = _apart(network)
            entry = ENTRY.replace(".", f"-{name}.") if name else ENTRY
            packed = _packed({**about, "format": _FORMAT, "of": of}, arrays)
            archive.writestr(zipfile.ZipInfo(f"{folder}/{entry}"), packed)


def _is_ours(entry: str) -> bool:
    return _OURS.fullmatch(entry) is not None


def _network_of(entry: str) -> str:
    found = _OURS.fullmatch(entry)
    return (found and found[1]) or ""


def _sha256_of_others(archive: zipfile.ZipFile) -> str:
    digest = hashlib.sha256()
    for name in sorted(archive.namelist()):
        if not _is_ours(name):
            content = archive.read(name)
            digest.update(f"{name.partition('/')[2]} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _apart(network: Quantised) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return numbers and arrays."""
    numbers = ("network", "factor", "references", "contrast", "halo", "drawn")
    about: dict[str, Any] = {name: getattr(network, name) for name in numbers}
    about["layers"] = [
        {"scale": layer.scale, "zero": layer.zero, "out_scale": layer.out_scale}
        for layer in network.layers
    ]
    arrays: dict[str, npt.NDArray[Any]] = {"gates": network.gates}
    for i, layer in enumerate(network.layers):
        for name in ("weight", "weight_scale", "bias"):
            arrays[f"{i}.{name}"] = getattr(layer, name)
    return about, arrays


def _packed(about: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"carfilter": json.dumps(about)}}
    kinds = {np.dtype(kind): name for name, kind in _KINDS.items()}
    at = 0
    for name, array in arrays.items():
        offsets = [at, at := at + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": kinds[array.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return struct.pack("<Q", len(text)) + text + data


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["carfilter"])
    arrays = {}
    for name, entry in header.items():
        first, last = (8 + length + at for at in entry["data_offsets"])
        flat = np.frombuffer(content[first:last], _KINDS[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return about, arrays


def _checked(about: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Quantised:
    """Put numbers and arrays together.

    Raises:
        ValueError, or another of DAMAGED: they do not fit each other.
    """
    numbers = {name: int(about[name]) for name in ("factor", "references", "contrast", "halo")}
    layers = tuple(
        Layer(
            weight=arrays[f"{i}.weight"],
            weight_scale=arrays[f"{i}.weight_scale"],
            bias=arrays[f"{i}.bias"],
            scale=float(entry["scale"]),
            zero=int(entry["zero"]),
            out_scale=None if entry["out_scale"] is None else float(entry["out_scale"]),
        )
        for i, entry in enumerate(about["layers"])
    )
    network = Quantised(
        str(about["network"]), **numbers, layers=layers, gates=arrays["gates"],
        drawn=str(about["drawn"]),
    )  # fmt: skip
    cell = network.factor**2
    inputs = (cell + 1) * (1 + network.references) + network.spare
    shapes = [(network.channels, inputs), *[(network.channels,) * 2] * (len(layers) - 2)]
    shapes.append((cell, network.channels))
    for layer, (outputs, taken) in zip(layers, shapes, strict=True):
        _expect(layer.weight, (outputs, taken, 3, 3), np.int8)
        _expect(layer.weight_scale, (outputs,), np.float32)
        _expect(layer.bias, (outputs,), np.float32)
        if not (math.isfinite(layer.scale) and math.isfinite(layer.out_scale or 1.0)):
            raise ValueError("a scale is no finite number")
    if [layer.out_scale is None for layer in layers] != [*[False] * (len(layers) - 1), True]:
        raise ValueError("only the last layer gives floats")
    _expect(network.gates, (256,), np.float32)
    return network


def _expect(array: npt.NDArray[Any], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
    if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
        raise ValueError(f"expected {dtype} {shape}, finite")
