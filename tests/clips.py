"""Real clips for the tests, encoded by PyAV; and readers that see what a player would see."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition

from carfilter.media.frames import copy_luma
from carfilter.restore.network import Fast, FastConfig
from carfilter.restore.weights import save_weights

RATE = 8000  # of the audio, as telephone and camera audio has it


@dataclass(frozen=True)
class ClipOptions:
    """What make_clip() makes; the defaults give a small H.264 clip."""

    frames: int = 12
    size: tuple[int, int] = (64, 48)
    pts: Sequence[int] | None = None  # ticks of time_base
    time_base: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    pix_fmt: str = "yuv420p"
    codec: str = "libx264"
    audio: str | None = None
    subtitles: str | None = None
    context: dict[str, Any] = field(default_factory=dict)  # attributes of the encoder
    options: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)


def make_clip(path: Path, given: ClipOptions | None = None, **changes: Any) -> Path:
    """Encode a moving pattern; `changes` override fields of ClipOptions."""
    clip = ClipOptions(**{**vars(given or ClipOptions()), **changes})
    with av.open(str(path), "w", container_options=clip.muxer) as container:
        video = container.add_stream(clip.codec, rate=clip.rate, time_base=clip.time_base)
        video.width, video.height = clip.size
        video.pix_fmt = clip.pix_fmt
        video.codec_context.options = {"bf": "0", "threads": "1", **clip.options}
        for name, value in clip.context.items():
            setattr(video.codec_context, name, value)
        audio = clip.audio and container.add_stream(clip.audio, rate=RATE)
        if audio:
            audio.codec_context.layout = "mono"
        text = clip.subtitles and container.add_stream(clip.subtitles)
        if text:
            text.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"
            text.codec_context.time_base = text.time_base = Fraction(1, 1000)
        for number in range(clip.frames):
            frame = draw_frame(number, clip.size, clip.pix_fmt)
            frame.pts = number if clip.pts is None else clip.pts[number]
            frame.time_base = clip.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            _add_audio(container, audio, clip.frames)
        if text:
            _add_text(container, text)
    return path


def draw_frame(number: int, size: tuple[int, int], pix_fmt: str) -> av.VideoFrame:
    """Draw noise that drifts, the same in each run: every frame and plane differs."""
    frame = av.VideoFrame(*size, pix_fmt)
    depth = frame.format.components[0].bits
    dtype = np.uint8 if depth == 8 else np.uint16
    for index, plane in enumerate(frame.planes):
        noise = np.random.default_rng(index).integers(16, 236, (plane.height, plane.width))
        drifting = np.roll(noise, number * 2, axis=1) * (1 << (depth - 8))
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        rows[:, : plane.width] = drifting
    return frame


def _add_audio(container: Any, stream: Any, frames: int) -> None:
    samples = RATE * frames // 25
    tone = (np.sin(np.arange(samples) / 7) * 9000).astype(np.int16)
    resampler = av.AudioResampler(
        stream.codec_context.format, "mono", RATE, frame_size=stream.codec_context.frame_size or 160
    )
    frame = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
    frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def _add_text(container: Any, stream: Any) -> None:
    from av.subtitles.subtitle import SubtitleSet

    for number, words in enumerate((b"first", b"second")):
        text = b"%d,0,Default,,0,0,0,,%s" % (number, words)
        packet = stream.codec_context.encode_subtitle(SubtitleSet.create(text, 0, 100))
        packet.pts = packet.dts = 40 + number * 150
        packet.time_base, packet.duration, packet.stream = Fraction(1, 1000), 100, stream
        container.mux(packet)


@dataclass
class Content:
    """All that a player would see of a file."""

    planes: list[list[np.ndarray]]  # per frame, uint8 or uint16 as stored
    seconds: list[Fraction]
    packets: dict[int, list[tuple[Fraction, bytes]]]  # of the other streams
    types: list[str]

    @property
    def luma(self) -> list[np.ndarray]:
        return [planes[0] for planes in self.planes]

    @property
    def chroma(self) -> list[list[np.ndarray]]:
        return [planes[1:] for planes in self.planes]


def read_content(path: Path) -> Content:
    """Decode the video and read the packets of all other streams."""
    content = Content([], [], {}, [])
    with av.open(str(path)) as container:
        video = next(
            s for s in container.streams.video if not s.disposition & Disposition.attached_pic
        )
        content.types = [s.type for s in container.streams]
        for packet in container.demux():
            if packet.stream.index == video.index:
                for frame in packet.decode():
                    content.planes.append([_plane(frame, i) for i in range(len(frame.planes))])
                    content.seconds.append(frame.pts * Fraction(frame.time_base))
            elif packet.size:
                seconds = (packet.pts or 0) * Fraction(packet.time_base)  # cover art has none
                content.packets.setdefault(packet.stream_index, []).append((seconds, bytes(packet)))
    return content


def _plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    if index == 0:
        return copy_luma(frame)
    plane = frame.planes[index]
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[: plane.height, : plane.width].copy()


def equal_planes(first: list[Any], second: list[Any]) -> bool:
    """Compare nested lists of arrays, exactly."""
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return len(first) == len(second) and all(map(equal_planes, first, second))


def tiny_weights(path: Path) -> Path:
    """Save an untrained small `fast` whose correction is visible, for tests of the whole way."""
    network = Fast(FastConfig(channels=16, body=1))
    with torch.no_grad():
        network.tail.weight.mul_(300)
    save_weights(path, network)
    return path
