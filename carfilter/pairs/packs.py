"""Training packs: clean and degraded luma of a clip as compact lossless .npz files (numpy alone).

`CLIP.clean.npz` holds the clean luma, `CLIP.VARIANT.npz` one compressed twin with its QP maps and
frame types. Whole clips stay together in time order. Each file is small enough to travel alone,
and a machine without a video library can read it.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import MediaError
from carfilter.unfinished import written_whole

Planes = npt.NDArray[np.uint8]

_CLEAN, _DEGRADED = "carfilter-clean-1", "carfilter-degraded-1"
_TRIAL_FRAMES = 6  # enough to see which coding is smaller
_DAMAGED = zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, TypeError
NO_QP = -1  # of a macroblock whose QP is unknown


@dataclass(frozen=True)
class Twin:
    """One compressed version of a clip."""

    name: str  # of the variant, unique within the clip
    luma: Planes  # [T, H, W]
    qp: npt.NDArray[np.int8]  # [T, ceil(H/16), ceil(W/16)], 0..51 or NO_QP
    types: Planes  # [T], 1 I, 2 P, 3 B, 0 unknown
    about: dict[str, Any]  # crf and the other options, kbps, ...


def save_clean(folder: Path, clip: str, luma: Planes, about: Mapping[str, Any]) -> Path:
    """Write the clean luma [T, H, W] of a clip; `about` holds plain values (fps, source, ...)."""
    head = {**about, "format": _CLEAN, "clip": clip, "check": _checksum(luma)}
    return _save(folder / f"{clip}.clean.npz", head, luma=_time_code(luma))


def save_twin(folder: Path, clip: str, clean: Planes, twin: Twin) -> Path:
    """Write a degraded version next to its clean one, coded against whatever compresses best."""
    by_time, by_clean = _time_code(twin.luma), twin.luma - clean  # uint8 wraps around, losslessly
    trial = slice(0, _TRIAL_FRAMES)
    coding = "time" if _deflated(by_time[trial]) <= _deflated(by_clean[trial]) else "clean"
    head = {
        **twin.about,
        "format": _DEGRADED,
        "clip": clip,
        "variant": twin.name,
        "coding": coding,
        "check": _checksum(twin.luma),
        "clean_check": _checksum(clean),
    }
    luma = by_time if coding == "time" else by_clean
    path = folder / f"{clip}.{twin.name}.npz"
    return _save(path, head, luma=luma, qp=twin.qp, types=twin.types)


def list_packs(folder: Path) -> dict[Path, list[Path]]:
    """Return the degraded packs of each clean one, anywhere below `folder`, in order of names.

    Twins may lie in another folder than their clean pack, so that a set can travel in parts; one
    that lies beside them comes first, so that several sets of the same clips can be used together.

    Raises:
        MediaError: no packs there, or twins without their clean pack.
    """
    files = sorted(folder.rglob("*.npz")) if folder.is_dir() else []
    pairs: dict[Path, list[Path]] = {path: [] for path in files if _is_clean(path)}
    elsewhere = {path.name: path for path in pairs}
    for path in files:
        if _is_clean(path):
            continue
        name = path.name.rsplit(".", 2)[0] + ".clean.npz"
        beside = path.with_name(name)
        clean = beside if beside in pairs else elsewhere.get(name)
        if clean is None:
            raise MediaError(f"{path}: its clean pack {name} is missing; copy it as well")
        pairs[clean].append(path)
    if not any(pairs.values()):
        raise MediaError(f"{folder}: holds no training packs; make some with carfilter-degrade")
    return pairs


def heads(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return what is said about each pack in a folder, not below it; other files are passed by."""
    found = {path: _head(path) for path in folder.glob("*.npz")}
    return {path: about for path, about in found.items() if about is not None}


def load_clean(path: Path) -> tuple[Planes, dict[str, Any]]:
    """Return the clean luma, uint8 [T, H, W], and what is said about it.

    Raises:
        MediaError: missing, truncated, foreign or altered.
    """
    about, arrays = _load(path, _CLEAN, ("luma",))
    luma = _time_decode(arrays["luma"])
    _verify(path, luma, about["check"])
    return luma, about


def load_twin(path: Path, clean: Planes) -> Twin:
    """Return the degraded version in `path` of the clip whose clean luma is `clean`.

    Raises:
        MediaError: missing, truncated, foreign, altered, or of another clean clip.
    """
    about, arrays = _load(path, _DEGRADED, ("luma", "qp", "types"))
    if about["clean_check"] != _checksum(clean):
        raise MediaError(f"{path}: made from another clean clip; make the packs of it again")
    coded = arrays["luma"]
    luma = coded + clean if about["coding"] == "clean" else _time_decode(coded)
    _verify(path, luma, about["check"])
    blocks = (len(luma), -(-luma.shape[1] // 16), -(-luma.shape[2] // 16))
    if arrays["qp"].shape != blocks or arrays["types"].shape != blocks[:1]:
        raise MediaError(f"{path}: its QP maps do not fit its pictures; make the pack again")
    return Twin(about["variant"], luma, arrays["qp"], arrays["types"], about)


def _is_clean(path: Path) -> bool:
    return path.name.endswith(".clean.npz")


def _head(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            about: dict[str, Any] = json.loads(opened["about"].tobytes())
            return about if about["format"] in (_CLEAN, _DEGRADED) else None
    except (OSError, *_DAMAGED):
        return None


def _save(path: Path, about: Mapping[str, Any], **arrays: npt.NDArray[Any]) -> Path:
    text = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    with written_whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, about=text, **arrays)
    return path


def _load(
    path: Path, kind: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    try:
        # Opened here, since NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            about = json.loads(opened["about"].tobytes())
            arrays = {name: opened[name] for name in names}
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error}); check the path") from error
    except _DAMAGED as error:
        raise MediaError(
            f"{path}: damaged or not a training pack; make it again with carfilter-degrade"
        ) from error
    if not isinstance(about, dict) or about.get("format") != kind:
        raise MediaError(
            f"{path}: not the kind of pack its name says; make it again with carfilter-degrade"
        )
    if arrays["luma"].dtype != np.uint8 or arrays["luma"].ndim != 3:
        raise MediaError(f"{path}: holds no 8-bit luma; make it again with carfilter-degrade")
    return about, arrays


def _verify(path: Path, luma: Planes, check: int) -> None:
    if _checksum(luma) != check:
        raise MediaError(f"{path}: its checksum does not match; make the pack again")


def _checksum(luma: Planes) -> int:
    return zlib.crc32(np.ascontiguousarray(luma).tobytes())


def _deflated(planes: Planes) -> int:
    return len(zlib.compress(np.ascontiguousarray(planes).tobytes(), 1))


def _time_code(luma: Planes) -> Planes:
    """Return differences to the previous frame; in the first frame, to the pixel on the left."""
    coded = np.diff(luma, axis=0, prepend=np.zeros_like(luma[:1]))
    coded[0] = np.diff(luma[0], axis=1, prepend=np.zeros_like(luma[0, :, :1]))
    return coded


def _time_decode(coded: Planes) -> Planes:
    first = np.cumsum(coded[0], axis=1, dtype=np.uint8)
    luma = np.concatenate((first[None], coded[1:]))
    return np.cumsum(luma, axis=0, dtype=np.uint8)
