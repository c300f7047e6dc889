"""One HTML page of an inspection, which loads nothing: facts, charts, pictures before and after."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carfilter import __version__
from carfilter.inspection import layers
from carfilter.inspection.inspect import InspectOptions, Look
from carfilter.inspection.inspection import Inspection
from carfilter.inspection.shown import Shown, shown_pictures
from carfilter.inspection.summary import filter_lines, lines_of, stream_text
from carfilter.inspection.timing import rates_by_type
from carfilter.media.source import library_versions
from carfilter.media.stills import webp, webp_within
from carfilter.pages.charts import TYPE_COLOURS, dots, stacked
from carfilter.pages.document import data_uri, read_part, render
from carfilter.pages.numbers import clock

_WHOLE_BYTES, _PIECE_BYTES, _DIFFERENCE_BYTES = 100_000, 135_000, 60_000
_NAMES = {"I": "I, from itself", "P": "P, from earlier ones", "B": "B, from both sides"}


@dataclass(frozen=True)
class _Layer:
    """Something that can be laid over a picture."""

    key: str
    name: str
    uri: str = ""  # of a small picture, a pixel a block
    width: float = 100.0  # per cent of the picture that it covers
    height: float = 100.0
    path: str = ""  # or lines


def page(look: Look, options: InspectOptions, name: str = "page.html") -> str:
    """Return the page as text.

    Args:
        name: of the page, for the command that made it.
    """
    seen = look.inspection
    return render(
        "inspection",
        "page.html.j2",
        style=read_part("style.css"),
        script=read_part("compare.js"),
        seen=seen,
        name=seen.path.name,
        facts=[line for line in lines_of(seen) if not line[0].startswith("stream ")],
        streams=[(stream, stream_text(stream)) for stream in seen.streams],
        plan=[] if seen.filter is None else list(filter_lines(seen.filter)),
        charts=list(_charts(look)),
        types=[(_NAMES.get(k, k), TYPE_COLOURS[k]) for k in "IPB" if seen.coding.types.get(k)],
        pictures=[_picture(shown) for shown in _shown(look, options)],
        legend=layers.qp_legend(),
        block_legend=list(zip(layers.BLOCK_NAMES, layers.BLOCK_COLOURS, strict=True)),
        commands=_commands(seen, options, name),
        versions={"carfilter": __version__, **library_versions()},
    )


def _shown(look: Look, options: InspectOptions) -> list[Shown]:
    if look.inspection.filter is None or not look.seen:
        return []
    from carfilter.inspection.trial import load_model
    from carfilter.restore.restorer import RestoreOptions, Restorer

    model = load_model(options.weights)
    video = look.inspection.video
    restorer = Restorer(
        model,
        RestoreOptions(device=options.device, precision=options.precision),
        (video.height, video.width),
        codec=video.codec,
    )
    return list(shown_pictures(look.inspection.path, look.packets, look.seen, restorer))


def _charts(look: Look) -> Any:
    seen = look.inspection
    seconds = seen.times.seconds
    steps = rates_by_type(look.packets, seconds)
    if steps:
        kilobits = {kind: [rate / 1e3 for rate in rates] for kind, rates in steps.items()}
        most = max(seen.coding.rates) / 1e3
        about = f"bit rate over time by type of picture, {most:.0f} kb/s at most"
        yield "Bit rate, by the types of pictures", stacked(kilobits, seconds, "kb/s", about)
    start = min((s.seconds for s in look.seen), default=0.0)
    qps = [(s.seconds - start, s.qp, s.kind) for s in look.seen if s.qp is not None]
    if qps and seen.qp is not None:
        about = f"QP of the sampled pictures over time, {seen.qp.mean:.1f} on average"
        yield "QP of the pictures looked at", dots(qps, seconds, (0, 51), "", about)
    moved = [
        (s.seconds - start, 100 * s.changed, s.kind) for s in look.seen if s.changed is not None
    ]
    if moved:
        about = "share of macroblocks that differ from the picture before, over time"
        yield "Blocks that changed", dots(moved, seconds, (0, 100), "%", about)


def _picture(shown: Shown) -> dict[str, Any]:
    before, after = webp_within([shown.before, shown.after], _PIECE_BYTES)
    (whole,) = webp_within([shown.whole], _WHOLE_BYTES)
    (difference,) = webp_within([shown.difference], _DIFFERENCE_BYTES)
    return {
        "title": shown.title,
        "about": _about(shown),
        "width": shown.size[0],
        "height": shown.size[1],
        "whole": data_uri(whole),
        "before": data_uri(before),
        "after": data_uri(after),
        "difference": data_uri(difference),
        "piece": f"{shown.before.shape[1]}x{shown.before.shape[0]} pixels at"
        f" {shown.place[0]},{shown.place[1]}",
        "piece_width": shown.before.shape[1],
        "piece_height": shown.before.shape[0],
        "change": f"{shown.change:.2f}",
        "layers": list(_layers(shown)),
    }


def _about(shown: Shown) -> str:
    kind = f", {shown.kind}" if shown.kind else ""
    qp = "" if shown.qp is None else f", mean QP {shown.qp:.1f}"
    return f"at {clock(shown.seconds)} ({shown.seconds:.3f} s){kind}{qp}"


def _layers(shown: Shown) -> Any:
    if shown.qp_map is not None:
        yield _small("qp", "QP", layers.qp_layer(shown.qp_map), 16, shown.size)
    if shown.has_vectors:
        types = layers.block_types(shown.vectors, shown.size)
        yield _small("blocks", "block types", layers.block_layer(types), layers.CELL, shown.size)
    if shown.unchanged is not None:
        colours = layers.unchanged_layer(shown.unchanged)
        yield _small("still", "skipped or unchanged", colours, 16, shown.size)
    path = layers.motion_path(shown.vectors)
    if path:
        yield _Layer("motion", "motion", path=path)


def _small(key: str, name: str, colours: Any, pixels: int, size: tuple[int, int]) -> _Layer:
    rows, columns = colours.shape[:2]
    return _Layer(
        key,
        name,
        data_uri(webp(np.ascontiguousarray(colours))),
        100 * columns * pixels / size[0],
        100 * rows * pixels / size[1],
    )


def _commands(seen: Inspection, options: InspectOptions, name: str) -> list[tuple[str, str]]:
    file = shlex.quote(seen.path.name)
    given = [*(["--full"] if options.full else [])]
    given += ["--weights", shlex.quote(Path(options.weights).name)] if options.weights else []
    extra = f" {' '.join(given)}" if given else ""
    return [
        ("this page", f"carfilter-inspect {file} --html {shlex.quote(name)}{extra}"),
        ("the checksum of the file", f"sha256sum {file}"),
        (
            "those of its streams",
            f"ffmpeg -i {file} -map 0 -c copy -copyinkf -f streamhash -hash sha256 -",
        ),
        ("to look at the whole of it before and after", f"carfilter {file} compare.mp4 --compare"),
        ("to restore it", f"carfilter {file} restored.mp4 --sidecar"),
    ]
