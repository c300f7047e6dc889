"""Compressed variants of clean clips, made once and kept; which of them share a column."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from carfilter.errors import MediaError
from carfilter.evaluation.cache import key_of, write_json
from carfilter.evaluation.measures import psnr_per_frame
from carfilter.media.clips import read_clip
from carfilter.media.opening import sha256_of
from carfilter.pairs.degrade import degrade
from carfilter.pairs.variants import Settings

_DEGRADE_VERSION = 1  # raise it when what a cached variant means changes
_SCALED_VERSION = 2  # the same where caps are scaled
_LISTING = "listing.json"

Column = tuple[int | None, tuple[int | None, ...]]
"""CRF (or q) and the caps in bits per second that share the column, the measured one first."""


@dataclass(frozen=True)
class Variant:
    """One compressed version of a clip; None where a given pair does not tell."""

    crf: int | None  # or q, on the codec's own scale
    cap: int | None  # bits per second, before it is scaled to the picture
    kbps: float
    mean_qp: float | None
    cap_share: float | None  # of the pictures that felt the cap
    decode_psnr: float
    video: Path
    sha256: str
    compared: Path  # what is decoded and compared: the video, or its scaled version

    @property
    def cap_felt(self) -> bool:
        """Whether the bitrate cap changed anything worth a column of its own."""
        return self.cap_share is None or self.cap_share > 0


@dataclass(frozen=True)
class Prepared:
    """A clean clip with its variants, not measured yet."""

    name: str
    sha256: str
    clean: Path
    variants: tuple[Variant, ...]
    codec: str = "h264"


def prepare(name: str, source: Path, settings: Settings, cache: Path) -> Prepared:
    """Make or find the compressed variants of a clean clip in the cache.

    Raises:
        MediaError: the clip cannot be read or encoded.
    """
    try:
        digest = sha256_of(source)
    except OSError as error:
        raise MediaError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    made = _SCALED_VERSION if settings.scale_caps else _DEGRADE_VERSION
    made_of = [made, name, digest, asdict(settings), version("av")]
    folder = cache / "variants" / f"{name}-{key_of(made_of)[:16]}"
    try:
        if not (folder / _LISTING).exists():
            _degrade(name, source, folder, settings)
    except OSError as error:
        raise MediaError(
            f"{source}: its variants cannot be kept in {cache} ({error.strerror}); give the clip a"
            " shorter name, or another --cache"
        ) from error
    rows = json.loads((folder / _LISTING).read_text())
    variants = tuple(
        Variant(
            crf=row["crf"],
            cap=row.get("cap") or row["maxrate"],
            kbps=row["kbps"],
            mean_qp=row["mean_qp"],
            cap_share=row["cap_share"],
            decode_psnr=row["decode_psnr"],
            video=folder / row["video"],
            sha256=row["sha256"],
            compared=folder / row.get("scaled", row["video"]),
        )
        for row in rows
    )
    return Prepared(name, digest, folder / rows[0]["clean"], variants, settings.codecs[0])


def _degrade(name: str, source: Path, folder: Path, settings: Settings) -> None:
    """Make the folder with its listing, in one piece: another run may be at the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        made = Path(parent) / folder.name
        made.mkdir()
        _degrade_into(made, name, source, settings)
        # It comes whole or not at all: one that is there is another run's, to the same end, and
        # removing it first would take it from under that run.
        try:
            made.rename(folder)
        except OSError as error:
            if not (folder / _LISTING).exists():
                raise MediaError(
                    f"{folder}: is no longer whole; remove it, and it is made again"
                ) from error


def _degrade_into(folder: Path, name: str, source: Path, settings: Settings) -> None:
    problems: list[str] = []
    try:
        rows = degrade(
            {name: source},
            folder,
            settings,
            on_clip=lambda _clip, error: problems.append(error) if error else None,
        )
    except MediaError as error:
        raise MediaError(problems[0] if problems else str(error)) from error
    shutil.rmtree(folder / "packs", ignore_errors=True)  # only training wants them
    clean = read_clip(folder / rows[0]["clean"]).luma
    for row in rows:
        compared = read_clip(folder / row.get("scaled", row["video"])).luma
        row["decode_psnr"] = float(np.mean(psnr_per_frame(clean, compared)))
        row["sha256"] = sha256_of(folder / row["video"])
    write_json(folder / _LISTING, rows)


def find_columns(clips: Sequence[Prepared], *, every: bool = False) -> list[Column]:
    """Return the distinct columns as (CRF, caps), caps that no clip felt joined, loosest first.

    Only the first cap of each column is measured.
    """
    pairs = {(v.crf, v.cap) for clip in clips for v in clip.variants}
    felt = {(v.crf, v.cap) for clip in clips for v in clip.variants if v.cap_felt}
    columns: list[Column] = []
    for crf in sorted({crf for crf, _ in pairs}, key=lambda crf: crf or 0):
        caps = sorted((cap for other, cap in pairs if other == crf), key=lambda cap: -(cap or 0))
        free = tuple(cap for cap in caps if (crf, cap) not in felt)
        if every or len(free) < 2:
            columns += [(crf, (cap,)) for cap in caps]
        else:
            columns.append((crf, free))
            columns += [(crf, (cap,)) for cap in caps if cap not in free]
    return columns


def column_spread(clips: Sequence[Prepared], columns: Sequence[Column]) -> float:
    spread = 0.0
    for clip in clips:
        for crf, caps in columns:
            values = [v.decode_psnr for v in clip.variants if v.crf == crf and v.cap in caps]
            spread = max(spread, max(values) - min(values))
    return spread
