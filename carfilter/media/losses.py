"""What the target cannot hold of the picture: said once, at the first frame it matters for."""

from __future__ import annotations

import logging
from collections.abc import Collection
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from carfilter.media.conform import is_quarter_turn
from carfilter.media.frames import display_matrix, side_data
from carfilter.media.ticks import as_fraction, frame_seconds, packet_seconds

if TYPE_CHECKING:
    import av

logger = logging.getLogger("carfilter")

# Containers that describe colours themselves; elsewhere the stream has to.
_WITH_COLOURS = {"matroska", "webm", "mp4", "mov", "ipod", "mxf"}
_WITHOUT_COLOURS = {"rawvideo", "ffv1", "mpeg4", "utvideo", "ffvhuff", "huffyuv", "mjpeg", "png"}
_WITH_ROTATION = {"mp4", "mov", "ipod", "3gp", "3g2", "psp", "f4v", "ismv", "matroska"}
# Of a stream, by AVPacketSideDataType: PyAV has no way to write them.
_BESIDE = {6: "stereo 3D", 21: "360-degree projection", 36: "cropping", 38: "3D displays"}
# They tell no shape of a sample, and of these codecs only some do so themselves.
_WITHOUT_SHAPE = {"ivf", "obu", "flv", "rawvideo"}
_WITH_SHAPE = ("libx26", "h264", "hevc", "mpeg", "mjpeg")
_WITH_CAPTIONS = ("libx264", "mpeg2video", "h264_nvenc", "hevc_nvenc")
_MPEG2_SHAPES = (Fraction(4, 3), Fraction(16, 9), Fraction(221, 100))  # of a picture
_SHAPE_APART = 0.002  # share by which a sample may come out wider or narrower
_CLOSED_UP = {"mov": ("pcm_",), "mp4": ("pcm_",), "avi": ("pcm_", "mp3")}  # codecs by their names
_PAUSE = Fraction(1, 5)  # seconds
_UNSPECIFIED, _FULL_RANGE = 2, 2  # FFmpeg's numbers


