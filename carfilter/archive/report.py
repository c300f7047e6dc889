"""A page about an archive: totals, failures, each file's verdict, a piece before and after."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carfilter import __version__
from carfilter.archive.book import Book
from carfilter.archive.events import Totals
from carfilter.archive.plan import Found, Scan
from carfilter.archive.pool import Pool
from carfilter.archive.schedule import run_jobs
from carfilter.archive.state import DONE, Row
from carfilter.archive.worker import THUMBNAILS, Job
from carfilter.errors import CarfilterError
from carfilter.pages.document import read_part, render
from carfilter.pages.numbers import clock, size_text
from carfilter.unfinished import written_whole


def write_report(
    path: Path,
    scan: Scan,
    book: Book,
    totals: Totals,
    pool: Pool,
    template: Job,
    stop: threading.Event,
) -> None:
    """Write the page, and its pictures into the folder NAME_files beside it.

    Pictures lie beside the page and not in it, since ten thousand pairs make no page a browser
    opens. Those that exist from an earlier run are kept.

    Raises:
        CarfilterError: it cannot be written.
    """
    folder = path.with_name(f"{path.stem}_files")
    shown = [(found, book.row(found)) for found in scan.videos if found.key in book.rows]
    done = [(found, row) for found, row in shown if row.status == DONE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [_thumbnail_job(f, r, folder, template) for f, r in done]
        missing = [job for job in jobs if job.thumbnails and not job.thumbnails[1].exists()]
        run_jobs(pool, missing, stop, lambda *_: None)
        with written_whole(path) as part:
            part.write_text(_page(shown, scan.left, totals, folder), "utf-8", "backslashreplace")
    except OSError as error:
        raise CarfilterError(f"{path}: cannot be written ({error.strerror})") from error


def _thumbnails(row: Row, folder: Path) -> tuple[Path, Path]:
    # By all that makes the result, so that a file done again gets new pictures.
    made = f"{row.target} {row.target_size} {row.weights_sha256} {row.options}"
    name = f"{row.content_sha256[:16]}-{hashlib.sha256(made.encode()).hexdigest()[:16]}"
    return folder / f"{name}-before.png", folder / f"{name}-after.png"


def _thumbnail_job(found: Found, row: Row, folder: Path, template: Job) -> Job:
    begin = template.options.source.start_seconds or 0.0
    return replace(
        template,
        action=THUMBNAILS,
        key=found.key,
        source=found.source,
        target=found.target,
        thumbnails=_thumbnails(row, folder),
        start_seconds=begin + (row.video_seconds or 0.0) / 2,
    )


def _page(
    shown: Sequence[tuple[Found, Row]],
    left: Sequence[tuple[str, str]],
    totals: Totals,
    folder: Path,
) -> str:
    counts = Counter(row.status for _, row in shown)
    failed = [row for _, row in shown if row.error]
    facts = {
        "videos": str(len(shown)),
        "restored": str(counts[DONE]),
        "with concealed damage": str(sum(r.damaged > 0 for _, r in shown if r.status == DONE)),
        "failed": str(len(failed)),
        "of video": clock(sum(row.video_seconds or 0 for _, row in shown)),
        "frames": f"{sum(row.frames for _, row in shown if row.status == DONE):,}",
        "before": size_text(sum(row.size for _, row in shown if row.status == DONE)),
        "after": size_text(sum(row.target_size or 0 for _, row in shown if row.status == DONE)),
        "this run": clock(totals.elapsed_seconds),
    }
    return render(
        "archive",
        "page.html.j2",
        style=read_part("style.css"),
        version=__version__,
        facts=facts,
        reasons={
            "Failed": [(row.path, row.error) for row in failed],
            "Left alone": left,
        },
        rows=[_row(row, folder) for _, row in shown],
    )


def _row(row: Row, folder: Path) -> dict[str, Any]:
    is_done = row.status == DONE
    pictures = zip(("before", "after"), _thumbnails(row, folder), strict=True)
    return {
        "path": row.path,
        "kind": "failed" if row.error else "damaged" if row.damaged else "",
        "verdict": "failed" if row.error else (row.verdict or row.status),
        "numbers": (
            str(row.frames) if is_done else "",
            size_text(row.size),
            size_text(row.target_size or 0) if is_done else "",
        ),
        "pictures": [
            (when, quote(bytes(Path(folder.name, image.name))))
            for when, image in pictures
            if is_done and image.exists()
        ],
    }
