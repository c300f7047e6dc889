"""What ffprobe says of a file and a look at it says too is the same."""

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from carfilter.inspection.inspect import InspectOptions, inspect
from carfilter.inspection.inspection import Inspection
from carfilter.media.survey.stream import Stream
from clips import make_clip

WHOLE = InspectOptions(full=True, tries=False, hashes=False)
SAMPLES = Path(__file__).parent.parent.parent / "samples"
TICK = 1e-3  # of seconds: FFmpeg 5 rounds the length of a MOV so far


def ffprobe(path: Path) -> dict[str, Any]:
    """Return its streams, format, and the main video's pictures."""
    command = ["ffprobe", "-v", "error", "-count_packets", "-show_streams", "-show_format"]
    command += ["-show_frames", "-of", "json", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    shown: dict[str, Any] = json.loads(told.stdout)
    return shown


def differences(path: Path) -> dict[str, tuple[Any, Any]]:
    """Return by name what the two say where it differs: ours, ffprobe's."""
    seen, told = inspect(path, WHOLE), ffprobe(path)
    pairs = {"container": (seen.container, told["format"]["format_name"])}
    pairs["size"] = (seen.size, int(told["format"]["size"]))
    pairs["seconds"] = (_rounded(seen.container_seconds), _seconds(told["format"], "duration"))
    pairs["streams"] = (len(seen.streams), len(told["streams"]))
    for ours, theirs in zip(seen.streams, told["streams"], strict=False):
        pairs |= {f"#{ours.index} {name}": pair for name, pair in _of_stream(ours, theirs).items()}
    if "" not in seen.coding.types:  # a codec whose packets do not tell
        pairs["types"] = (dict(sorted(seen.coding.types.items())), _types(seen, told["frames"]))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _of_stream(ours: Stream, theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {
        "kind": (ours.kind, theirs["codec_type"]),
        "codec": (ours.codec, theirs.get("codec_name", "unknown")),
        "packets": (ours.packets, int(theirs.get("nb_read_packets", 0))),
        "time base": (ours.time_base, Fraction(theirs["time_base"])),
        "start": (_rounded(ours.start_seconds), _seconds(theirs, "start_time")),
        "seconds": (_rounded(ours.declared_seconds), _seconds(theirs, "duration")),
    }
    if ours.kind == "video":
        pairs["size"] = ((ours.width, ours.height), (theirs["width"], theirs["height"]))
        pairs["pixels"] = (ours.pix_fmt, theirs["pix_fmt"])
        pairs["rate"] = (ours.average_rate or 0, _fraction(theirs["avg_frame_rate"]))
        pairs["base rate"] = (ours.base_rate or 0, _fraction(theirs["r_frame_rate"]))
    if ours.kind == "audio":
        sound = (int(theirs["sample_rate"]), theirs["channels"])
        pairs["sound"] = ((ours.sample_rate, ours.channels), sound)
    return pairs


def _types(seen: Inspection, frames: list[dict[str, Any]]) -> dict[str, int]:
    main = next(stream.index for stream in seen.streams if stream.is_main)
    kinds = [frame["pict_type"] for frame in frames if frame.get("stream_index") == main]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _fraction(text: str) -> Fraction:
    above, below = map(int, text.split("/"))
    return Fraction(above, below) if below else Fraction(0)


def _seconds(told: dict[str, Any], name: str) -> float | None:
    return _rounded(float(told[name])) if name in told else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else pytest.approx(seconds, abs=TICK)


@pytest.mark.ffmpeg
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("a.mp4", {"audio": "aac", "options": {"bf": "2", "g": "8"}}),
        ("a.mkv", {"audio": "pcm_s16le", "subtitles": "subrip"}),
        ("a.ts", {"audio": "aac", "options": {"bf": "2"}}),
        ("a.mov", {"rate": Fraction(30000, 1001), "time_base": Fraction(1001, 30000)}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.flv", {}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("deep.mkv", {"pix_fmt": "yuv420p10le"}),
        ("uneven.mkv", {"pts": [0, 40, 120, 140, 260], "frames": 5, "time_base": "1/1000"}),
        ("late.mkv", {"pts": range(9000, 9480, 40), "time_base": "1/1000"}),
        ("odd.webm", {"codec": "libvpx-vp9", "size": (66, 50)}),
        ("lossless.mkv", {"codec": "ffv1"}),
    ],
)
def test_a_look_agrees_with_ffprobe(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    if "time_base" in changes:
        changes = {**changes, "time_base": Fraction(changes["time_base"])}
    assert not differences(make_clip(tmp_path / name, **changes))


@pytest.mark.ffmpeg
def test_a_look_at_the_sample_agrees_with_ffprobe() -> None:
    assert not differences(SAMPLES / "plaza.mp4")
