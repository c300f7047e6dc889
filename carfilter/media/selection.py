"""Which streams of a source are taken: -map, -an, -sn and -dn, and the video to restore."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import av
from av.stream import Disposition

from carfilter.errors import MediaError, NotAVideoError

_SPEC = re.compile(r"^(-)?0(?::([vasdt]))?(?::(\d+))?(\?)?$")
_DEFAULT_WEIGHT = 5_000_000  # pixels that the mark "default" outweighs
_TYPES = {"v": "video", "a": "audio", "s": "subtitle", "d": "data", "t": "attachment"}


def is_picture(stream: av.stream.Stream) -> bool:
    """Say whether a stream is cover art: one attached picture and not a video."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def select_streams(
    container: av.container.InputContainer,
    maps: Sequence[str],
    dropped_types: Collection[str],
    name: str,
) -> list[av.stream.Stream]:
    """Return the streams that are taken, in the order of the file.

    Args:
        maps: FFmpeg's -map specifiers; none takes every stream.
        dropped_types: types of -an, -sn and -dn: "audio", "subtitle", "data".
        name: of the source, for messages.

    Raises:
        MediaError: a specifier that is not understood, or that finds nothing.
    """
    streams = list(container.streams)
    chosen = set() if any(not m.startswith("-") for m in maps) else {*range(len(streams))}
    for spec in maps:
        match = _SPEC.match(spec)
        if not match:
            raise MediaError(
                f"-map {spec}: not understood; use forms such as 0, 0:v, 0:a:1, 0:3, -0:s"
            )
        minus, kind, number, optional = match.groups()
        found = [s for s in streams if kind is None or s.type == _TYPES[kind]]
        if number is not None:
            found = [found[int(number)]] if int(number) < len(found) else []
        if not found and not optional and not minus:
            raise MediaError(f"-map {spec}: {name} has no such stream; list them with ffprobe")
        indices = {s.index for s in found}
        chosen = chosen - indices if minus else chosen | indices
    return [s for s in streams if s.index in chosen and s.type not in dropped_types]


def main_video(
    container: av.container.InputContainer, chosen: Sequence[av.stream.Stream], name: str
) -> av.VideoStream:
    """Return the video to restore, chosen as FFmpeg does: the largest, or the default one.

    Raises:
        MediaError: there is none, or there is no decoder for it.
    """
    indices = {stream.index for stream in chosen}
    videos = [s for s in container.streams.video if not is_picture(s)]
    if not videos:
        raise NotAVideoError(f"{name}: holds no video stream to restore; check the file")
    taken = [s for s in videos if s.index in indices]
    if not taken:
        raise NotAVideoError(f"{name}: -map takes none of its video streams; give one that does")
    video = max(taken, key=_weight)
    if not video.codec_context:
        raise MediaError(f"{name}: no decoder for its video; convert it first")
    return video


def _weight(video: av.VideoStream) -> int:
    """https://ffmpeg.org/ffmpeg.html#Automatic-stream-selection, with FFmpeg's own numbers."""
    size = video.width * video.height if video.codec_context else 0
    return size + _DEFAULT_WEIGHT * bool(video.disposition & Disposition.default)
