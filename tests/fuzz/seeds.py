"""Small sound files of every kind that the mutants are made of."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from carfilter.restore.weights import load_weights, save_weights
from clips import make_clip, tiny_weights

_SVT = {"svtav1-params": "lp=1", "preset": "12"}
SEEDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"audio": "aac", "subtitles": "mov_text"},
    "b_frames.mp4": {"options": {"bf": "3", "g": "6"}, "frames": 24, "audio": "aac"},
    "fragments.mp4": {
        "audio": "aac",
        "options": {"g": "4"},
        "muxer": {"movflags": "frag_keyframe"},
    },
    "faststart.mp4": {"audio": "aac", "muxer": {"movflags": "faststart"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none"}},
    "rate.mp4": {"pts": [0, 1, 4, 5, 9, 20, 21, 40, 41, 42, 43, 60]},
    "plain.mkv": {"audio": "aac", "subtitles": "srt", "options": {"bf": "2"}},
    "deep.mkv": {"pix_fmt": "yuv420p10le"},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (33, 25), "frames": 6},
    "av1.mkv": {"codec": "libsvtav1", "options": _SVT, "size": (64, 64)},
    "mpeg2.mkv": {"codec": "mpeg2video", "audio": "pcm_s16le"},
    "plain.ts": {"audio": "aac", "frames": 30, "options": {"g": "10"}},
    "hevc.ts": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg4.avi": {"codec": "mpeg4", "audio": "pcm_alaw"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_s16le"},
    "plain.nut": {"audio": "pcm_mulaw"},
    "raw.nut": {"codec": "rawvideo", "frames": 4, "audio": "pcm_s16le"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj422p", "audio": "pcm_alaw"},
    "plain.flv": {"audio": "aac", "time_base": Fraction(1, 1000), "pts": range(0, 480, 40)},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "vp9.ivf": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "raw.h264": {"options": {"bf": "2", "g": "5"}},
    "raw.hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=none"}},
    "raw.m2v": {"codec": "mpeg2video"},
    "raw.mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "raw.obu": {"codec": "libsvtav1", "options": _SVT, "size": (64, 64)},
    "raw.y4m": {"codec": "rawvideo", "frames": 4},
}


def make_seeds(folder: Path) -> None:
    """Write every seed, and the checkpoints tiny.pt and tiny.safetensors, into a folder."""
    os.environ["SVT_LOG"] = "1"  # errors only
    for name, given in SEEDS.items():
        make_clip(folder / name, **given)
    network = load_weights(tiny_weights(folder / "tiny.pt")).network
    save_weights(folder / "tiny.pt", network, int8_ranges=[1.0, 1.0])
    others = {"past": load_weights(folder / "tiny.pt")}
    for name in ("tiny.pt", "tiny.safetensors"):
        save_weights(folder / name, network, {"steps": 3}, {"35": 0.3}, [1.0, 1.0], others)
