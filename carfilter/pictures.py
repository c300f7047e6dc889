"""What the Restorer takes: luma, and what the decoder knew of it; pictures of two fields."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import ImpossibleValueError

Luma = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
QpMap = npt.NDArray[np.int16]
Blocks = npt.NDArray[np.bool_]

Field = npt.NDArray[np.int16]
"""Where each block of a picture lies in another; see restore.motion.arrays."""
Motion = tuple[Field | None, Field | None]
"""Where each block lies in the pictures before and after. None is where it is, or not known."""

MACROBLOCK = 16
ASSUMED_QP = 26
"""Taken where a decoder tells no QP: so fine that good video comes to little harm."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture's luma [H, W] (uint8, or uint16 above 8 bits) and what the decoder knew of it."""

    luma: Luma
    depth: int = 8  # bits of a sample
    qp: QpMap | None = None  # [ceil(H/16), ceil(W/16)] in 0..51
    qp_assumed: bool = False  # by with_qp(), where the decoder told none
    frame_type: int = 0  # 1, 2, 3 are I, P, B; 0 is unknown
    interlaced: bool = False
    # Macroblocks [ceil(H/16), ceil(W/16)] that differ from the picture before, by reuse.settle();
    # None where that is not known, or there is none to compare with.
    changed: Blocks | None = None
    motion: Motion = (None, None)
    # Of a reference: where it has yet to be moved along, for the picture that it helps.
    along: Field | None = None
    # Other pictures of the scene, for a multi-frame network; see carfilter.restore.references
    references: tuple["Picture | None", ...] = ()

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ImpossibleValueError: the luma is no plane, or one without pixels, or the QPs are not
                those of its macroblocks.
        """
        if self.luma.ndim != 2 or not self.luma.size:
            raise ImpossibleValueError(
                f"luma has to be a plane [H, W] with pixels, not of shape {self.luma.shape}"
            )
        blocks = tuple(-(-side // MACROBLOCK) for side in self.luma.shape)
        if self.qp is not None and self.qp.shape != blocks:
            raise ImpossibleValueError(
                f"the QPs have to be one for each macroblock, {blocks}, not of shape"
                f" {self.qp.shape}"
            )


Area = tuple[int, int, int, int]
"""Pixels top, left, bottom, right; top and left lie on the macroblock grid, the others outside."""


def cut(planes: Any, area: Area, unit: int = 1) -> Any:
    """Return an area of arrays or tensors [..., H/unit, W/unit]; of None it is None."""
    if planes is None:
        return None
    top, left, bottom, right = area
    return planes[..., top // unit : -(-bottom // unit), left // unit : -(-right // unit)]


def cropped(picture: Picture, area: Area) -> Picture:
    """Return a part of a picture and of its references."""
    luma, qp = cut(picture.luma, area), cut(picture.qp, area, MACROBLOCK)
    others = tuple(None if r is None else cropped(r, area) for r in picture.references)
    changed = cut(picture.changed, area, MACROBLOCK)
    return replace(picture, luma=luma, qp=qp, changed=changed, references=others)


def split_fields(pictures: Iterable[Picture], counts: deque[int]) -> Iterator[Picture]:
    """Yield interlaced pictures as two, upper field first; `counts` gets 1 or 2 per picture.

    Of a field, and of what follows one, it is not known what changed since what came before.
    """
    after_field = False
    for picture in pictures:
        if picture.interlaced and picture.luma.shape[0] % 2 == 0:
            counts.append(2)
            for parity in (0, 1):
                others = (None if r is None else _field(r, parity) for r in picture.references)
                yield replace(_field(picture, parity), references=tuple(others))
            after_field = True
        else:
            counts.append(1)
            yield replace(picture, changed=None) if after_field else picture
            after_field = False


def _field(picture: Picture, parity: int) -> Picture:
    """Blocks of an interlaced frame mix its fields: a field gets the frame's mean QP alone."""
    field: Any = np.ascontiguousarray(picture.luma[parity::2])
    qp = picture.qp
    if qp is not None:
        qp = uniform_qp(field.shape, round(float(qp.mean())))
    return replace(picture, luma=field, qp=qp, changed=None, interlaced=False)


def uniform_qp(shape: tuple[int, ...], qp: int) -> QpMap:
    """Return a map of one QP for luma of shape (H, W)."""
    rows, columns = (-(-side // MACROBLOCK) for side in shape)
    return np.full((rows, columns), qp, np.int16)


def with_qp(pictures: Iterable[Picture], assumed: int) -> Iterator[Picture]:
    """Yield the pictures; those whose QP the decoder did not tell, with one that is assumed.

    Told nothing, a network has to treat good video as if it might be bad, and harms it.
    """
    for picture in pictures:
        if picture.qp is None:
            yield replace(picture, qp=uniform_qp(picture.luma.shape, assumed), qp_assumed=True)
        else:
            yield picture


def weave(upper: Luma, lower: Luma) -> Luma:
    """Join two fields [H/2, W] to a picture [H, W]."""
    woven = np.empty((upper.shape[0] * 2, upper.shape[1]), upper.dtype)
    woven[0::2], woven[1::2] = upper, lower
    return woven
