"""Pictures for pages: WebP out of frames and arrays, encoded by FFmpeg like all else."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from carfilter.media.conform import is_quarter_turn, upright
from carfilter.media.frames import display_matrix, replace_luma
from carfilter.pictures import Luma

_QUALITIES = (95, 90, 85, 80, 70, 60)
_LOSSLESS_PIXELS = 120_000

Rgb = npt.NDArray[np.uint8]


def rgb_of(frame: av.VideoFrame, luma: Luma | None = None) -> Rgb:
    """Return a frame as RGB [H, W, 3], with `luma` [H, W] in the place of its own, which is then
    exchanged in the frame."""
    if luma is not None:
        replace_luma(frame, luma)
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def shown(frame: av.VideoFrame) -> Rgb:
    """Return a frame as RGB, turned as it says, if by right angles."""
    matrix = display_matrix(frame)
    if matrix is not None and is_quarter_turn(matrix):
        frame = upright(frame.reformat(format="yuv444p"), matrix)
    return rgb_of(frame)


def scaled_rgb(frame: av.VideoFrame, most: int) -> Rgb:
    """Return a frame as RGB, at most that many pixels wide."""
    if frame.width <= most:
        return rgb_of(frame)
    height = max(round(frame.height * most / frame.width), 1)
    small = frame.reformat(most, height, "rgb24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.uint8)


def webp(picture: Rgb, quality: int | None = None) -> bytes:
    """Encode RGB or RGBA [H, W, 3 or 4]; without loss where no quality, 0..100, is given."""
    height, width, channels = picture.shape
    encoder: Any = av.CodecContext.create("libwebp", "w")
    encoder.width, encoder.height, encoder.time_base = width, height, Fraction(1, 25)
    encoder.pix_fmt = "yuv420p" if quality is not None and channels == 3 else "bgra"
    encoder.options = {"lossless": "1"} if quality is None else {"quality": str(quality)}
    layout = "rgb24" if channels == 3 else "rgba"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
    frame = frame.reformat(format=encoder.pix_fmt)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def webp_within(pictures: Sequence[Rgb], most: int) -> list[bytes]:
    """Encode pictures alike: without loss where they are small, else as well as fits.

    Args:
        most: bytes of each.
    """
    stored: list[bytes] = []
    for quality in (None, *_QUALITIES):
        if quality is None and pictures[0][..., 0].size > _LOSSLESS_PIXELS:
            continue  # that takes seconds, and would not fit
        stored = [webp(picture, quality) for picture in pictures]
        if max(map(len, stored)) <= most:
            break
    return stored