class Losses:
    """Watch the frames of one target; warn of colour tags and of times that it cannot hold."""

    def __init__(
        self,
        format_name: str,
        codec: str,
        rate: Fraction | None,
        decoder: av.VideoCodecContext,
        *,
        has_times: bool,
    ) -> None:
        self._format, self._codec = format_name, codec
        self._step = 1 / (rate or Fraction(25))
        self._has_times = has_times
        self._decoder, self._shape = decoder, decoder.sample_aspect_ratio or 1
        self._keeps_captions = codec.startswith(_WITH_CAPTIONS)
        self.pauses = Pauses(format_name)
        self._start: Fraction | None = None
        self._frames = 0

    def note(self, frame: av.VideoFrame) -> None:
        """Look at the next frame on its way to the encoder."""
        if self._frames == 0:
            self._check_colours(frame)
        if not self._keeps_captions and side_data(frame, "A53_CC") is not None:
            self._keeps_captions = True  # once is enough
            logger.warning(
                "the source has closed captions in its pictures, which %s does not carry; use"
                " libx264, or write them to a file of their own with ffmpeg",
                self._codec,
            )
        self._note_change_of_shape()
        if not self._has_times and (at := frame_seconds(frame)) is not None:
            self._check_time(at)
        self._frames += 1

    def _note_change_of_shape(self) -> None:
        # The decoder is some frames ahead, and PyAV does not tell it of a frame.
        shape = self._decoder.sample_aspect_ratio or 1
        if self._shape and shape != self._shape:
            logger.warning(
                "the shape of a sample changes from %s to %s on the way, and a file has one: the"
                " result has the first; cut the source there to keep both",
                self._shape,
                shape,
            )
            self._shape = 0  # once is enough

    def note_container(self, kinds: Collection[int], shape: Fraction | None) -> None:
        """Say what the source's container tells of its video that is not carried.

        Args:
            shape: width by height of a sample; None is not known.
        """
        is_told = self._format not in _WITHOUT_SHAPE or self._codec.startswith(_WITH_SHAPE)
        if shape not in (None, 1) and not is_told:
            logger.warning(
                "the %s format with %s cannot hold the shape of a sample (%s); give -c:v libx264"
                " with an .mkv target, or tell it to the player",
                self._format,
                self._codec,
                shape,
            )
        lost = [name for kind, name in _BESIDE.items() if kind in kinds]
        if lost:
            logger.warning(
                "the source's %s metadata is not carried into the result, whose pixels stay as they"
                " are; tell it to the player",
                " and ".join(lost),
            )

    def note_shape(self, shape: Fraction | None, width: int, height: int) -> None:
        """Say what FFmpeg does without a word: MPEG-2 knows square samples and three shapes of a
        picture (aspect_ratio_information, table 6-3 of H.262); Matroska and MP4 hold any.

        Args:
            shape: as in note_container(), of the picture that is encoded.
        """
        if shape is None or self._codec != "mpeg2video" or self._holds(_WITH_ROTATION):
            return
        held = [Fraction(1), *(picture * height / width for picture in _MPEG2_SHAPES)]
        nearest = min(held, key=lambda one: abs(one - shape))
        if abs(nearest / shape - 1) > _SHAPE_APART:
            logger.warning(
                "the %s format with mpeg2video cannot hold the shape of a sample (%s), the nearest"
                " is %s; give -c:v libx264, or an .mkv target",
                self._format,
                shape,
                nearest.limit_denominator(1000),
            )

    def _holds(self, formats: set[str]) -> bool:
        return bool(formats & set(self._format.split(",")))

    def turn_of(self, frame: av.VideoFrame, *, asked: bool) -> list[int] | None:
        """Return the display matrix by which pixels are to be turned, since the user wants it so or
        since the format cannot tell a player to do it; None leaves them."""
        matrix = display_matrix(frame)
        if matrix is None:
            return None
        holds = self._holds(_WITH_ROTATION)
        if not is_quarter_turn(matrix):
            if not holds and [bool(v) for v in matrix[:5]] != [True, False, False, False, True]:
                logger.warning("the %s format cannot hold the picture's rotation", self._format)
            return None
        if holds and not asked:
            return None
        if holds:
            logger.info("--upright: the pixels are turned, and no rotation is written")
        else:
            logger.warning(
                "the %s format cannot hold the video's rotation; its pixels are turned upright",
                self._format,
            )
        return matrix

    def _check_colours(self, frame: av.VideoFrame) -> None:
        if self._codec not in _WITHOUT_COLOURS or self._holds(_WITH_COLOURS):
            return
        matrix, primaries, transfer = frame.colorspace, frame.color_primaries, frame.color_trc
        tags = [
            name
            for name, value in (("matrix", matrix), ("primaries", primaries), ("trc", transfer))
            if value != _UNSPECIFIED
        ]
        if self._format != "yuv4mpegpipe" and frame.color_range == _FULL_RANGE:
            tags.append("full range")  # the limited one is what a reader takes for granted
        if tags:
            logger.warning(
                "the %s format with %s cannot hold the picture's colour tags (%s);"
                " use -f matroska, or tell them to the reader",
                self._format,
                self._codec,
                ", ".join(tags),
            )

    def _check_time(self, at: Fraction) -> None:
        if self._start is None:
            self._start = at
        if abs(at - self._start - self._frames * self._step) > self._step / 2:
            self._has_times = True  # once is enough
            logger.warning(
                "the %s format holds no timestamps: from frame %d on the times differ from the"
                " source's, whose rate is not a constant %.6g; use -f nut or -f matroska",
                self._format,
                self._frames,
                float(1 / self._step),
            )


class Pauses:
    """Watch the packets of sound; warn of the first pause that a container closes up.

    Where all samples take as many bytes MOV counts them alone, and AVI counts the bytes.
    """

    def __init__(self, format_name: str) -> None:
        self._format, self._ends = format_name, dict[int, Fraction]()
        self._closed = _CLOSED_UP.get(format_name, ())

    def note(self, packet: av.Packet[Any]) -> None:
        """Look at the next packet on its way to the muxer."""
        if not self._closed or packet.stream.type != "audio":
            return
        stream, at = packet.stream, packet_seconds(packet)
        if at is None:
            return
        end, base = self._ends.get(stream.index), as_fraction(packet.time_base)
        self._ends[stream.index] = at + (packet.duration or 0) * base
        codec = stream.codec_context.name if stream.codec_context else ""
        if end is None or at - end < _PAUSE or not codec.startswith(self._closed):
            return
        logger.warning(
            "sound #%d (%s) pauses for %.3f s at %.3f s, which the %s format closes up: what"
            " follows comes too early; use an .mkv target",
            stream.index,
            codec,
            at - end,
            end,
            self._format,
        )
        self._closed = ()
