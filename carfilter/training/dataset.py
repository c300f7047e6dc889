"""Clean and degraded crops for training, drawn from packs that lie wholly in memory.

All planes are one flat tensor on the training device, and a crop is a gather from it: the same
few lines serve a CPU and a GPU, there is no loader process, and the neighbours in time of a crop
are an offset away.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from carfilter.errors import MediaError
from carfilter.pairs.packs import NO_QP, Twin, list_packs, load_clean, load_twin
from carfilter.pictures import Picture
from carfilter.restore.motion.scene import Scene
from carfilter.restore.network import QP_UNKNOWN
from carfilter.restore.reuse import settle
from carfilter.restore.window import PAST_SLOTS, REFERENCES, Coding, choose

CROP_GRID = 16  # macroblocks; a multiple of the space-to-depth factor and of every transform size
_LEVELS = 128.0

# Where the planes of one twin begin in the flat tensors, and its shape.
_SHOT = np.dtype(
    [(name, "i8") for name in ("clean", "degraded", "qp", "frame", "frames", "height", "width")]
)

# Something to be seen on a clean frame: where its clip begins (as in _SHOT), the frame, its centre
# in pixels, and how often it is drawn compared with others.
THING = np.dtype(
    [("clean", "i8"), ("time", "i8"), ("row", "f4"), ("column", "f4"), ("weight", "f4")]
)


@dataclass(frozen=True)
class Pairs:
    """Every twin of a set of packs; see _SHOT for the table `shots`."""

    luma: Tensor  # uint8 [pixels], clean and degraded planes
    qp: Tensor  # int8 [macroblocks], 0..51 or negative for unknown
    error: Tensor  # float32 [degraded frames], mean squared error in squared grey levels
    shots: npt.NDArray[Any]
    # int32 [degraded frames, REFERENCES]: of each frame, the times in its shot that window.choose()
    # names, or its own
    references: npt.NDArray[np.int32]
    # int64, the same shape: where in `luma` the planes of these times begin, moved along the motion
    # as in the filter
    planes: npt.NDArray[np.int64]
    about: tuple[dict[str, Any], ...]  # of each shot, as its pack says
    things: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, THING))  # to aim at

    @property
    def frames(self) -> int:
        """Number of degraded frames."""
        return int(self.shots["frames"].sum())

    def to(self, device: torch.device) -> "Pairs":
        """Return the set with its tensors on a device."""
        luma, qp, error = (tensor.to(device) for tensor in (self.luma, self.qp, self.error))
        return replace(self, luma=luma, qp=qp, error=error)


@dataclass(frozen=True)
class Crops:
    """A batch for training."""

    clean: Tensor  # float32 [N, 1, S, S], (Y - 128) / 128
    degraded: Tensor  # the same of the compressed twin
    qp: Tensor  # float32 [N, 1, S, S], QP / 51 or QP_UNKNOWN
    error: Tensor  # float32 [N], error of the whole frame before restoration, squared grey levels
    references: Tensor | None = None  # float32 [N, R, S, S] of luma, degraded like the crop
    reference_qp: Tensor | None = None  # the same of QP

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the network is called with."""
        if self.references is None or self.reference_qp is None:
            return self.degraded, self.qp
        return self.degraded, self.qp, self.references, self.reference_qp


@dataclass(frozen=True)
class Sampling:
    """How crops are drawn."""

    crop: int = 64  # pixels, a multiple of 16
    hard: float = 0.5  # share of crops that are the worse of two places in the same frame
    qp_dropout: float = 0.2  # share of crops whose QP map is withheld
    transpose: bool = True  # turn by quarters and flip both ways, instead of left and right only
    references: bool = False  # draw them as well
    # Of a batch, shares whose references are all there, the past ones alone, or none; of the rest
    # each is there or not by the toss of a coin.
    whole: float = 0.42
    past: float = 0.4
    alone: float = 0.08
    # Share whose references show something else, as they do where a cut is missed. A network that
    # never met them answers with thousands of grey levels.
    strange: float = 0.05
    neighbours: bool = False  # the second half of a batch shows the first one a frame later
    aimed: float = 0.0  # share of crops with one of Pairs.things in them


