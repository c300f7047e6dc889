"""Whole short clips in memory: decode with QP maps and frame types, encode with libx264, photos.

For clips of seconds that train or score a network; the filter itself streams (source, target).
Luma travels as plane 0 of yuv420p, since swscale takes `gray` as full range and would rescale it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange

from carfilter.errors import MediaError
from carfilter.media.frames import copy_luma, has_luma_plane, luma_view
from carfilter.media.opening import open_container
from carfilter.media.qp.measured import gauge_of
from carfilter.media.qp.told import told_qp_of
from carfilter.media.ticks import as_fraction
from carfilter.pictures import QpMap
from carfilter.unfinished import written_whole

Planes = npt.NDArray[np.uint8]

MeasureQp = Literal["never", "where unknown", "always"]

_PLAIN = ("yuv420p", "yuvj420p")  # the same layout; yuvj420p only says "full range" once more
_FULL = int(ColorRange.JPEG)


@dataclass(frozen=True)
class Clip:
    """Frames of one size in presentation order, 8 bits, 4:2:0, even sides."""

    luma: Planes  # [T, H, W] in the file's own range
    chroma: Planes  # [T, 2, H/2, W/2]
    fps: Fraction
    full_range: bool = False
    types: Planes | None = None  # [T], 1 I, 2 P, 3 B, 0 unknown; None before any encode
    qp: npt.NDArray[np.int8] | None = None  # [T, ceil(H/16), ceil(W/16)] in 0..51
    packet_bytes: tuple[int, ...] = ()  # of each coded picture in decoding order
    measured_qp: npt.NDArray[np.int8] | None = None  # as `qp`, see read_clip()
    codec: str = ""  # FFmpeg's name of what it was coded with, where it was

    @property
    def seconds(self) -> float:
        """Duration in seconds at the constant rate that clips are given."""
        return float(len(self.luma) / self.fps)


def read_clip(
    path: Path, max_frames: int | None = None, *, measure_qp: MeasureQp = "never"
) -> Clip:
    """Decode the first video stream of a file, at most `max_frames` of it.

    Other 8-bit layouts and deeper ones become 8-bit 4:2:0 in the same range; 8-bit luma that lies
    in a plane of its own is untouched. A last odd row or column is cut off.

    Args:
        measure_qp: fill `measured_qp`, which takes time. "where unknown" does as the filter: only
            frames of which the stream tells no QP are measured, the others keep theirs.

    Raises:
        MediaError: the file cannot be opened or decoded, or its picture size changes.
    """
    frames: list[tuple[Planes, Planes]] = []
    qp: list[Any] = []
    types: list[int] = []
    sizes: list[int] = []
    measured: list[Any] = []
    fps, codec, full_range = Fraction(25), "", False
    for one in _decode(path, measure_qp):
        frame, fps, codec, sizes = one.frame, one.fps, one.codec, one.packet_bytes
        qp.append(one.qp)
        measured.append(one.measured_qp)
        full_range = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        types.append(int(frame.pict_type))
        frames.append(_planes(frame, path))
        if frames[-1][0].shape != frames[0][0].shape:
            raise MediaError(
                f"{path}: the picture size changes within the clip; cut it there first"
            )
        if len(frames) == max_frames:
            break
    if not frames:
        raise MediaError(f"{path}: no video frame could be decoded; check the file")
    return Clip(
        luma=np.stack([luma for luma, _ in frames]),
        chroma=np.stack([chroma for _, chroma in frames]),
        fps=fps,
        full_range=full_range,
        types=np.array(types, np.uint8),
        qp=_stacked(qp),
        packet_bytes=tuple(sizes),
        measured_qp=_stacked(measured),
        codec=codec,
    )


def _stacked(maps: list[Any]) -> npt.NDArray[np.int8] | None:
    return None if any(qp is None for qp in maps) else np.stack(maps).astype(np.int8)


@dataclass(frozen=True)
class _Decoded:
    """A frame, and what is known of it and its stream so far; see Clip."""

    frame: av.VideoFrame
    fps: Fraction
    codec: str
    packet_bytes: list[int]
    qp: QpMap | None  # as the stream tells it
    measured_qp: QpMap | None


def _decode(path: Path, measure_qp: MeasureQp) -> Iterator[_Decoded]:
    sizes: list[int] = []
    try:
        with open_container(path) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: holds no video; give a video file")
            stream = container.streams.video[0]
            stream.codec_context.options = {"export_side_data": "venc_params"}
            rate = stream.average_rate
            fps = as_fraction(rate) if rate else Fraction(25)
            codec = stream.codec_context.codec.canonical_name
            told = told_qp_of(stream.codec_context)
            gauge = None if measure_qp == "never" else gauge_of(stream.codec_context)
            # An empty packet would end the decoder; only the end of the file does.
            for packet in chain((p for p in container.demux(stream) if p.size), (None,)):
                if packet is not None:
                    sizes.append(packet.size)
                    for reader in (told, gauge):
                        if reader is not None:
                            reader.note(packet)
                for frame in stream.codec_context.decode(packet):
                    known, measured = None if told is None else told.read(frame), None
                    if known is not None and measure_qp == "where unknown":
                        measured = known
                    elif gauge is not None and has_luma_plane(frame.format):
                        measured = gauge.read(frame)
                    yield _Decoded(frame, fps, codec, sizes, known, measured)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot be decoded ({error.strerror}); check the file") from error


def _planes(frame: av.VideoFrame, path: Path) -> tuple[Planes, Planes]:
    """Return luma [H, W] and chroma [2, H/2, W/2] of the frame with even sides."""
    pix_fmt = frame.format
    if pix_fmt.is_rgb or pix_fmt.has_palette:
        raise MediaError(f"{path}: {pix_fmt.name} frames have no luma; convert them to yuv420p")
    height, width = frame.height // 2 * 2, frame.width // 2 * 2
    if not height or not width:
        raise MediaError(f"{path}: pictures of {frame.width}x{frame.height} are too small")
    gray = len(pix_fmt.components) == 1
    if not gray and pix_fmt.name not in _PLAIN:
        frame = _reformat(frame, frame.width, frame.height)
    luma = copy_luma(frame)[:height, :width]
    if luma.dtype != np.uint8:
        raise MediaError(f"{path}: {pix_fmt.name} is not supported here; convert it to yuv420p")
    chroma = np.full((2, height // 2, width // 2), 128, np.uint8)
    for samples, plane in zip(chroma, frame.planes[1:], strict=False):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        samples[:] = rows[: height // 2, : width // 2]
    return np.asarray(luma, np.uint8), chroma


def _reformat(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Scale bicubically to yuv420p without touching the range (equal on both sides)."""
    bounds = "jpeg" if frame.color_range == _FULL else "mpeg"
    return frame.reformat(
        width, height, "yuv420p", "itu709", "itu709", "BICUBIC", bounds.upper(), bounds.upper()
    )


