"""Values kept in files whose names are made of the content they depend on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from carfilter.media.clips import Clip
from carfilter.unfinished import written_whole


def cached(
    cache: Path, key: Sequence[Any], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return what is kept under a key, or compute it and keep it; a damaged entry is made anew."""
    name = key_of(key)
    path = cache / "scores" / name[:2] / f"{name}.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):  # not there yet, or cut short
        stored = compute()
        write_json(path, stored)
    return stored


def write_json(path: Path, value: Any) -> None:
    """Write plain values so that the file is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(json.dumps(value))


def key_of(parts: Sequence[Any]) -> str:
    """Return a checksum of plain values, the same in every run."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def clip_digest(clip: Clip) -> str:
    """Return a checksum of the frames and of what the decoder told about them."""
    digest = hashlib.sha256(str(clip.luma.shape).encode())
    for planes in (clip.luma, clip.chroma, clip.types, clip.qp):
        if planes is not None:
            digest.update(planes.tobytes())
    return digest.hexdigest()