# Shares of Sampling by what a network is for: whatever there is, past frames alone, or later ones
# too. One that is trained for one case holds more of it than one for all.
WINDOWS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "past": {"whole": 0.0, "past": 0.92, "alone": 0.08},
    "whole": {"whole": 0.82, "past": 0.08, "alone": 0.05},
}


def load_pairs(folder: Path, threads: int = 4, *, references: bool = False) -> Pairs:
    """Load every pack below a folder.

    Args:
        references: move them along the motion; up to seven times the memory. Else they are as they
            are, for networks that have none.

    Raises:
        MediaError: none there, or one is missing its other half, damaged or foreign.
    """
    packs = list_packs(folder)
    # These grow in place: lists of arrays, joined at the end, would take twice the memory.
    luma, maps = bytearray(), bytearray()
    errors: list[npt.NDArray[np.float32]] = []
    rows, about, times, planes = [], [], [], []
    frames = 0
    load = partial(_load_clip, references=references)
    with ThreadPoolExecutor(threads) as pool:  # inflating releases the interpreter lock
        for clean, twins in pool.map(load, packs.items()):
            start = len(luma)
            luma.extend(clean.data)
            for twin, error, chosen, moved in twins:
                begin = len(luma)
                rows.append((start, begin, len(maps), frames, *clean.shape))
                about.append(twin.about)
                luma.extend(twin.luma.data)
                own = begin + chosen.astype(np.int64) * clean[0].size
                for (at, slot), plane in moved.items():
                    own[at, slot] = len(luma)
                    luma.extend(plane.data)
                times.append(chosen)
                planes.append(own)
                maps.extend(twin.qp.data)
                errors.append(error)
                frames += len(error)
    return Pairs(
        luma=torch.frombuffer(luma, dtype=torch.uint8),
        qp=torch.frombuffer(maps, dtype=torch.int8),
        error=torch.from_numpy(np.concatenate(errors)),
        shots=np.array(rows, _SHOT),
        references=np.concatenate(times),
        planes=np.concatenate(planes),
        about=tuple(about),
    )


def _references_of(twin: Twin) -> npt.NDArray[np.int32]:
    known = (twin.qp != NO_QP).all((1, 2))
    codings = [
        Coding(int(kind), float(qp.mean()) if has_qp else None)
        for kind, qp, has_qp in zip(twin.types, twin.qp, known, strict=True)
    ]
    return np.array(
        [
            [at if index is None else index for index in choose(codings, at)]
            for at in range(len(codings))
        ],
        np.int32,
    )


def _moved_of(
    twin: Twin, references: npt.NDArray[np.int32]
) -> dict[tuple[int, int], npt.NDArray[Any]]:
    """Return the references, by time and slot, that are not as they are, but moved."""
    scene, moved = Scene(), {}
    for at, (luma, qp) in enumerate(zip(twin.luma, twin.qp, strict=True)):
        scene.add(at, luma, 8, None if (qp == NO_QP).any() else float(qp.mean()))
    for at, times in enumerate(references.tolist()):
        for slot, time in enumerate(times):
            plane = twin.luma[at] if time == at else scene.moved(at, time)
            if not np.shares_memory(plane, twin.luma):
                moved[at, slot] = plane
    return moved


# A twin, the error of each frame, its references, and those that were moved.
_LoadedTwin = tuple[
    Twin,
    npt.NDArray[np.float32],
    npt.NDArray[np.int32],
    dict[tuple[int, int], npt.NDArray[Any]],
]


def _load_clip(
    paths: tuple[Path, list[Path]], *, references: bool
) -> tuple[npt.NDArray[np.uint8], list[_LoadedTwin]]:
    clean_path, twin_paths = paths
    clean, _ = load_clean(clean_path)
    twins = []
    for path in twin_paths:
        twin = _with_held_qp(load_twin(path, clean))
        errors = [
            np.square(c.astype(np.int16) - d, dtype=np.float32).mean()
            for c, d in zip(clean, twin.luma, strict=True)
        ]
        chosen = _references_of(twin)
        moved = _moved_of(twin, chosen) if references else {}
        twins.append((twin, np.array(errors, np.float32), chosen, moved))
    return clean, twins


