"""Where the page, the log and the database of an archive may go."""

import os
from collections.abc import Sequence
from pathlib import Path

from carfilter.archive.plan import Found
from carfilter.errors import CarfilterError
from carfilter.run.sidecar import sidecar_of
from carfilter.unfinished import check_outputs, check_writable, is_stdout


def check_run_outputs(
    videos: Sequence[Found],
    out_dir: Path,
    *,
    report: Path | None,
    log_json: str | None,
    state: Path,
) -> None:
    """Refuse what could not be written, or would cost a video, a result or another output.

    Args:
        log_json: "-" is stdout.

    Raises:
        CarfilterError: it names the first such output.
    """
    files = {"a page has pictures beside it": report, "a database is read again": state}
    for what, path in files.items():
        if path is not None and is_stdout(path):
            raise CarfilterError(f"{path}: {what} and goes into a file; give its name")
    log = None if log_json in (None, "-") else Path(str(log_json))
    outputs = [path for path in (report, log, state) if path is not None]
    check_outputs(outputs, (video.source for video in videos))
    targets = {video.target for video in videos}
    results = targets | {sidecar_of(target) for target in targets}
    for path in outputs:
        inside = os.path.relpath(os.path.realpath(path), os.path.realpath(out_dir))
        if path.parent.is_dir() or inside.startswith(os.pardir):  # OUT_DIR itself is made later
            check_writable(path)
        if out_dir / inside in results:
            raise CarfilterError(f"{path}: is the name of a result; write to another file")
