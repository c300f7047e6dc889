"""Bring a frame to another pixel format or size; only on request, or where one file needs one size.

The range is kept (only yuvj formats and RGB are full by their nature), and the luma of a frame that
keeps its size is carried over sample by sample: FFmpeg takes gray as full range and stretches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from carfilter.errors import MediaError
from carfilter.media.frames import (
    COLOUR_TAGS,
    bit_depth,
    copy_luma,
    display_matrix,
    has_luma_plane,
    plane_rows,
    replace_luma,
    side_by_side,
)
from carfilter.pictures import Luma

# Semi-planar formats, and those that hold the same samples in planes of their own.
PLANAR = {
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "nv42": "yuv444p",
    "nv20le": "yuv422p10le",
    "p010le": "yuv420p10le",
    "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
    "p212le": "yuv422p12le",
    "p216le": "yuv422p16le",
    "p410le": "yuv444p10le",
    "p412le": "yuv444p12le",
    "p416le": "yuv444p16le",
}
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_BT709 = 1  # AVCOL_SPC_BT709
_RGB = 0  # AVCOL_SPC_RGB


def is_full_range(frame: av.VideoFrame) -> bool:
    """Say whether luma reaches from 0 to the peak; what is not tagged is limited, as in FFmpeg."""
    name = frame.format.name
    return int(frame.color_range) == ColorRange.JPEG or name.startswith("yuvj") or _is_rgb(frame)


def picture_form(frame: av.VideoFrame) -> str:
    """Say of what size, format and range a frame is; equal for frames that differ in nothing."""
    reach = "full" if is_full_range(frame) else "limited"
    name = frame.format.name.replace("yuvj", "yuv")
    return f"{frame.width}x{frame.height} {name} ({reach} range)"


def _is_rgb(frame: av.VideoFrame) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette or frame.format.is_bit_stream)


def convert(
    frame: av.VideoFrame,
    pix_fmt: str,
    size: tuple[int, int] | None = None,
    *,
    full_range: bool | None = None,
) -> av.VideoFrame:
    """Return the frame in another format or size (width, height); its time and side data stay.

    Args:
        full_range: of the result; by default the frame's own, from RGB limited.

    RGB becomes limited range BT.709, and is tagged so; YUV keeps its matrix.
    """
    width, height = size or (frame.width, frame.height)
    was_full = is_full_range(frame)
    target = av.VideoFormat(pix_fmt)
    if target.is_rgb or pix_fmt.startswith("yuvj"):
        full_range = True
    elif full_range is None:
        full_range = was_full and not _is_rgb(frame)
    if has_luma_plane(frame.format) and has_luma_plane(target):
        return _convert_yuv(frame, target, (width, height), full_range=full_range)
    from_rgb = _is_rgb(frame) or int(frame.colorspace) == _RGB
    made = frame.reformat(
        width,
        height,
        pix_fmt,
        src_colorspace=Colorspace.ITU709 if target.is_rgb and not from_rgb else None,
        dst_colorspace=Colorspace.ITU709 if from_rgb and not target.is_rgb else None,
        src_color_range=_range(full=was_full),
        dst_color_range=_range(full=full_range),
        interpolation=_EXACT,
    )
    if from_rgb and not target.is_rgb:
        made.colorspace = _BT709
        made.color_range = _range(full=full_range)
    return made


def _convert_yuv(
    frame: av.VideoFrame, target: av.VideoFormat, size: tuple[int, int], *, full_range: bool
) -> av.VideoFrame:
    was_full, tag = is_full_range(frame), int(frame.color_range)
    same_range = was_full == full_range
    made = frame.reformat(
        *size,
        target.name,
        src_color_range=_range(full=was_full),
        dst_color_range=_range(full=full_range),
        interpolation=_EXACT,
    )
    if same_range and size == (frame.width, frame.height):
        luma = _at_depth(
            copy_luma(frame), bit_depth(frame.format), bit_depth(target), full=was_full
        )
        replace_luma(made, luma)
    made.color_range = tag if same_range and not full_range else _range(full=full_range)
    return made


def upright(frame: av.VideoFrame, matrix: Sequence[int]) -> av.VideoFrame:
    """Return the frame as a player shows it that is told FFmpeg's display matrix, sample by sample.

    Args:
        matrix: of quarter turns and mirroring, as is_quarter_turn() says.
    """
    if frame.format.name in PLANAR:  # samples of two planes that lie in one are not turned alone
        frame = convert(frame, PLANAR[frame.format.name])
    lies = lies_on_side(matrix)
    if lies and frame.format.components[-1].width * frame.height != (
        frame.format.components[-1].height * frame.width
    ):  # chroma as wide as luma is not as high, as in 4:2:2: there is no such format turned
        raise MediaError(
            f"pictures of {frame.format.name} cannot be turned upright, since their chroma is"
            " halved in one direction only; give -pix_fmt yuv420p or yuv444p"
        )
    width, height = (frame.height, frame.width) if lies else (frame.width, frame.height)
    made = av.VideoFrame(width, height, frame.format.name)
    for source, target in zip(plane_rows(frame), plane_rows(made), strict=True):
        target[:] = _turned(source, matrix)
    made.pts, made.time_base, made.duration = frame.pts, frame.time_base, frame.duration
    for tag in COLOUR_TAGS:
        setattr(made, tag, getattr(frame, tag))
    return made


def _turned(rows: Luma, matrix: Sequence[int]) -> Luma:
    (a, b), (c, d) = matrix[0:2], matrix[3:5]
    lies = lies_on_side(matrix)
    shown = rows.T if lies else rows
    shown = shown[:, ::-1] if (c if lies else a) < 0 else shown
    return shown[::-1] if (b if lies else d) < 0 else shown


def compared(frame: av.VideoFrame, decoded: Luma) -> av.VideoFrame:
    """Return a restored frame right of what was decoded, both as a player shows them.

    A pair on its side would lie one above the other, so its halves are turned upright.
    """
    matrix = display_matrix(frame)
    if matrix is None or not is_quarter_turn(matrix):
        return side_by_side(frame, decoded)
    if lies_on_side(matrix) and "422" in frame.format.name:
        frame = convert(frame, frame.format.name.replace("422", "444"))
    return side_by_side(upright(frame, matrix), _turned(decoded, matrix))


def is_quarter_turn(matrix: Sequence[int]) -> bool:
    """Say whether a display matrix turns by right angles or mirrors, and does something at all."""
    (a, b), (c, d) = matrix[0:2], matrix[3:5]
    return not (a > 0 and d > 0) and (not (b or c)) != (not (a or d))


def lies_on_side(matrix: Sequence[int]) -> bool:
    """Say whether a display matrix exchanges width and height."""
    return not matrix[0]


def _at_depth(luma: Luma, depth: int, wanted: int, *, full: bool) -> Luma:
    """Return the samples at another depth: limited range by powers of two, full range peak to
    peak; rounded."""
    if depth == wanted:
        return luma
    ratio = (2**wanted - 1) / (2**depth - 1) if full else 2.0 ** (wanted - depth)
    scaled = np.rint(luma * ratio).clip(0, 2**wanted - 1)
    return scaled.astype(np.uint8) if wanted == 8 else scaled.astype(np.uint16)


def _range(*, full: bool) -> ColorRange:
    return ColorRange.JPEG if full else ColorRange.MPEG
