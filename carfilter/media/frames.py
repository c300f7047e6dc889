"""The luma plane of a decoded frame: view it, copy it out, put it back.

What is left of a decoded frame is the envelope: chroma, pts, colour tags and side data stay in it,
and only its luma is exchanged. Nothing here converts a pixel format or a range.
"""

import functools
from typing import Any, TypeAlias

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from carfilter.errors import MediaError
from carfilter.media.libav.frame import bare_copy, full_copy
from carfilter.pictures import Luma

VideoFrame: TypeAlias = av.VideoFrame  # for those who only pass one on

COLOUR_TAGS = ("color_range", "colorspace", "color_trc", "color_primaries")
_MOST_BESIDE = 4  # pixels across that share a sample of chroma: in 4:1:1 and 4:1:0
_HIGH_BITS = ("p010", "p012", "p210", "p212", "p410", "p412")  # sample in the upper bits of 16


def _unnamed(cls: type[Type], value: object) -> Type:
    """Return a member for a kind of side data that PyAV has no name for."""
    member: Any = object.__new__(cls)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member  # type: ignore[no-any-return]


# PyAV fails on a frame with one such kind, FFmpeg's newest ones, whichever else is asked for:
# https://github.com/PyAV-Org/PyAV/pull/2392
Type._missing_ = classmethod(_unnamed)  # type: ignore[method-assign, assignment]


def bit_depth(pix_fmt: av.VideoFormat) -> int:
    """Return the bits of a luma sample: 8, 9, 10, 12, 14 or 16."""
    return _bits(pix_fmt.name)


def coded_depth(context: av.VideoCodecContext) -> int:
    """Return the bits of the samples that a decoder gives, 8 where it does not know yet."""
    return 8 if context.format is None else bit_depth(context.format)


@functools.cache
def _bits(pix_fmt: str) -> int:
    # Asked several times a frame, and each frame makes the description of its format anew.
    return int(av.VideoFormat(pix_fmt).components[0].bits)


def bits_per_pixel(pix_fmt: av.VideoFormat) -> int:
    """Return the bits that a pixel takes in memory, chroma included."""
    return _bits_per_pixel(pix_fmt.name)


@functools.cache
def _bits_per_pixel(pix_fmt: str) -> int:
    return av.VideoFormat(pix_fmt).padded_bits_per_pixel


def pixel_format(name: str) -> av.VideoFormat:
    """Return the pixel format that -pix_fmt names.

    Raises:
        MediaError: there is none of that name.
    """
    try:
        return av.VideoFormat(name)
    except ValueError as error:
        raise MediaError(
            f"-pix_fmt {name}: there is no such pixel format; see ffmpeg -pix_fmts"
        ) from error


def has_luma_plane(pix_fmt: av.VideoFormat) -> bool:
    """Say whether luma is a plane of its own: not in RGB, palettes, packed YUV, on a GPU."""
    components = pix_fmt.components
    first_plane = [c for c in components if c.plane == 0]
    return not (
        pix_fmt.is_rgb
        or pix_fmt.has_palette
        or pix_fmt.is_bit_stream
        or len(first_plane) != 1
        or not components[0].is_luma
        or not 8 <= components[0].bits <= 16
        or pix_fmt.name.startswith(("bayer", "xyz", "ya"))
    )


def check_pix_fmt(pix_fmt: av.VideoFormat, source: str) -> None:
    """Refuse pixel formats whose luma is not a plane of its own, with the remedy.

    Raises:
        MediaError: RGB, palette, packed YUV, hardware or floating point formats.
    """
    if not has_luma_plane(pix_fmt):
        bits = max((component.bits for component in pix_fmt.components), default=8)
        depth = next((f"{depth}le" for depth in (10, 12, 16) if 8 < bits <= depth), "")
        raise MediaError(
            f"{source}: pixel format {pix_fmt.name} has no luma plane of its own;"
            f" carfilter -pix_fmt yuv444p{depth} (or yuv422p{depth}, yuv420p{depth}) converts it"
            " first"
        )


def _shift(pix_fmt: av.VideoFormat) -> int:
    return 16 - bit_depth(pix_fmt) if pix_fmt.name.startswith(_HIGH_BITS) else 0


def luma_view(frame: av.VideoFrame) -> Luma:
    """Return plane 0 as stored, uint8 or uint16 [H, W], a view without the padding.

    It is valid as long as the frame is and until its next make_writable(). Never write to it
    before make_writable(): the decoder may still predict later frames from this buffer.
    """
    plane = frame.planes[0]
    if plane.line_size <= 0:  # https://github.com/PyAV-Org/PyAV/issues/2213
        raise MediaError("a frame is stored bottom-up, which cannot be read; re-encode it first")
    luma: Luma = _samples(plane, frame.format, frame.width)
    return luma


def _samples(plane: Any, pix_fmt: av.VideoFormat, columns: int) -> Any:
    """Return a view of a plane as stored, uint8 or uint16 [H, columns], without its padding."""
    wide = np.dtype(">u2" if pix_fmt.name.endswith("be") else "<u2")
    dtype = np.dtype(np.uint8) if bit_depth(pix_fmt) == 8 else wide
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: plane.height, :columns]


