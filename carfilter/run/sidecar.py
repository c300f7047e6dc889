"""TARGET.json: checksums and settings by which a result can be repeated."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from carfilter import __version__
from carfilter.errors import CarfilterError, MediaError
from carfilter.media.opening import is_url, place_of, sha256_of
from carfilter.media.segments import FORMATS as SEGMENT_FORMATS
from carfilter.media.source import library_versions
from carfilter.restore.weights import Model
from carfilter.unfinished import (
    check_name,
    check_outputs,
    is_stdout,
    is_written_through,
    written_whole,
)

if TYPE_CHECKING:
    from carfilter.media.options import TargetOptions
    from carfilter.run.account import Run
    from carfilter.run.options import FilterOptions


logger = logging.getLogger("carfilter")


def sidecar_of(target: Path) -> Path:
    """Return where the sidecar of a target lies."""
    return target.with_name(f"{target.name}.json")


def check_sidecar(source: str | Path, target: str | Path, options: TargetOptions) -> None:
    """Refuse before the work what would fail after it, or cost the source.

    Raises:
        MediaError: the target is no single file, a file of the sidecar's name exists or is the
            source, or that name is too long.
    """
    if options.format in SEGMENT_FORMATS:
        raise MediaError("--sidecar describes one file; leave it out with -f segment")
    if is_stdout(target) or is_url(target) or is_written_through(Path(target)):
        raise MediaError(f"{target}: is no file that --sidecar could describe; leave it out")
    path = sidecar_of(Path(target))
    check_name(path)
    check_outputs([path], [place_of(source)])
    if path.exists() and not options.overwrite:
        raise MediaError(f"{path}: exists already; give -y to replace it, or leave out --sidecar")


def is_sidecar(target: Path) -> bool:
    """Say whether a sidecar lies beside a target that carfilter has written for that name."""
    try:
        record = json.loads(sidecar_of(target).read_bytes())
        return "carfilter" in record and record["target"]["name"] == target.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def drop_stale_sidecar(target: Path) -> None:
    """Remove the sidecar of a result that was replaced: it is true of nothing any more."""
    if is_sidecar(target):
        sidecar_of(target).unlink()
        logger.warning(
            "%s: described what was replaced and is removed; --sidecar writes a new one",
            sidecar_of(target),
        )


def write_sidecar(
    run: Run, source: Path, target: Path, model: Model | None, options: FilterOptions
) -> None:
    """Write TARGET.json beside the target."""
    from importlib.metadata import version  # only here: it is slow to load

    record = {
        "carfilter": __version__,
        "libraries": library_versions(),
        "torch": version("torch"),
        "source": {"name": source.name, "sha256": sha256_of(source) if source.is_file() else None},
        "target": {"name": target.name, "sha256": sha256_of(target)},
        "weights": None if model is None else {"name": model.name, "sha256": model.sha256},
        "engine": run.engine,
        "frames": run.frames,
        "damaged": run.damaged,
        "repaired_timestamps": run.repaired,
        "clock_jumps": run.jumps,
        "changed_frames": run.changed,
        "reconnects": run.reconnects,
        "passed_unrestored": run.passed,
        "mean_qp": run.mean_qp,
        "qp_measured": run.qp_measured,
        "qp_converted": run.qp_converted,
        "options": asdict(options),
    }
    # JSON has no infinite numbers: null is what stands for never.
    record = json.loads(json.dumps(record), parse_constant=lambda _name: None)
    path = sidecar_of(target)
    try:
        with written_whole(path) as part:
            part.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise CarfilterError(
            f"{path}: cannot be written ({error.strerror}); {target.name} is complete"
        ) from error
