"""A video whose codec changes in mid-stream, as in a broadcast: it ends there, and is whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import av.error

from carfilter.errors import MediaError
from carfilter.media.libav.stream import codec_number

logger = logging.getLogger("carfilter")

# Without a long look at the beginning, which may see the change.
_BESIDE_PARSERS = {"fflags": "+noparse", "analyzeduration": "1"}
_BEFORE_BYTES = 1 << 16  # the reader needs some to find its way in an MPEG-TS


class CopiedWatch:
    """Leaves out packets of streams that are copied or converted while these are of another codec
    than at first: an encoder, a decoder and a track are of one."""

    def __init__(self, streams: Iterable[av.stream.Stream], name: str) -> None:
        self._name = name
        self._codecs = {stream.index: codec_number(stream) for stream in streams}
        self._told = set[int]()

    def keeps(self, packet: av.Packet[Any]) -> bool:
        """Say whether a packet is of its stream's first codec; warn of the first that is not."""
        stream = packet.stream
        if codec_number(stream) in (self._codecs.get(stream.index, 0), 0):
            return True
        if stream.index not in self._told:
            self._told.add(stream.index)
            logger.warning(
                "%s: its %s #%d changes to another codec in mid-stream; what is of that codec is"
                " left out; cut the file there to keep all",
                self._name,
                stream.type,
                stream.index,
            )
        return False


class CodecWatch:
    """Pass on the packets of a video from where its decoder's codec begins to where it changes.

    Args:
        name: of the source, as messages call it.
        open_again: opens the source once more, with options for FFmpeg.
        live: goes on at the first key frame where the first codec returns.
    """

    def __init__(
        self,
        video: av.VideoStream,
        name: str,
        open_again: Callable[[dict[str, str]], av.container.InputContainer],
        *,
        live: bool = False,
    ) -> None:
        self._video, self._name, self._open_again = video, name, open_again
        self._codec, self._live = codec_number(video), live
        self._skips = self._has_begun = self._has_changed = False
        self._place: int | None = None  # of the last packet in the file, in bytes

    def packets(self, packet: av.Packet[Any]) -> Sequence[av.Packet[Any]]:
        """Return what is to be decoded when this packet has been read."""
        if self._has_changed and not self._returns(packet):
            return ()
        if codec_number(self._video) in (self._codec, 0):
            if self._skips and not self._has_begun:
                self._warn("its first pictures are of another codec than what follows, and")
            self._has_begun = True
            self._place = packet.pos if packet.size else self._place
            return (packet,)
        if not self._has_begun:  # what FFmpeg has looked at for the codec reaches beyond a change
            self._skips = True
            return ()
        self._has_changed = True
        last = self._last_packets()
        beside = "" if last else ", and perhaps the picture before,"
        until = (
            ", up to where the first one returns (start again to record the other)," * self._live
        )
        self._warn(
            f"its video changes to another codec in mid-stream; what follows{until or beside} is"
        )
        return last or (packet,)

    def _returns(self, packet: av.Packet[Any]) -> bool:
        if not self._live or not packet.is_keyframe or codec_number(self._video) != self._codec:
            return False
        logger.warning("%s: its video is of the first codec again and goes on", self._name)
        self._has_changed = False
        return True

    def _warn(self, what: str) -> None:
        remedy = "" if self._live else "; cut the file there to restore all"
        logger.warning("%s: %s left out%s", self._name, what, remedy)

    def _last_packets(self) -> Sequence[av.Packet[Any]]:
        """Read the last packets of the old codec once more, as they stand in the file.

        FFmpeg closes the parser of the old codec with a picture in it, and puts the last picture
        into the new codec's first packet, perhaps along with what follows:
        https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/demux.c (need_context_update).
        """
        if self._place is None or not Path(self._name).is_file():
            return ()
        try:
            with self._open_again(_BESIDE_PARSERS) as container:
                return self._read_on(container, self._place)
        except (MediaError, av.error.FFmpegError, IndexError):
            return ()

    def _read_on(
        self, container: av.container.InputContainer, place: int
    ) -> Sequence[av.Packet[Any]]:
        video = container.streams[self._video.index]
        assert isinstance(video, av.VideoStream)
        container.seek(max(place - _BEFORE_BYTES, 0), unsupported_byte_offset=True)
        found = []
        for packet in container.demux(video):
            if packet.pos is not None and packet.pos > place:
                found.append(packet)
            # The new codec is known when the last packet of the old one is complete.
            if codec_number(video) != self._codec:
                return found
        return ()
