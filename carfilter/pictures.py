"""What the Restorer takes: luma, and what the decoder knew of it; pictures of two fields."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
QpMap = npt.NDArray[np.int16]

MACROBLOCK = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture's luma [H, W] (uint8, or uint16 above 8 bits) and what the decoder knew of it."""

    luma: Luma
    depth: int = 8  # bits of a sample
    qp: QpMap | None = None  # [ceil(H/16), ceil(W/16)] in 0..51
    frame_type: int = 0  # 1, 2, 3 are I, P, B; 0 is unknown
    interlaced: bool = False
    # Other pictures of the scene, for a multi-frame network; see carfilter.references
    references: tuple["Picture | None", ...] = ()


def split_fields(pictures: Iterable[Picture], counts: deque[int]) -> Iterator[Picture]:
    """Yield interlaced pictures as two, upper field first; `counts` gets 1 or 2 per picture."""
    for picture in pictures:
        if picture.interlaced and picture.luma.shape[0] % 2 == 0:
            counts.append(2)
            for parity in (0, 1):
                others = (None if r is None else _field(r, parity) for r in picture.references)
                yield replace(_field(picture, parity), references=tuple(others))
        else:
            counts.append(1)
            yield picture


def _field(picture: Picture, parity: int) -> Picture:
    """Blocks of an interlaced frame mix its fields: a field gets the frame's mean QP alone."""
    field: Any = np.ascontiguousarray(picture.luma[parity::2])
    qp = picture.qp
    if qp is not None:
        rows = -(-len(field) // MACROBLOCK)
        qp = np.full((rows, qp.shape[1]), round(float(qp.mean())), np.int16)
    return replace(picture, luma=field, qp=qp, interlaced=False)


def weave(upper: Luma, lower: Luma) -> Luma:
    """Join two fields [H/2, W] to a picture [H, W]."""
    woven = np.empty((upper.shape[0] * 2, upper.shape[1]), upper.dtype)
    woven[0::2], woven[1::2] = upper, lower
    return woven
