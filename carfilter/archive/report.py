"""A page about an archive: totals, failures, each file's verdict, a piece before and after."""

from __future__ import annotations

import html
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carfilter import __version__
from carfilter.archive.book import Book
from carfilter.archive.events import Totals
from carfilter.archive.plan import Found
from carfilter.archive.pool import Pool
from carfilter.archive.schedule import run_jobs
from carfilter.archive.state import DONE, Row
from carfilter.archive.worker import THUMBNAILS, Job
from carfilter.errors import CarfilterError
from carfilter.pages.numbers import size_text
from carfilter.unfinished import written_whole

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.totals { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0 }
.totals li { list-style: none; border: 1px solid #8885; border-radius: .5rem; padding: .5rem 1rem }
.totals b { display: block; font-size: 1.3rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .5rem; border-top: 1px solid #8885 }
td.number, th.number { text-align: right; white-space: nowrap }
td.path { overflow-wrap: anywhere; min-width: 12rem }
.failed { color: #c62828; font-weight: 600 } .damaged { color: #b26a00; font-weight: 600 }
td.pair { white-space: nowrap; width: 1% }
figure { display: inline-block; margin: 0 .5rem .25rem 0 } figcaption { font-size: .8rem }
img { display: block; border-radius: .25rem }
@media (prefers-color-scheme: dark) { .failed { color: #ff8a80 } .damaged { color: #ffc36b } }
"""


def write_report(
    path: Path,
    videos: Sequence[Found],
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
    shown = [(found, book.row(found)) for found in videos if found.key in book.rows]
    done = [(found, row) for found, row in shown if row.status == DONE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [_thumbnail_job(f, r, folder, template) for f, r in done]
        missing = [job for job in jobs if job.thumbnails and not job.thumbnails[1].exists()]
        run_jobs(pool, missing, stop, lambda *_: None)
        with written_whole(path) as part:
            part.write_text(_page(shown, totals, folder), "utf-8", "backslashreplace")
    except OSError as error:
        raise CarfilterError(f"{path}: cannot be written ({error.strerror})") from error


def _thumbnails(row: Row, folder: Path) -> tuple[Path, Path]:
    # By content, so that a file done again gets new pictures.
    name = f"{row.content_sha256[:16]}-{row.target_size}"
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


def _page(shown: Sequence[tuple[Found, Row]], totals: Totals, folder: Path) -> str:
    counts = Counter(row.status for _, row in shown)
    failed = [row for _, row in shown if row.error]
    facts = {
        "videos": str(len(shown)),
        "restored": str(counts[DONE]),
        "with concealed damage": str(sum(r.damaged > 0 for _, r in shown if r.status == DONE)),
        "failed": str(len(failed)),
        "of video": _clock(sum(row.video_seconds or 0 for _, row in shown)),
        "frames": f"{sum(row.frames for _, row in shown if row.status == DONE):,}",
        "before": size_text(sum(row.size for _, row in shown if row.status == DONE)),
        "after": size_text(sum(row.target_size or 0 for _, row in shown if row.status == DONE)),
        "this run": _clock(totals.elapsed_seconds),
    }
    cards = "".join(f"<li><b>{value}</b>{name}</li>" for name, value in facts.items())
    failures = "".join(
        f"<tr><td class=path>{_text(row.path)}</td><td>{_text(row.error)}</td></tr>"
        for row in failed
    )
    table = (
        f"<h2>Failed</h2><table><tr><th>File<th>Reason</tr>{failures}</table>" if failures else ""
    )
    rows = "".join(_row(row, folder) for _, row in shown)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>carfilter-batch: {len(shown)} videos</title><style>{_STYLE}</style>"
        f"<h1>carfilter-batch {__version__}</h1><ul class=totals>{cards}</ul>{table}"
        "<h2>Files</h2><p>The pictures are the centre of the middle frame at its own size.</p>"
        "<table><tr><th>File<th>Verdict<th class=number>Frames<th class=number>Size before"
        f"<th class=number>Size after<th>Before and after</tr>{rows}</table></html>\n"
    )


def _row(row: Row, folder: Path) -> str:
    kind = "failed" if row.error else "damaged" if row.damaged else ""
    verdict = "failed" if row.error else (row.verdict or row.status)
    is_done = row.status == DONE
    pictures = "".join(
        f'<figure><img loading=lazy alt="{when}" src="{folder.name}/{image.name}">'
        f"<figcaption>{when}</figcaption></figure>"
        for when, image in zip(("before", "after"), _thumbnails(row, folder), strict=True)
        if is_done and image.exists()
    )
    cells = (
        str(row.frames) if is_done else "",
        size_text(row.size),
        size_text(row.target_size or 0) if is_done else "",
    )
    numbers = "".join(f"<td class=number>{cell}</td>" for cell in cells)
    return (
        f"<tr><td class=path>{_text(row.path)}</td><td class='{kind}'>{_text(verdict)}</td>"
        f"{numbers}<td class=pair>{pictures}</td></tr>"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
