"""Decode one video stream to its end, whatever is wrong with it: each picture comes out that there
is, and what cannot be decoded is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import av
import av.error
from av.codec.codec import Capabilities
from av.codec.context import Flags, ThreadType

from carfilter.errors import MediaError
from carfilter.media.frames import check_pix_fmt, has_luma_plane, pixel_format
from carfilter.media.hardware import HardwareDecoder
from carfilter.media.opening import check_size, decoder_limit
from carfilter.media.options import SourceOptions
from carfilter.media.qp.told import exports_qp
from carfilter.process import cores

_TAIL_BYTES = 64 << 20  # of packets that are kept for a second try
_ONE_EACH = ("h264", "hevc")  # of whose packets, where not interlaced, each holds a picture
_REORDERED = 32  # packets that a decoder may hold beside those in its threads


def prepare_decoder(video: av.VideoStream, options: SourceOptions, name: str) -> None:
    """Set up the decoder of a video that was just opened: threads, limits, what it exports.

    Raises:
        MediaError: there is no picture, or one that is too large, or its pixel format will not do.
    """
    context = video.codec_context
    check_size(context.width, context.height, options.max_pixels, name)
    if context.pix_fmt is None and name == "stdin" and "mp4" in video.container.format.name:
        raise MediaError(
            "stdin: an MP4 whose index lies at its end cannot be read from a pipe; it needs"
            " -movflags +faststart (or send -f nut or -f matroska, or give the file by name)"
        )
    if context.pix_fmt is None or not context.width * context.height:
        raise MediaError(
            f"{name}: no frame of its video can be decoded; it is damaged, holds no picture yet,"
            f" or pictures larger than the {options.max_pixels} pixels allowed, of which"
            " carfilter --max-pixels takes more"
        )
    assert context.format is not None
    if options.pix_fmt is None or has_luma_plane(context.format):
        check_pix_fmt(context.format, name)
    else:
        check_pix_fmt(pixel_format(options.pix_fmt), f"-pix_fmt {options.pix_fmt}")
    context.options = {**context.options, **decoder_limit(options.max_pixels)}
    # Else FFmpeg holds back, since 7.1 in HEVC too, what follows a lost picture up to the next key
    # frame; such frames are marked as corrupt instead.
    context.flags |= Flags.output_corrupt
    context.thread_type = "AUTO"
    if options.live:
        context.thread_type = "SLICE"  # frame threads hold back a frame each
    if options.qp_maps and exports_qp(context):
        context.options = {**context.options, "export_side_data": "venc_params"}
        # With frame threads FFmpeg exports a picture's QP while another thread may still decode
        # it: 234 of 432,000 blocks were 0 in a trial of H.264 with B-frames, others in each run.
        if context.name != "vp9":
            context.thread_type = "SLICE"
    # Fixed, since with 0 some decoders take a thread per core of the host and not of the container.
    context.thread_count = options.threads or cores()


class Decoder:
    """Hand packets to a codec context and frames back.

    Args:
        context: not yet open; its options and threads are settled.
        device: decodes instead, as long as it can.
        on_damage: called with the reason for each packet that cannot be decoded.
    """

    def __init__(
        self,
        context: av.VideoCodecContext,
        device: HardwareDecoder | None,
        on_damage: Callable[[str], None],
    ) -> None:
        self._context, self._options, self._on_damage = context, dict(context.options), on_damage
        self._device = device
        threads_frames = bool(context.codec.capabilities & Capabilities.frame_threads)
        self._threads = threads_frames and bool(context.thread_type & ThreadType.FRAME)
        self._held = context.thread_count + _REORDERED
        self._tail: deque[_Group] = deque()  # the last ones, as far as frames may be missing
        self._failures = 0  # of the tail
        self._counts = context.codec.canonical_name in _ONE_EACH
        self._unseen: set[int | None] = set()  # pts of packets that gave no frame, where it counts
        self._refused = 0  # packets over which the decoder failed

    def decode(self, packet: av.Packet[Any]) -> Iterator[av.VideoFrame]:
        """Yield the frames that a packet completes; an empty one completes none.

        FFmpeg's decoders take an empty packet for the end; demuxers give it for a sample without
        bytes, whose picture is the one before. https://ffmpeg.org/doxygen/trunk/ffmpeg__dec_8c.html
        """
        if not packet.size:
            return
        self._remember(packet)
        yield from self._noted(self._frames(self._device or self._context, packet))

    def drain(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that are still in the decoder, at the end of the stream."""
        yield from self._noted(self._frames(self._device or self._context, None))
        while self._tail and not self._tail[0].missing:
            self._tail.popleft()
        if self._tail:
            yield from self._noted(list(self._second_try()))
        self._tail.clear()

    def vanished(self) -> list[int]:
        """Return the pts of pictures, after drain(), that went missing without an error: a decoder
        may pass over those that refer to a lost one."""
        gone = sorted(pts for pts in self._unseen if pts is not None)
        return gone[self._refused :] if self._counts else []

    def _second_try(self) -> Iterator[av.VideoFrame]:
        """Decode once more, without frame threads, from a key frame before what is missing.

        With frame threads the last errors wait until the decoder is drained. PyAV stops at the
        first of them, or passes over it, and what comes after can be asked for no more:
        https://github.com/PyAV-Org/PyAV/blob/main/av/codec/context.py (_decode).
        """
        again: Any = av.CodecContext.create(self._context.codec.name, "r")
        again.extradata, again.options = self._context.extradata, self._options
        again.width, again.height = self._context.width, self._context.height
        again.flags, again.thread_type = self._context.flags, ThreadType.SLICE
        told, self._failures = self._failures, 0
        wanted = {pts for group in self._tail for pts in group.missing}
        for packet in (*(packet for group in self._tail for packet in group.packets), None):
            for frame in self._frames(again, packet, tell=self._failures >= told):
                if frame.pts in wanted:
                    wanted.discard(frame.pts)
                    yield frame

    def _frames(
        self,
        context: av.VideoCodecContext | HardwareDecoder,
        packet: av.Packet[Any] | None,
        *,
        tell: bool = True,
    ) -> list[av.VideoFrame]:
        try:
            return context.decode(packet)
        except EOFError:
            return []
        except av.error.FFmpegError as error:
            self._failures += 1
            if tell:
                self._refused += 1
                self._on_damage(f"damaged ({error.strerror})")
            return []

    def _remember(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None:
            return
        if self._counts and not packet.is_discard:
            self._unseen.add(packet.pts)
        if not self._threads or (self._device is not None and self._device.is_used):
            return
        if packet.is_keyframe:
            self._tail.append(_Group())
        if self._tail:
            self._tail[-1].add(packet)
        while self._tail and (
            sum(group.bytes for group in self._tail) > _TAIL_BYTES
            or sum(len(group.packets) for group in islice(self._tail, 1, None)) > self._held
        ):
            self._tail.popleft()
            self._failures = 0

    def _noted(self, frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            self._counts = self._counts and not frame.interlaced_frame
            self._unseen.discard(frame.pts)
            for group in self._tail:
                group.missing.discard(frame.pts)
            yield frame


@dataclass
class _Group:
    """A key frame and what follows up to the next one."""

    packets: list[av.Packet[Any]] = field(default_factory=list)
    missing: set[int | None] = field(default_factory=set)  # pts that gave no frame yet
    bytes: int = 0

    def add(self, packet: av.Packet[Any]) -> None:
        self.packets.append(packet)
        self.missing.add(packet.pts)
        self.bytes += packet.size
