"""One self-contained HTML page of an evaluation: tables, plots, pictures; it loads nothing.

The template beside this module (report.html.j2) holds its layout, pages/ what it shares.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.evaluation.detection_scores import DetectionScores
from carfilter.evaluation.evaluate import ClipResult, Evaluation, Result
from carfilter.evaluation.measures import busiest_square, shown_frame, unpack_boxes
from carfilter.evaluation.plots import quality_over_rate, quality_over_time
from carfilter.evaluation.record import Record
from carfilter.evaluation.tables import (
    DECODE,
    Table,
    column_label,
    compressed_by,
    find_result,
    row_names,
)
from carfilter.evaluation.verdicts import Verdict
from carfilter.media.stills import webp_within
from carfilter.pages.document import data_uri, read_part, render, script_json

CLEAN = "clean"
_BOX_SCORE = 0.25  # doubtful boxes would hide the picture
_SHOWN_CLIPS = 8  # with pictures
_WIDEST = 1032  # pixels that the page has for a picture
# Of all pictures: the page stays within eight megabytes, and its text form is a third longer.
_PICTURES_BYTES, _DETAILS_BYTES, _FLOW_BYTES = 4_000_000, 1_200_000, 400_000

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
        CarfilterError: matplotlib is missing.
    """
    shown = [clip for clip in evaluation.clips if "picture" in clip.clean][:_SHOWN_CLIPS]
    return render(
        "evaluation",
        "report.html.j2",
        style=read_part("style.css"),
        script=read_part("compare.js"),
        tables=[table for table in tables if not table.key.startswith("paper")],
        paper_tables=[table for table in tables if table.key.startswith("paper")],
        evaluation=evaluation,
        compressed_by=compressed_by(evaluation),
        frames=sum(clip.frames for clip in evaluation.clips),
        record=record,
        verdicts=verdicts,
        over_rate=quality_over_rate(evaluation),
        over_time=[(clip.name, quality_over_time(clip, evaluation)) for clip in evaluation.clips],
        viewer=script_json(_viewer(shown, evaluation, found, every)),
        has_pictures=bool(shown),
        details=_details(shown, evaluation),
        rows=row_names(evaluation),
    )


def _viewer(
    clips: Sequence[ClipResult],
    evaluation: Evaluation,
    found: DetectionScores | None,
    every: int,
) -> dict[str, Any]:
    """Return what the slider's script needs: pictures as data URIs, boxes, names."""
    light = _lightened(clips, evaluation)
    content: dict[str, Any] = {"clips": [], "rows": [*row_names(evaluation), CLEAN]}
    for clip in clips:
        index = shown_frame(clip.frames, every)
        views = []
        for column in evaluation.columns:
            result = find_result(clip, column)
            if result is not None:
                label = column_label(column, evaluation)
                views.append(_view(label, result, found, index, every, light))
        content["clips"].append(
            {
                "name": clip.name,
                "width": clip.width,
                "height": clip.height,
                "frame": index,
                "clean": light[clip.clean["picture"]],
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
    light: dict[str, str],
) -> dict[str, Any]:
    sides = {
        row: {
            "uri": light[values["picture"]],
            "boxes": _boxes(values, found, index, every),
            "psnr": round(values["psnr"][index], 2),
            "ssim": round(values["ssim"][index], 4),
        }
        for row, values in result.rows.items()
    }
    return {"label": label, "kbps": round(result.variant.kbps, 1), "rows": sides}


def _lightened(clips: Sequence[ClipResult], evaluation: Evaluation) -> dict[str, str]:
    """Return what the page shows for each stored picture, which is without loss and of full size:
    as large as the page shows it, all pictures of a clip with the same loss."""
    groups = [list(dict.fromkeys(_stored(clip, evaluation))) for clip in clips]
    most = _PICTURES_BYTES // max(sum(map(len, groups)), 1)
    light: dict[str, str] = {}
    for group in groups:
        encoded = webp_within([_shrunk(_decode(stored)) for stored in group], most)
        light |= dict(zip(group, map(data_uri, encoded), strict=True))
    return light


def _stored(clip: ClipResult, evaluation: Evaluation) -> Iterator[str]:
    yield clip.clean["picture"]
    for column in evaluation.columns:
        result = find_result(clip, column)
        if result is not None:
            yield from (values["picture"] for values in result.rows.values())


def _shrunk(picture: Picture) -> Picture:
    from PIL import Image

    height, width = picture.shape[:2]
    if width <= _WIDEST:
        return picture
    size = (_WIDEST, round(height * _WIDEST / width))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


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
    count = sum(1 for clip in clips for _ in _stored(clip, evaluation))
    most = _DETAILS_BYTES // max(2 * count, 1)
    return [
        {
            "id": "patches",
            "title": "One detail, all variants",
            "about": "The square in which the strongest compression is farthest from the clean"
            " frame, whatever the filters make of it.",
            "patches": [
                _patch(clip, evaluation, _most_harmed(clip, evaluation), most) for clip in clips
            ],
        },
        {
            "id": "moving",
            "title": "What moves, all variants",
            "about": "The square in which the clean clip moves most: here a filter that borrows"
            " from other frames would leave ghosts.",
            "patches": [
                _patch(clip, evaluation, clip.clean["moving"], most)
                | _flow(clip, _FLOW_BYTES // len(clips))
                for clip in clips
            ],
        },
    ]


def _flow(clip: ClipResult, most: int) -> dict[str, Any]:
    """Return the motion to the shown frame of the clean clip, in at most so many bytes."""
    (encoded,) = webp_within([_decode(clip.clean["flow"])], most)
    return {"flow": data_uri(encoded), "fastest": clip.clean["fastest"], "width": clip.width}


def _most_harmed(clip: ClipResult, evaluation: Evaluation) -> Sequence[int]:
    results = [find_result(clip, column) for column in evaluation.columns]
    worst = [result for result in results if result is not None][-1]
    clean, coded = (
        _decode(values["picture"]).astype(np.int16) for values in (clip.clean, worst.rows[DECODE])
    )
    return busiest_square(np.abs(clean - coded).sum(axis=2))


def _patch(
    clip: ClipResult, evaluation: Evaluation, square: Sequence[int], most: int
) -> dict[str, Any]:
    """Return a square, given as top, left and size, in all variants of a clip.

    Args:
        most: bytes of each.
    """
    clean = _decode(clip.clean["picture"])
    results = [
        (column_label(column, evaluation), result)
        for column in evaluation.columns
        if (result := find_result(clip, column)) is not None
    ]
    top, left, size = square
    rows = row_names(evaluation)
    shown = [_decode(result.rows[row]["picture"]) for row in rows for _, result in results]
    pieces = [picture[top : top + size, left : left + size] for picture in (clean, *shown)]
    encoded = iter(map(data_uri, webp_within(pieces, most)))
    return {
        "name": clip.name,
        "labels": [label for label, _ in results],
        "clean": next(encoded),
        "lines": [(row, [next(encoded) for _ in results]) for row in rows],
        "place": f"{size}x{size} pixels at {left},{top}",
        "size": size,
    }


def _decode(encoded: str) -> Picture:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image.convert("RGB"))