def _with_held_qp(twin: Twin) -> Twin:
    """Let unchanged macroblocks keep their QP, as in the filter."""
    known = (twin.qp != NO_QP).all((1, 2))
    pictures = (
        Picture(luma, qp=qp.astype(np.int16) if has_qp else None)
        for luma, qp, has_qp in zip(twin.luma, twin.qp, known, strict=True)
    )
    held = [NO_QP if p.qp is None else p.qp for p in settle(pictures)]
    maps = [np.broadcast_to(qp, twin.qp.shape[1:]) for qp in held]
    return replace(twin, qp=np.stack(maps).astype(np.int8))


def draw_crops(
    pairs: Pairs, batch_size: int, sampling: Sampling, rng: np.random.Generator
) -> Crops:
    """Draw crops on the macroblock grid, every pixel of the set being about equally likely.

    The same generator state gives the same crops on every device.

    Raises:
        MediaError: no clip is as large as a crop.
    """
    size, shots = sampling.crop, pairs.shots
    if size % CROP_GRID:
        raise ValueError(f"a crop of {size} pixels does not end on the {CROP_GRID}-pixel grid")
    fits = (shots["height"] >= size) & (shots["width"] >= size)
    if not fits.any():
        raise MediaError(f"no clip is as large as a crop of {size}x{size}; train with smaller ones")
    weights = (shots["frames"] * shots["height"] * shots["width"] * fits).astype(np.float64)
    count = max(1, batch_size // 2) if sampling.neighbours else batch_size
    chosen = shots[rng.choice(len(shots), count, p=weights / weights.sum())]
    last = np.maximum(chosen["frames"] - sampling.neighbours, 1)
    frame = rng.integers(0, last)
    place, other = (_draw_places(chosen, size, rng) for _ in range(2))
    if sampling.aimed and len(pairs.things):
        aimed = rng.random(count) < sampling.aimed
        chosen[aimed], frame[aimed], place[:, aimed] = _aim(pairs, size, int(aimed.sum()), rng)
        other[:, aimed] = place[:, aimed]
    turn = rng.integers(0, 2, (3, count))
    if not sampling.transpose:
        turn[1:] = 0
    hard = rng.random(count) < sampling.hard
    unknown = rng.random(count) < sampling.qp_dropout
    there = _draw_slots(count, sampling, rng) if sampling.references else None
    strange = rng.random(count) < sampling.strange
    # One small table goes to the device; all work per pixel is done there.
    fields = [chosen[name] for name in _SHOT.names or ()]
    tables = []
    for time in (frame, np.minimum(frame + 1, chosen["frames"] - 1))[: 1 + sampling.neighbours]:
        columns = [*fields, time, frame, *place, *other, *turn, hard, unknown]
        if there is not None:
            times = pairs.references[chosen["frame"] + time]
            columns += [*np.where(there, times, time[:, None]).T]
            own = chosen["degraded"] + time * chosen["height"] * chosen["width"]
            columns += [*np.where(there, pairs.planes[chosen["frame"] + time], own[:, None]).T]
        tables.append(np.stack(columns))
    table = np.concatenate(tables, 1).astype(np.int64)
    on_device = torch.from_numpy(table).to(pairs.luma.device)
    crops = _gather(pairs, on_device, size, mine=sampling.hard > 0)
    return _with_strangers(crops, strange) if sampling.references else crops


def _with_strangers(crops: Crops, strange: npt.NDArray[np.bool_]) -> Crops:
    """Give the crops that `strange`, [N] or half as long, names the references of another crop."""
    assert crops.references is not None
    assert crops.reference_qp is not None
    whose = np.arange(len(strange))
    whose = np.where(strange, np.roll(whose, 1), whose)
    halves = range(0, len(crops.references), len(whose))
    index = torch.from_numpy(np.concatenate([whose + half for half in halves]))
    index = index.to(crops.references.device)
    return replace(
        crops, references=crops.references[index], reference_qp=crops.reference_qp[index]
    )


def _draw_slots(count: int, sampling: Sampling, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return bool [count, REFERENCES]: which references a crop gets.

    Some are withheld, so that a network learns to do without what a file's ends, a long GOP or a
    live stream do not give. A frame's own time stands for one that is not there.
    """
    share = rng.random((count, 1))
    ends = np.cumsum([sampling.whole, sampling.past, sampling.alone])
    is_past = np.isin(np.arange(REFERENCES), PAST_SLOTS)
    tossed = rng.random((count, REFERENCES)) < 0.5
    return np.select(
        [share < ends[0], share < ends[1], share < ends[2]], [True, is_past, False], tossed
    )


def _draw_places(
    shots: npt.NDArray[Any], size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return int64 [2, N]: the top row and left column of a crop in each shot."""
    sides = np.stack([shots["height"], shots["width"]])
    return rng.integers(0, (sides - size) // CROP_GRID + 1) * CROP_GRID


def _aim(
    pairs: Pairs, size: int, count: int, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return shots [N], frames [N] and places [2, N] of crops around things that are seen."""
    fits = (pairs.shots["height"] >= size) & (pairs.shots["width"] >= size)
    shots = pairs.shots[fits]
    things = pairs.things[np.isin(pairs.things["clean"], shots["clean"])]
    if not len(things):
        raise MediaError(f"nothing is seen in clips as large as {size}x{size}; give a smaller crop")
    weights = things["weight"].astype(np.float64)
    drawn = things[rng.choice(len(things), count, p=weights / weights.sum())]
    # Any of the twins of the clip that shows it.
    twins = [rng.choice(np.flatnonzero(shots["clean"] == clean)) for clean in drawn["clean"]]
    chosen = shots[np.array(twins, np.int64)]
    centre = np.stack([drawn["row"], drawn["column"]])
    sides = np.stack([chosen["height"], chosen["width"]])
    place = (centre - size * rng.uniform(0.15, 0.85, (2, count))) // CROP_GRID
    place = place.clip(0, (sides - size) // CROP_GRID)
    return chosen, drawn["time"], place.astype(np.int64) * CROP_GRID


def _gather(pairs: Pairs, table: Tensor, size: int, *, mine: bool) -> Crops:
    """Cut the crops that `table` lists one to a column, int64 [18 or 18 + 2 REFERENCES, N]."""
    clean_at, degraded_at, qp_at, frame_at, _, height, width = table[:7, :, None, None]
    time, judged, top, left, other_top, other_left, mirror, upset, swap, hard, unknown = table[
        7:18, :, None, None
    ]
    side = torch.arange(size, device=table.device)
    rows, columns = side[:, None], side[None]

    def pixels(row: Tensor, column: Tensor, time: Tensor = time) -> Tensor:
        index: Tensor = (time * height + row) * width + column
        return index

    if mine:
        squares = []
        for row, column in ((top, left), (other_top, other_left)):
            index = pixels(row + rows, column + columns, judged)
            difference = pairs.luma[index + clean_at].int() - pairs.luma[index + degraded_at].int()
            squares.append(difference.square().sum((1, 2), keepdim=True))
        # Integer sums, so that every device takes the same decision.
        other = (hard != 0) & (squares[1] > squares[0])
        top, left = torch.where(other, other_top, top), torch.where(other, other_left, left)
    across = torch.where(mirror != 0, size - 1 - columns, columns)
    down = torch.where(upset != 0, size - 1 - rows, rows)
    row = top + torch.where(swap != 0, across.mT, down)
    column = left + torch.where(swap != 0, down.mT, across)
    pixel = pixels(row, column)
    wide, high = (width + CROP_GRID - 1) // CROP_GRID, (height + CROP_GRID - 1) // CROP_GRID

    def qps(time: Tensor) -> Tensor:
        block = (time * high + row // CROP_GRID) * wide + column // CROP_GRID
        qp = pairs.qp[block + qp_at].float() / 51
        return torch.where((unknown != 0) | (qp < 0), QP_UNKNOWN, qp)

    inside = row * width + column
    slots = table[18:, :, None, None].unflatten(0, (2, -1))
    others = [(_scaled(pairs.luma[inside + plane]), qps(then))
              for then, plane in zip(*slots, strict=True)]  # fmt: skip
    lumas, maps = zip(*others, strict=True) if others else ((), ())
    return Crops(
        clean=_scaled(pairs.luma[pixel + clean_at])[:, None],
        degraded=_scaled(pairs.luma[pixel + degraded_at])[:, None],
        qp=qps(time)[:, None],
        error=pairs.error[(frame_at + time)[:, 0, 0]],
        references=torch.stack(lumas, 1) if others else None,
        reference_qp=torch.stack(maps, 1) if others else None,
    )


def _scaled(luma: Tensor) -> Tensor:
    return (luma.float() - _LEVELS) / _LEVELS
