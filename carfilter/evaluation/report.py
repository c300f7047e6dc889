"""One self-contained HTML page of an evaluation: tables, plots, pictures; it loads nothing.

The template beside this module (report.html.j2) holds layout, style and the little script.
"""

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import CarfilterError
from carfilter.evaluation.detection_scores import DetectionScores
from carfilter.evaluation.evaluate import ClipResult, Evaluation, Result
from carfilter.evaluation.measures import busiest_square, shown_frame, unpack_boxes
from carfilter.evaluation.plots import quality_over_rate, quality_over_time
from carfilter.evaluation.record import Record
from carfilter.evaluation.tables import DECODE, Table, column_label, find_result, row_names
from carfilter.evaluation.verdicts import Verdict

CLEAN = "clean"
_BOX_SCORE = 0.25  # doubtful boxes would hide the picture
_SHOWN_CLIPS = 8  # with pictures, so that the page stays within some twenty megabytes

Picture = npt.NDArray[np.uint8]


def page(
    tables: Sequence[Table],
    evaluation: Evaluation,
    record: Record,
    verdicts: Sequence[Verdict],
    found: DetectionScores | None,
    every: int = 1,
) -> str:
    """Return the whole page as text.

    Args:
        every: on which frames the detector ran; the pictures show one of them.

    Raises:
        CarfilterError: jinja2 or matplotlib is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise CarfilterError("--report needs jinja2; pip install carfilter[eval]") from error
    text = files("carfilter.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown = [clip for clip in evaluation.clips if "picture" in clip.clean][:_SHOWN_CLIPS]
    return environment.from_string(text).render(
        tables=[table for table in tables if not table.key.startswith("paper")],
        paper_tables=[table for table in tables if table.key.startswith("paper")],
        evaluation=evaluation,
        frames=sum(clip.frames for clip in evaluation.clips),
        record=record,
        verdicts=verdicts,
        over_rate=quality_over_rate(evaluation),
        over_time=[
            (clip.name, quality_over_time(clip, evaluation.columns)) for clip in evaluation.clips
        ],
        viewer=_json(_viewer(shown, evaluation, found, every)),
        has_pictures=bool(shown),
        details=_details(shown, evaluation),
        rows=row_names(evaluation),
    )


def _json(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def _viewer(
    clips: Sequence[ClipResult],
    evaluation: Evaluation,
    found: DetectionScores | None,
    every: int,
) -> dict[str, Any]:
    """Return what the slider's script needs: pictures as data URIs, boxes, names."""
    content: dict[str, Any] = {"clips": [], "rows": [*row_names(evaluation), CLEAN]}
    for clip in clips:
        index = shown_frame(clip.frames, every)
        views = []
        for column in evaluation.columns:
            result = find_result(clip, column)
            if result is not None:
                label = column_label(column, evaluation.columns)
                views.append(_view(label, result, found, index, every))
        content["clips"].append(
            {
                "name": clip.name,
                "width": clip.width,
                "height": clip.height,
                "frame": index,
                "clean": _uri(clip.clean["picture"]),
                "cleanBoxes": _boxes(clip.clean, found, index, every),
                "views": views,
            }
        )
    return content


def _view(
    label: str,
    result: Result,
    found: DetectionScores | None,
    index: int,
    every: int,
) -> dict[str, Any]:
    sides = {
        row: {
            "uri": _uri(values["picture"]),
            "boxes": _boxes(values, found, index, every),
            "psnr": round(values["psnr"][index], 2),
            "ssim": round(values["ssim"][index], 4),
        }
        for row, values in result.rows.items()
    }
    return {"label": label, "kbps": round(result.variant.kbps, 1), "rows": sides}


def _uri(encoded: str) -> str:
    return f"data:image/webp;base64,{encoded}"


def _boxes(
    values: dict[str, Any], found: DetectionScores | None, index: int, every: int
) -> list[list[Any]]:
    """Return [left, top, width, height, label] of the boxes that are sure enough to be drawn."""
    if found is None or found.judge.value not in values:
        return []
    boxes = unpack_boxes(values[found.judge.value][index // every])
    boxes = boxes.select(boxes.scores >= _BOX_SCORE)
    rows = []
    for corners, score, kind in zip(boxes.corners, boxes.scores, boxes.classes, strict=True):
        left, top, right, bottom = (round(float(side), 1) for side in corners)
        label = f"{found.judge.names.get(int(kind), '?')} {score:.2f}"
        rows.append([left, top, round(right - left, 1), round(bottom - top, 1), label])
    return rows


def _details(clips: Sequence[ClipResult], evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the sections of details; chosen without a look at any row, they favour none."""
    return [
        {
            "id": "patches",
            "title": "One detail, all variants",
            "about": "The square in which the strongest compression is farthest from the clean"
            " frame, whatever the filters make of it.",
            "patches": [_patch(clip, evaluation, _most_harmed(clip, evaluation)) for clip in clips],
        },
        {
            "id": "moving",
            "title": "What moves, all variants",
            "about": "The square in which the clean clip moves most: here a filter that borrows"
            " from other frames would leave ghosts.",
            "patches": [_patch(clip, evaluation, clip.clean["moving"]) for clip in clips],
        },
    ]


def _most_harmed(clip: ClipResult, evaluation: Evaluation) -> Sequence[int]:
    results = [find_result(clip, column) for column in evaluation.columns]
    worst = [result for result in results if result is not None][-1]
    clean, coded = (
        _decode(values["picture"]).astype(np.int16) for values in (clip.clean, worst.rows[DECODE])
    )
    return busiest_square(np.abs(clean - coded).sum(axis=2))


def _patch(clip: ClipResult, evaluation: Evaluation, square: Sequence[int]) -> dict[str, Any]:
    """Return a square, given as top, left and size, in all variants of a clip."""
    clean = _decode(clip.clean["picture"])
    results = [
        (column_label(column, evaluation.columns), result)
        for column in evaluation.columns
        if (result := find_result(clip, column)) is not None
    ]
    top, left, size = square

    def cut(picture: Picture) -> str:
        return _encode(picture[top : top + size, left : left + size])

    lines = [
        (row, [cut(_decode(result.rows[row]["picture"])) for _, result in results])
        for row in row_names(evaluation)
    ]
    return {
        "name": clip.name,
        "labels": [label for label, _ in results],
        "lines": lines,
        "clean": cut(clean),
        "place": f"{size}x{size} pixels at {left},{top}",
        "size": size,
    }


def _decode(encoded: str) -> Picture:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image.convert("RGB"))


def _encode(picture: Picture) -> str:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stored, "WEBP", lossless=True)
    return _uri(base64.b64encode(stored.getvalue()).decode())
