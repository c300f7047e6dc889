"""Evaluations as Markdown for papers and repositories, as CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from carfilter.evaluation.detection_scores import DetectionScores
from carfilter.evaluation.evaluate import Evaluation
from carfilter.evaluation.measures import BOXES
from carfilter.evaluation.record import Record
from carfilter.evaluation.tables import (
    VALUES,
    Table,
    column_label,
    compressed_by,
    megabits,
    row_names,
    value_of,
)
from carfilter.evaluation.verdicts import Verdict

_MARKS = {True: "met", False: "**NOT MET**", None: "not tested"}


def markdown(
    tables: Sequence[Table],
    evaluation: Evaluation,
    record: Record,
    verdicts: Sequence[Verdict] = (),
) -> str:
    """Return a whole page: bars, notes, tables with the best in bold, how it was made."""
    parts = ["# Results", ""]
    for verdict in verdicts:
        parts.append(f"* {_MARKS[verdict.met]}: {verdict.sentence}")
    parts += [f"* {note}" for note in record.notes]
    for name, reason in evaluation.failures.items():
        parts.append(f"* FAILED, left out of every mean: {name}: {reason}")
    parts += ["", _reading(evaluation)]
    for table in tables:
        parts += ["", markdown_table(table)]
    parts += ["", *_how(evaluation, record)]
    return "\n".join(parts) + "\n"


def _reading(evaluation: Evaluation) -> str:
    count = len(evaluation.clips)
    frames = sum(clip.frames for clip in evaluation.clips)
    return (
        f"{count} clip{'s' if count != 1 else ''}, {frames} frames{compressed_by(evaluation)}. Each"
        " value is the mean over a clip's frames, then over the clips, each counted once. In"
        " brackets the gain over the decode; the best of a column is bold."
    )


def markdown_table(table: Table) -> str:
    """Return a table under its heading, with its notes."""
    lines = [f"## {table.title}", ""]
    lines.append(f"| {table.corner} | {' | '.join(table.columns)} |")
    lines.append(f"|---|{'---:|' * len(table.columns)}")
    for name, cells in table.rows:
        shown = []
        for index, cell in enumerate(cells):
            text, gain = table.text(cell), table.gain_text(cell) if cell.text is None else ""
            text = f"**{text}**" if table.is_best(cell, index) else text
            shown.append(f"{text} ({gain})" if gain else text)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    if table.notes:
        lines += ["", " ".join(table.notes)]
    return "\n".join(lines)


def _how(evaluation: Evaluation, record: Record) -> list[str]:
    lines = ["## How it was made", "", "```", record.command, "```", ""]
    if record.variants:
        lines += [f"Variants: {record.variants}", ""]
    if record.detector:
        lines += [f"Detector: {record.detector}", ""]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in record.versions.items()) + ".", ""]
    lines += ["| row | what | sha256 of the weights |", "|---|---|---|"]
    lines += [
        f"| {name} | {about} | {f'`{sha}`' if sha else ''} |" for name, about, sha in record.rows
    ]
    lines += ["", "| clean clip | frames | size | fps | sha256 |", "|---|---:|---|---:|---|"]
    lines += [
        f"| {clip.name} | {clip.frames} | {clip.width}x{clip.height} | {clip.fps:.5g} |"
        f" `{clip.sha256}` |"
        for clip in evaluation.clips
    ]
    return lines


def csv_text(evaluation: Evaluation) -> str:
    """Return a line per clip, column and row with every value that was measured."""
    out = io.StringIO()
    keys = [value.key for value in VALUES]
    head = ["clip", "codec", "crf", "caps", "kbps", "mean_qp", "video_sha256", "row", *keys]
    writer = csv.DictWriter(out, head, lineterminator="\n")
    writer.writeheader()
    for line in _lines(evaluation):
        writer.writerow(line)
    return out.getvalue()


def _lines(evaluation: Evaluation) -> list[dict[str, Any]]:
    lines = []
    for clip in evaluation.clips:
        for column in evaluation.columns:
            wanted = (column[0], column[1][0])
            for result in clip.results:
                variant = result.variant
                if (variant.crf, variant.cap) != wanted:
                    continue
                about = {
                    "clip": clip.name,
                    "codec": evaluation.codec,
                    "crf": variant.crf,
                    "caps": "" if variant.crf is None else "/".join(map(megabits, column[1])),
                    "kbps": round(variant.kbps, 2),
                    "mean_qp": variant.mean_qp,
                    "video_sha256": variant.sha256,
                }
                lines += [
                    {
                        **about,
                        "row": row,
                        **{v.key: value_of(clip, column, row, v) for v in VALUES},
                    }
                    for row in row_names(evaluation)
                ]
    return lines


def json_text(
    tables: Sequence[Table],
    evaluation: Evaluation,
    record: Record,
    verdicts: Sequence[Verdict] = (),
    found: Sequence[DetectionScores] = (),
) -> str:
    """Return everything: tables, values per clip and per frame, detections' scores, the record."""
    content = {
        "record": asdict(record),
        "bars": [asdict(verdict) for verdict in verdicts],
        "failures": evaluation.failures,
        "tables": [asdict(table) for table in tables],
        "detection": [line for one in found for line in _precisions(evaluation, one)],
        "values": _lines(evaluation),
        "frames": _frames(evaluation),
    }
    return json.dumps(_finite(content), indent=1) + "\n"


def _precisions(evaluation: Evaluation, found: DetectionScores) -> list[dict[str, Any]]:
    lines = []
    for (row, column), score in found.scores.items():
        interval = found.intervals.get((row, column))
        lines.append(
            {
                "detector": found.judge.title,
                "row": row,
                "column": column_label(column, evaluation),
                "map": score.mean,
                "classes": {name: asdict(value) for name, value in score.classes.items()},
                "minus_decode_95": None if interval is None else asdict(interval),
            }
        )
    return lines


def _frames(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "clip": clip.name,
            "crf": result.variant.crf,
            "cap": result.variant.cap,
            "row": row,
            "key_frames": list(result.key_frames),
            **{
                key: values
                for key, values in measured.items()
                if not key.startswith((BOXES, "picture"))
            },
        }
        for clip in evaluation.clips
        for result in clip.results
        for row, measured in result.rows.items()
    ]


def _finite(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
