"""Four pictures of a file, chosen well: how they were coded, and what the filter makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.inspection.sample import TYPES, Seen
from carfilter.media.frames import bit_depth, copy_luma
from carfilter.media.stills import Rgb, rgb_of, scaled_rgb
from carfilter.media.survey.reading import (
    Around,
    Sampled,
    Vectors,
    VideoPackets,
    motion_of,
    read_runs,
)
from carfilter.pictures import MACROBLOCK, Area, Blocks, Luma, Picture, QpMap, cropped
from carfilter.restore.planes import changed_blocks
from carfilter.restore.restorer import Restorer

_NEIGHBOURS = 2  # pictures to each side of a shown one that are decoded with it
_LATE = 16  # packets after a picture's own among which its neighbours are looked for
_WIDEST = 1032  # pixels of a page, for whole pictures
_PIECE = (800, 448)  # pixels of what is compared at its own size
_MARGIN = 32  # pixels around it that the network sees as well
_AMPLIFIED = 8  # what the difference is multiplied by


@dataclass(frozen=True)
class Shown:
    """One picture of the page."""

    title: str
    seconds: float
    kind: str
    qp: float | None
    size: tuple[int, int]  # width, height
    whole: Rgb  # at most as wide as the page
    before: Rgb  # a piece at its own size
    after: Rgb
    difference: Rgb
    place: tuple[int, int]  # left and top of the piece
    change: float  # of the piece's luma, root of the mean square, levels at 8 bits
    qp_map: QpMap | None
    unchanged: Blocks | None
    vectors: Vectors | None
    has_vectors: bool  # its decoder exports them


@dataclass
class _Found:
    """A decoded picture, and what is kept of it."""

    picture: Picture
    frame: Any = None  # av.VideoFrame of a shown picture
    vectors: Vectors | None = None


def choose(seen: Sequence[Seen]) -> list[tuple[str, Seen]]:
    """Return a key frame, the coarsest, the liveliest and a typical picture, no one twice."""
    chosen: list[tuple[str, Seen]] = []

    def take(title: str, among: Sequence[Seen], rank: Any) -> None:
        left = [s for s in among if all(s is not other for _, other in chosen)]
        if left:
            chosen.append((title, max(left, key=rank)))

    middle = seen[len(seen) // 2].seconds if seen else 0.0
    between = [s for s in seen if not s.is_key and s.changed is not None]
    take("A key frame", [s for s in seen if s.is_key], lambda s: -abs(s.seconds - middle))
    take("The coarsest", [s for s in seen if s.qp is not None], lambda s: s.qp)
    take("The liveliest", between, lambda s: s.changed)
    usual = _usual(between)
    take(
        "A typical one",
        between,
        lambda s: -sum(abs(a - b) for a, b in zip(_traits(s), usual, strict=True)),
    )
    return chosen


def _traits(seen: Seen) -> tuple[float, float]:
    return (seen.qp or 0.0) / 10, seen.changed or 0.0


def _usual(seen: Sequence[Seen]) -> tuple[float, float]:
    if not seen:
        return 0.0, 0.0
    qp, changed = np.median([_traits(s) for s in seen], axis=0)
    return float(qp), float(changed)


def shown_pictures(
    path: Path, packets: VideoPackets, seen: Sequence[Seen], restorer: Restorer
) -> Iterator[Shown]:
    """Decode the chosen pictures with those around them, restore them, and yield them.

    Restored from a few pictures around and the key frames before and after: the filter sees more
    of them, and averages over more.
    """
    chosen = choose(seen)
    plans = [_Plan(packets, one.seconds) for _, one in chosen]
    found, has_vectors = _decoded(path, plans, {_tick(one.seconds) for _, one in chosen})
    for (title, one), plan in zip(chosen, plans, strict=True):
        mine = found.get(_tick(one.seconds))
        if mine is None or mine.frame is None:
            continue
        around = [found[at] for at in plan.wanted if at in found]
        around = [f for f in around if f.picture.luma.shape == mine.picture.luma.shape]
        before = found.get(plan.previous) if plan.previous is not None else None
        yield _shown(title, one, mine, around, before, restorer, has_vectors=has_vectors)


def _tick(seconds: float) -> int:
    return round(seconds * 1e5)


class _Plan:
    """Which packets a shown picture needs, and which pictures it is restored with."""

    def __init__(self, packets: VideoPackets, seconds: float) -> None:
        times = packets.seconds
        keys = np.flatnonzero(np.frombuffer(bytes(packets.keys), np.uint8))
        mine = int(np.argmin(np.nan_to_num(np.abs(times - seconds), nan=np.inf)))
        earlier = keys[keys <= mine]
        first = int(earlier[-1]) if len(earlier) else 0
        order = first + np.argsort(times[first : mine + _LATE], kind="stable")
        at = int(np.flatnonzero(order == mine)[0])
        near = order[max(at - _NEIGHBOURS, 0) : at + _NEIGHBOURS + 1]
        later = keys[keys > int(near.max())]
        around = [int(key) for key in (*earlier[-2:-1], *later[:1])]
        self.runs = [Around(first, int(near.max())), *(Around(key, key) for key in around)]
        wanted = {int(i) for i in near} | {first, *around}
        self.wanted = sorted(_tick(times[i]) for i in wanted if not np.isnan(times[i]))
        self.previous = _tick(times[order[at - 1]]) if at else None


def _merged(runs: Sequence[Around]) -> list[Around]:
    merged: list[Around] = []
    for run in sorted(runs, key=lambda run: (run.first, run.last)):
        if merged and run.first <= merged[-1].last + 1:
            merged[-1] = Around(merged[-1].first, max(merged[-1].last, run.last))
        else:
            merged.append(run)
    return merged


def _decoded(path: Path, plans: Sequence[_Plan], shown: set[int]) -> tuple[dict[int, _Found], bool]:
    wanted = {at for plan in plans for at in plan.wanted}
    found: dict[int, _Found] = {}
    has_vectors = False
    for sampled in read_runs(path, _merged([r for p in plans for r in p.runs]), vectors=True):
        at = _tick(sampled.seconds)
        vectors = motion_of(sampled.decoded.frame)
        has_vectors = has_vectors or vectors is not None
        if at in wanted:
            found[at] = _Found(_picture(sampled))
            if at in shown:
                found[at].frame, found[at].vectors = sampled.decoded.frame, vectors
    return found, has_vectors


def _picture(sampled: Sampled) -> Picture:
    frame, decoded = sampled.decoded.frame, sampled.decoded
    return Picture(
        copy_luma(frame),
        bit_depth(frame.format),
        decoded.qp,
        frame_type=decoded.frame_type,
        interlaced=frame.interlaced_frame,
    )


def _shown(
    title: str,
    seen: Seen,
    mine: _Found,
    around: Sequence[_Found],
    before: _Found | None,
    restorer: Restorer,
    *,
    has_vectors: bool,
) -> Shown:
    assert mine.frame is not None
    picture, frame = mine.picture, mine.frame
    last = before.picture.luma if before is not None else None
    changed = None
    if last is not None and last.shape == picture.luma.shape:
        changed = changed_blocks(picture.luma, last)
    inner, outer = _piece_of(picture.luma, changed if title == "The liveliest" else None)
    pieces = [cropped(f.picture, outer) for f in around]
    own = next(i for i, f in enumerate(around) if f is mine)
    restored = [luma.copy() for luma in restorer.restore(iter(pieces))][own]
    whole, decoded = scaled_rgb(frame, _WIDEST), rgb_of(frame)
    luma = picture.luma.copy()
    luma[outer[0] : outer[2], outer[1] : outer[3]] = restored
    after = rgb_of(frame, luma)
    rows, columns = slice(inner[0], inner[2]), slice(inner[1], inner[3])
    apart = luma[rows, columns].astype(np.float32) - picture.luma[rows, columns]
    apart /= 1 << (picture.depth - 8)
    gray = np.clip(np.rint(128 + _AMPLIFIED * apart), 0, 255).astype(np.uint8)
    return Shown(
        title=title,
        seconds=seen.seconds,
        kind=TYPES.get(picture.frame_type, ""),
        qp=seen.qp,
        size=(frame.width, frame.height),
        whole=whole,
        before=decoded[rows, columns],
        after=after[rows, columns],
        difference=np.repeat(gray[..., None], 3, axis=2),
        place=(inner[1], inner[0]),
        change=float(np.sqrt(np.square(apart).mean())),
        qp_map=picture.qp,
        unchanged=None if changed is None else ~changed,
        vectors=mine.vectors,
        has_vectors=has_vectors,
    )


def _piece_of(luma: Luma, changed: Blocks | None) -> tuple[Area, Area]:
    """Return the piece with most detail, or most change, and the same with a margin; both lie on
    the macroblock grid or end with the picture."""
    height, width = luma.shape
    high, wide = min(_PIECE[1], height), min(_PIECE[0], width)
    energy = _detail(luma) if changed is None else changed.astype(np.float32)
    rows, columns = (
        min(-(-side // MACROBLOCK), e) for side, e in zip((high, wide), energy.shape, strict=True)
    )
    total = np.pad(energy.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = (
        total[rows:, columns:]
        - total[:-rows, columns:]
        - total[rows:, :-columns]
        + total[:-rows, :-columns]
    )
    top, left = (int(i) * MACROBLOCK for i in np.unravel_index(int(sums.argmax()), sums.shape))
    top = min(top, (height - high) // MACROBLOCK * MACROBLOCK)
    left = min(left, (width - wide) // MACROBLOCK * MACROBLOCK)
    inner = (top, left, top + high, left + wide)
    outer = (
        max(top - _MARGIN, 0),
        max(left - _MARGIN, 0),
        min(top + high + _MARGIN, height),
        min(left + wide + _MARGIN, width),
    )
    return inner, outer


def _detail(luma: Luma) -> npt.NDArray[np.float32]:
    """Return how much neighbouring samples differ in each macroblock."""
    apart = np.abs(np.diff(luma.astype(np.int32), axis=1, append=luma[:, -1:].astype(np.int32)))
    tall = np.add.reduceat(apart, np.arange(0, luma.shape[0], MACROBLOCK), 0)
    blocks: npt.NDArray[np.float32] = np.add.reduceat(
        tall, np.arange(0, luma.shape[1], MACROBLOCK), 1
    ).astype(np.float32)
    return blocks
