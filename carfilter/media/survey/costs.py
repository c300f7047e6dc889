"""What decoding and encoding a picture cost on this machine, in seconds of a core."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from carfilter.media.frames import luma_view
from carfilter.pictures import Luma

_ENCODER = {"crf": "18", "preset": "medium"}  # as the filter's default has it


def decoding_cost(decoder: av.VideoCodecContext, packets: Sequence[av.Packet[Any]]) -> float:
    """Decode packets once more, from a key frame on; return seconds of a core for a picture.

    0 where nothing can be decoded.
    """
    decoder.flush_buffers()
    begun, frames = time.process_time(), 0
    for packet in [*packets, None]:
        try:
            frames += len(decoder.decode(packet))
        except (av.error.FFmpegError, EOFError):
            continue
    decoder.flush_buffers()
    return (time.process_time() - begun) / frames if frames else 0.0


def encoding_cost(pictures: Sequence[Luma]) -> float:
    """Encode pictures as the filter does by default; return seconds of a core for each.

    Args:
        pictures: uint8 luma [H, W] of one even size. Chroma is flat, which takes a few per cent
            less time than a real one. Of a picture of one row or column nothing is left.
    """
    if "libx264" not in av.codecs_available or not pictures or not pictures[0].size:
        return 0.0
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = dict(_ENCODER)
    encoder.thread_type = "AUTO"
    frames = [_frame(luma, number) for number, luma in enumerate(pictures)]
    begun = time.process_time()
    for frame in [*frames, None]:
        encoder.encode(frame)
    return (time.process_time() - begun) / len(pictures)


def _frame(luma: Luma, number: int) -> av.VideoFrame:
    height, width = luma.shape
    frame = av.VideoFrame(width, height, "yuv420p")
    np.copyto(luma_view(frame), luma)
    for plane in frame.planes[1:]:
        np.frombuffer(memoryview(plane), np.uint8)[:] = 128
    frame.pts = number
    return frame
