"""Look into a checkpoint before torch does: what it weighs, what it names, whether it is whole.

torch's own weights_only loader runs no code, but it lets a file ask for any amount of memory and
does not compare checksums. Of a .pt nothing is loaded here; safetensors hold no code at all.
"""

import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

from carfilter.errors import WeightsError

_MAX_BYTES = 1 << 30  # of a checkpoint; the largest shipped one has 5 MB
_MAX_PICKLE = 16 << 20  # of its description; a shipped one has 4 kB
_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
# The ways in which zipfile, pickle and torch complain of a file that was damaged or made up.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


def check_file(path: Path) -> None:
    """Refuse what is no file, or too large to be a checkpoint.

    Raises:
        WeightsError: a folder, a device, a pipe, or more than 1 GiB.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: not a file; give a checkpoint")
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"{path}: larger than any checkpoint of carfilter; give another file")


def check_pt(path: Path) -> None:
    """Refuse a .pt file that is not ours to load, before anything of it is unpickled.

    Raises:
        WeightsError: not a zip of plain tensors, damaged, compressed, or it names other code.
    """
    with path.open("rb") as file:
        magic = file.read(2)
    if magic.startswith(b"\x80"):  # a bare pickle is an old format or a trap
        raise WeightsError(pickled(path))
    if magic != b"PK":
        raise WeightsError(f"{path}: not a checkpoint; give a .pt or .safetensors of carfilter")
    try:
        with zipfile.ZipFile(path) as archive:
            description = _description(path, archive)
        names = {
            str(value)
            for code, value, _ in pickletools.genops(description)
            if code.name in ("GLOBAL", "INST", "STACK_GLOBAL")
        }
    except DAMAGED as error:
        raise WeightsError(damaged(path)) from error
    if not all(n in _NAMES or (n.startswith("torch ") and n.endswith("Storage")) for n in names):
        raise WeightsError(pickled(path))


def _description(path: Path, archive: zipfile.ZipFile) -> bytes:
    """Return the pickle that describes the tensors, from an archive that is whole."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names) or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise WeightsError(
            f"{path}: packed unlike a checkpoint of torch; fetch or train it again"
        )  # torch stores each once; what is packed otherwise may unpack to any size
    if archive.testzip() is not None:
        raise WeightsError(damaged(path))
    described = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(described) != 1 or described[0].file_size > _MAX_PICKLE:
        raise WeightsError(damaged(path))
    return archive.read(described[0])


def read_safetensors(path: Path) -> Any:
    """Return what save_safetensors() was given; whether it is a checkpoint, the caller finds out.

    Raises:
        WeightsError: damaged, or the package that reads it is not there.
    """
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
        for name, other in (about.get("others") or {}).items():
            its = [key for key in weights if key.startswith(f"{name}/")]
            other["weights"] = {key.partition("/")[2]: weights.pop(key) for key in its}
    except (SafetensorError, *DAMAGED) as error:
        raise WeightsError(
            f"{path}: damaged or not a safetensors file; fetch or train it again"
        ) from error
    return {**about, "weights": weights}


def save_safetensors(path: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint; the weights of its others are called "NAME/..."."""
    from safetensors.torch import save_file

    weights = dict(about["weights"])
    notes = {key: value for key, value in about.items() if key != "weights"}
    notes["others"] = {}
    for name, other in about["others"].items():
        weights |= {f"{name}/{key}": value for key, value in other["weights"].items()}
        notes["others"][name] = {key: v for key, v in other.items() if key != "weights"}
    save_file(weights, path, metadata={"carfilter": json.dumps(notes)})


def damaged(path: Path) -> str:
    """Say that a checkpoint cannot be read."""
    return f"{path}: damaged or not a checkpoint at all; fetch or train it again"


def pickled(path: Path) -> str:
    """Say that a checkpoint holds more than weights."""
    return (
        f"{path}: refused, since it holds pickled code or objects and not only weights;"
        " use a carfilter checkpoint"
    )