def scale_clip(clip: Clip, width: int, height: int) -> Clip:
    """Return the clip at another even size, its own range kept; QP maps no longer apply (None)."""
    if clip.luma.shape[1:] == (height, width):
        return clip
    pairs = [
        _planes(_reformat(frame, width, height), Path("scaling"))
        for frame in _frames(clip, clip.full_range)
    ]
    luma, chroma = (np.stack(planes) for planes in zip(*pairs, strict=True))
    return replace(clip, luma=luma, chroma=chroma, qp=None, measured_qp=None)


def _frames(clip: Clip, full_range: bool) -> Iterator[av.VideoFrame]:
    height, width = clip.luma.shape[1:]
    for index, (luma, chroma) in enumerate(zip(clip.luma, clip.chroma, strict=True)):
        frame = av.VideoFrame(width, height, "yuv420p")
        frame.color_range = _FULL if full_range else int(ColorRange.MPEG)
        np.copyto(luma_view(frame), luma)
        for plane, samples in zip(frame.planes[1:], chroma, strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            rows[: height // 2, : width // 2] = samples
        frame.pts, frame.time_base = index, 1 / clip.fps
        yield frame


def write_clip(
    path: Path,
    clip: Clip,
    options: Mapping[str, str],
    threads: int = 1,
    encoder: str = "libx264",
) -> None:
    """Encode with one of FFmpeg's encoders; `options` are strings as FFmpeg takes them.

    One thread by default: with VBV the result depends on their number. The file appears under its
    name only when it is complete.

    Raises:
        MediaError: an option is refused, or the file cannot be written.
    """
    height, width = clip.luma.shape[1:]
    try:
        with (
            written_whole(path, ends_alike=True) as part,
            av.open(str(part), "w") as container,
        ):
            stream: Any = container.add_stream(encoder, rate=clip.fps, options=dict(options))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = 1 / clip.fps
            stream.codec_context.thread_count = threads
            stream.codec_context.color_range = _FULL if clip.full_range else int(ColorRange.MPEG)
            for frame in _frames(clip, clip.full_range):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{path}: cannot be encoded ({error}); check the options, and the space on its disk"
        ) from error


def read_photo(path: Path) -> Planes:
    """Return the luma of a picture file, uint8 [H, W], in full range 0..255.

    Gray pictures keep their values whatever layout the decoder gives them (gray WebP arrives as
    argb); colour ones in RGB are weighted after BT.601 as JPEG does.

    Raises:
        MediaError: no picture in there.
    """
    try:
        with open_container(path) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, OSError, StopIteration, IndexError) as error:
        raise MediaError(f"{path}: cannot be read as a picture; check the file") from error
    if frame.format.is_rgb or frame.format.has_palette:
        rgb = frame.to_ndarray(format="rgb24").astype(np.float32)
        return np.rint(rgb @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    luma = copy_luma(frame)
    if luma.dtype != np.uint8:
        raise MediaError(f"{path}: deeper than 8 bits; convert the picture to 8 bits first")
    return np.asarray(luma, np.uint8)
