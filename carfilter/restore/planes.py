"""What is done with whole planes beside the network: compared, kept, averaged over time.

Here on a CPU; carfilter.restore.card_planes does it on a card. In C where planes.c was compiled for
this CPU, which releases Python's lock meanwhile; else the same in numpy, bit by bit.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from carfilter.pictures import MACROBLOCK, Blocks, Luma, weave
from carfilter.restore.int8.kinds import usable_kinds
from carfilter.restore.int8.library import load_library
from carfilter.restore.motion.arrays import BLOCK, Field, Marks
from carfilter.restore.motion.move import moved_where_better

Floats = npt.NDArray[np.float32]
Apart = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Plane = Any
"""The luma of a picture where it is worked on: Luma on a CPU, on a card a tensor [H, W]."""

_ROWS = 32  # of a picture are worked on at a time by numpy, so that they stay in a core's cache
KERNEL = 16  # sum of the weights 1-2-1 x 1-2-1 of 3x3 pixels


class _Average(ctypes.Structure):
    _fields_ = (
        *((n, ctypes.c_void_p) for n in ("lumas", "luma_rows", "aparts", "table", "amounts")),
        *((n, ctypes.c_void_p) for n in ("averages", "past")),
        ("plane", ctypes.c_int64),
        *((n, ctypes.c_int32) for n in ("pictures", "count", "width", "zero")),
    )


@cache
def compiled() -> Any:
    """Return the library, or None where there is none for this CPU."""
    libraries = map(load_library, usable_kinds())
    library = next((one for one in libraries if one is not None), None)
    if library is None or not hasattr(library, "carfilter_planes_along_8"):
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    blocks = (pointer, pointer, size, size, number, number, number, pointer)
    library.carfilter_planes_changed.argtypes = library.carfilter_planes_keep.argtypes = blocks
    library.carfilter_planes_changed.restype = library.carfilter_planes_keep.restype = None
    for bits in (8, 16):
        apart = getattr(library, f"carfilter_planes_apart_{bits}")
        apart.argtypes = (pointer, pointer, size, size, number, number, number, pointer)
        mask = getattr(library, f"carfilter_planes_mask_{bits}")
        mask.argtypes, mask.restype = (pointer, number, number, pointer, number), None
        average = getattr(library, f"carfilter_planes_average_{bits}")
        average.argtypes = (ctypes.POINTER(_Average), number, number)
        along = getattr(library, f"carfilter_planes_along_{bits}")
        along.argtypes, along.restype = (pointer,), None
    return library


def changed_blocks(luma: Luma, before: Luma) -> Blocks:
    """Return in which macroblocks two pictures [H, W] differ, [ceil(H/16), ceil(W/16)]."""
    library = compiled()
    if library is None or not in_rows(luma, before):
        return _changed_blocks(luma, before)
    height, width = luma.shape
    changed = np.empty((-(-height // MACROBLOCK), -(-width // MACROBLOCK)), np.bool_)
    library.carfilter_planes_changed(*_blockwise(luma, before), changed.ctypes.data)
    return changed


def kept(plane: Luma, last: Luma, changed: Blocks) -> Luma:
    """Return the macroblocks of `plane` that changed, and the others of `last`.

    The plane is used up.
    """
    library = compiled()
    if plane is last:
        return plane
    if library is None or not in_rows(plane, last) or not plane.flags.writeable:
        return _kept(plane, last, changed)
    marks = np.ascontiguousarray(changed)
    library.carfilter_planes_keep(*_blockwise(plane, last), marks.ctypes.data)
    return plane


def _blockwise(a: Luma, b: Luma) -> tuple[int, ...]:
    rows = (a.ctypes.data, b.ctypes.data, a.strides[0], b.strides[0], a.shape[0])
    return *rows, a.shape[1] * a.itemsize, MACROBLOCK * a.itemsize


def in_rows(*planes: Luma) -> bool:
    """Say whether the samples of each row lie side by side."""
    return all(plane.strides[1] == plane.itemsize for plane in planes)


@dataclass(frozen=True, slots=True)
class Link:
    """How much of a picture goes on to the next one: around each pixel, as far as they are alike.

    Kept as what the share depends on, which takes half of its memory.
    """

    apart: Apart  # places in the table, [H, W]
    table: Floats  # shares; the last one is zero


def links(
    before: Luma, luma: Luma, depth: int, level: float, decay: float, where: Marks | None = None
) -> Link:
    """Return what goes on from one picture to the next: how alike they are around each pixel.

    It is `decay` where they are equal, [H, W], and falls to 1/e of that where the absolute
    differences around, times 1-2-1 in both directions, are `level` on average.

    Args:
        depth: bits of a sample.
        where: blocks of 4x4 pixels, of which alone anything goes on; None is all.
    """
    table = share_table(depth, level, decay)
    apart = _apart_around(before, luma, len(table) - 2)
    if where is not None:
        _mask(apart, where, len(table) - 1)
    return Link(apart, table)


def _apart_around(before: Luma, luma: Luma, most: int) -> Apart:
    library = compiled()
    if library is None or not in_rows(before, luma):
        return _apart(before, luma, most)
    height, width = luma.shape
    result = np.empty((height, width), np.uint16 if luma.itemsize == 1 else np.uint32)
    run = getattr(library, f"carfilter_planes_apart_{8 * luma.itemsize}")
    pitches = (one.strides[0] // one.itemsize for one in (before, luma))
    failed = run(
        before.ctypes.data, luma.ctypes.data, *pitches, height, width,
        most, result.ctypes.data,
    )  # fmt: skip
    return _apart(before, luma, most) if failed else result


def _mask(apart: Apart, where: Marks, most: int) -> None:
    """Write `most` over all but some blocks of 4x4 pixels."""
    library = compiled()
    height, width = apart.shape
    if library is not None:
        marks = np.ascontiguousarray(where)
        run = getattr(library, f"carfilter_planes_mask_{4 * apart.itemsize}")
        run(apart.ctypes.data, height, width, marks.ctypes.data, most)
        return
    for top, row in zip(range(0, height, BLOCK), ~where.repeat(BLOCK, 1)[:, :width], strict=True):
        np.copyto(apart[top : top + BLOCK], most, where=row)


@cache
def share_table(depth: int, level: float, decay: float) -> Floats:
    """Return the share for each sum of differences around a pixel, and zero."""
    apart = np.arange(KERNEL * ((1 << depth) - 1) + 1, dtype=np.float32)
    table: Floats = np.exp(apart * np.float32(-1 / (KERNEL * level))) * np.float32(decay)
    return np.append(table, np.float32(0))


@dataclass(frozen=True, slots=True)
class Linked:
    """A picture among others that are averaged with it."""

    luma: Plane
    link: Any  # of the picture before to it, all with one table; None: nothing goes on


def average(
    pictures: Sequence[Linked], amounts: Sequence[float], past: Floats | None
) -> list[Luma]:
    """Return the averages of the first pictures, and bring `past` up to the last of them.

    Args:
        amounts: how much of the way to its average each of the first pictures goes, 0..1.
        past: sum and weight of what the picture before the first was made of, [2, H, W]; None is
            nothing, and then nothing is kept.
    """
    library = compiled()
    height, width = pictures[0].luma.shape
    averages = [np.empty((height, width), pictures[0].luma.dtype) for _ in amounts]
    if library is not None and in_rows(*(one.luma for one in pictures)):
        run = getattr(library, f"carfilter_planes_average_{8 * averages[0].itemsize}")
        if not _averaged_by(run, pictures, amounts, past, averages):
            return averages
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        shape = 2, min(_ROWS, height - top), width
        before = np.zeros(shape, np.float32) if past is None else past[:, rows]
        _average(pictures, amounts, before, rows, averages)
    return averages


def _averaged_by(
    run: Any,
    pictures: Sequence[Linked],
    amounts: Sequence[float],
    past: Floats | None,
    averages: Sequence[Luma],
) -> int:
    lumas, links = [one.luma for one in pictures], [one.link for one in pictures]
    pitches = np.array([one.strides[0] // one.itemsize for one in lumas], np.int64)
    wanted = np.array(amounts, np.float32)
    pointers = [
        np.array([0 if one is None else one.ctypes.data for one in planes], np.uintp)
        for planes in (lumas, [one and one.apart for one in links], averages)
    ]
    table = next((one.table for one in links if one is not None), np.zeros(1, np.float32))
    given = _Average(
        lumas=pointers[0].ctypes.data, luma_rows=pitches.ctypes.data,
        aparts=pointers[1].ctypes.data, table=table.ctypes.data, amounts=wanted.ctypes.data,
        averages=pointers[2].ctypes.data, past=None if past is None else past.ctypes.data,
        plane=lumas[0].size, pictures=len(lumas), count=len(averages), width=lumas[0].shape[1],
        zero=len(table) - 1,
    )  # fmt: skip
    return int(run(given, 0, lumas[0].shape[0]))


def _changed_blocks(luma: Luma, before: Luma) -> Blocks:
    height, row_bytes = luma.shape[0], luma.shape[1] * luma.itemsize
    unit: Any = np.uint64 if row_bytes % 8 == 0 else np.uint8  # eight samples in one comparison
    differs = np.ascontiguousarray(luma).view(unit) != np.ascontiguousarray(before).view(unit)
    step = MACROBLOCK * luma.itemsize // np.dtype(unit).itemsize
    rows = np.logical_or.reduceat(differs, np.arange(0, height, MACROBLOCK), axis=0)
    blocks: Blocks = np.logical_or.reduceat(rows, np.arange(0, differs.shape[1], step), axis=1)
    return blocks


def _kept(plane: Luma, last: Luma, changed: Blocks) -> Luma:
    renewed = last.copy()
    wide = changed.repeat(MACROBLOCK, 1)[:, : plane.shape[1]]
    # By rows of macroblocks: a mask for each pixel takes four times as long.
    for top, columns in zip(range(0, plane.shape[0], MACROBLOCK), wide, strict=True):
        rows = slice(top, top + MACROBLOCK)
        np.copyto(renewed[rows], plane[rows], where=columns)
    return renewed


def _apart(before: Luma, luma: Luma, most: int) -> Apart:
    apart: Any = np.maximum(luma, before) - np.minimum(luma, before)
    apart = np.pad(apart, 1, mode="edge")
    result: Apart = np.empty(luma.shape, np.uint16 if luma.itemsize == 1 else np.uint32)
    for top in range(0, luma.shape[0], _ROWS):
        around = apart[top : top + _ROWS + 2].astype(result.dtype)
        pairs = around[:-1] + around[1:]
        columns = (pairs[:-1] + pairs[1:]).ravel()
        # In flat arrays a shift to a side runs over memory that lies in one piece.
        sides = columns[:-1] + columns[1:]
        np.add(sides[:-1], sides[1:], out=columns[:-2])
        sums = columns.reshape(-1, luma.shape[1] + 2)[:, : luma.shape[1]]
        result[top : top + _ROWS] = np.minimum(sums, most)
    return result


def _average(
    pictures: Sequence[Linked],
    amounts: Sequence[float],
    past: Floats,
    rows: slice,
    averages: Sequence[Luma],
) -> None:
    """Fill rows of the averages of the first pictures."""
    later = np.zeros_like(past)
    after = np.empty((len(averages), *past.shape), np.float32)
    luma = np.empty(past.shape[1:], np.float32)
    for i in reversed(range(len(pictures))):
        picture, link = pictures[i], pictures[i].link
        if i < len(averages):
            after[i] = later
        if link is None:
            later[:] = 0
        else:
            np.copyto(luma, picture.luma[rows])
            later[0] += luma
            later[1] += 1
            later *= link.table[link.apart[rows]]
    for picture, amount, future, result in zip(pictures, amounts, after, averages, strict=False):
        link = picture.link
        past *= 0 if link is None else link.table[link.apart[rows]]
        np.copyto(luma, picture.luma[rows])
        past[0] += luma
        past[1] += 1
        future += past
        mean = np.divide(future[0], future[1], out=future[0])
        mean -= luma
        mean *= np.float32(amount)
        mean += luma
        np.copyto(result[rows], np.rint(mean, out=mean), casting="unsafe")


class Planes(Protocol):
    """What is done with restored planes where they are, on a CPU or a card."""

    def kept(self, plane: Plane, last: Plane, changed: Blocks) -> Plane:
        """See kept()."""

    def weave(self, upper: Plane, lower: Plane) -> Plane:
        """See carfilter.pictures.weave()."""

    def moved(self, luma: Plane, other: Plane, field: Field, depth: int) -> tuple[Plane, Any]:
        """See motion.move.moved_where_better(); links() takes the blocks, if not None."""

    def links(
        self,
        before: Plane,
        luma: Plane,
        depth: int,
        level: float,
        decay: float,
        where: Any = None,
    ) -> Any:
        """See links()."""

    def average(
        self, pictures: Sequence[Linked], amounts: Sequence[float], past: Any
    ) -> list[Plane]:
        """See average()."""

    def nothing(self, shape: tuple[int, ...]) -> Any:
        """Return the `past` of a picture that has none before it, [H, W]."""

    def fetched(self, planes: Sequence[Plane]) -> Sequence[Luma]:
        """Return planes that are finished, on the host."""


class CpuPlanes:
    """Planes on a CPU."""

    kept = staticmethod(kept)
    weave = staticmethod(weave)
    moved = staticmethod(moved_where_better)
    links = staticmethod(links)
    average = staticmethod(average)

    def nothing(self, shape: tuple[int, ...]) -> Floats:
        """Return the past of a picture that has none."""
        return np.zeros((2, *shape), np.float32)

    def fetched(self, planes: Sequence[Luma]) -> Sequence[Luma]:
        """Return them: they are on the host."""
        return planes