def copy_luma(frame: av.VideoFrame, out: Luma | None = None) -> Luma:
    """Return the luma samples, uint8 or uint16 [H, W] in 0 .. 2^depth - 1, in the file's own range.

    Args:
        out: [H, W] of that dtype, filled instead of a new array.
    """
    view, shift = luma_view(frame), _shift(frame.format)
    if out is None:
        out = np.empty(view.shape, np.uint8 if view.itemsize == 1 else np.uint16)
    if shift:
        np.right_shift(view, shift, out=out)
    else:
        np.copyto(out, view)
    return out


def replace_luma(frame: av.VideoFrame, luma: Luma) -> None:
    """Exchange the luma of a frame for `luma` [H, W]; chroma, pts, tags and side data stay.

    Side data objects taken from the frame before are invalid afterwards: read_qp() comes first.
    """
    frame.make_writable()
    _write_luma(frame, luma)


def _write_luma(frame: av.VideoFrame, luma: Luma) -> None:
    view, shift = luma_view(frame), _shift(frame.format)
    if shift:
        np.left_shift(luma, shift, out=view)
    else:
        np.copyto(view, luma)


class Envelope:
    """What a frame carries beside its luma, while that is somewhere else.

    The decoder gets its buffers back at once, and the luma that is given away needs no memory in
    here: of pictures that wait for others that is two thirds. A frame of its own also spares the
    copy of luma that make_writable() makes of a frame which the decoder still refers to.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self._size = frame.width, frame.height
        self._bare = bare_copy(frame)
        self._whole = frame if self._bare is None else None
        others = plane_rows(frame)[1:] if self._whole is None else []
        self._others = [_copied(rows) for rows in others]

    def with_luma(self, luma: Luma) -> av.VideoFrame:
        """Return the frame with `luma` [H, W]; it can be asked for once."""
        if self._bare is None:
            assert self._whole is not None
            replace_luma(self._whole, luma)
            return self._whole
        frame = full_copy(self._bare, *self._size)
        _write_luma(frame, luma)
        for rows, kept in zip(plane_rows(frame)[1:], self._others, strict=True):
            np.copyto(rows, kept)
        return frame


def _copied(rows: Any) -> Any:
    copy = np.empty(rows.shape, rows.dtype)
    np.copyto(copy, rows)
    return copy


def clip_samples(frame: av.VideoFrame) -> bool:
    """Bring samples beyond the depth back to its maximum; say whether there were any.

    A decoder leaves such samples, 0x8080 at 10 bits for example, where a damaged stream gave it
    nothing to fill them with, and libx264 ends the process over them. Read side data before.
    """
    depth = bit_depth(frame.format)
    if depth in (8, 16) or _shift(frame.format):
        return False
    peak = (1 << depth) - 1
    if all(int(rows.max(initial=0)) <= peak for rows in plane_rows(frame)):
        return False
    frame.make_writable()
    for rows in plane_rows(frame):
        np.minimum(rows, peak, out=rows)
    return True


def side_data(frame: av.VideoFrame, name: str) -> Any:
    """Return one kind of side data or None; valid as long as the frame, until make_writable().

    Not through frame.side_data: the frame keeps that container, which keeps the frame, so that
    each frame and its pictures stay in memory until the garbage collector finds the ring.
    """
    container: Any = SideDataContainer
    return container(frame).get(name)


def display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """Return the nine integers that tell a player how to turn or mirror the picture, if any."""
    data = side_data(frame, "DISPLAYMATRIX")
    if data is None:
        return None
    return [int(value) for value in np.frombuffer(memoryview(data), np.int32, count=9)]


def width_beside(pix_fmt: av.VideoFormat, width: int) -> int:
    """Return how much of a width side_by_side() shows of each half."""
    step = max(2, _MOST_BESIDE // pix_fmt.chroma_width(_MOST_BESIDE))
    return width // step * step


def side_by_side(frame: av.VideoFrame, left_luma: Luma) -> av.VideoFrame:
    """Return a frame of twice the width: `left_luma` and the frame's chroma left, the frame right.

    Last columns that have no whole sample of chroma, or are odd, are left out, so that the chroma
    of both halves has the same width.
    """
    width = width_beside(frame.format, frame.width)
    pair = av.VideoFrame(2 * width, frame.height, frame.format.name)
    left = plane_rows(frame)
    left[0] = np.empty_like(left[0])
    left[0][:, : left_luma.shape[1]] = np.left_shift(left_luma, _shift(frame.format))
    for half, right, out in zip(left, plane_rows(frame), plane_rows(pair), strict=True):
        columns = out.shape[1] // 2
        out[:, :columns], out[:, columns:] = half[:, :columns], right[:, :columns]
    pair.pts, pair.time_base, pair.duration = frame.pts, frame.time_base, frame.duration
    for tag in COLOUR_TAGS:
        setattr(pair, tag, getattr(frame, tag))
    return pair


def plane_rows(frame: av.VideoFrame) -> list[Any]:
    """Return every plane as stored samples [H, W]; interleaved chroma counts twice in W."""
    interleaved = len(frame.planes) == 2
    return [
        _samples(plane, frame.format, plane.width * (2 if interleaved and index else 1))
        for index, plane in enumerate(frame.planes)
    ]
