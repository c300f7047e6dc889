"""The whole tool, its stages and its neighbours, as processes on real files."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parents[2] / "samples" / "plaza.mp4"
CARFILTER = [sys.executable, "-c", "from carfilter.cli import main; main()"]
FAST_X264 = ["-c:v", "libx264", "-crf", "18", "-preset", "veryfast"]

Row = dict[str, Any]


def make_clip(folder: Path, size: tuple[int, int], frames: int, ffmpeg: str) -> Path:
    """Loop the sample at a size, coded as a camera would."""
    clip = folder / f"{size[1]}x{size[0]}_{frames}.mp4"
    make = [ffmpeg, "-v", "error", "-y", "-stream_loop", "-1", "-i", str(SAMPLE)]
    make += ["-vf", f"scale={size[1]}:{size[0]},setpts=N/25/TB", "-r", "25"]
    make += ["-frames:v", str(frames), "-an"]
    make += ["-c:v", "libx264", "-crf", "35", "-bf", "0", "-g", "50", str(clip)]
    subprocess.run(make, check=True)
    return clip


def make_quiet(folder: Path, size: tuple[int, int], frames: int, ffmpeg: str) -> Path:
    """Make quiet footage: a still picture with a small figure on its way across one corner."""
    clip = folder / f"quiet_{size[1]}x{size[0]}.mp4"
    height, width = size
    still = f"scale={width}:{height}:flags=lanczos,loop=-1:1,setpts=N/25/TB"
    figure = f"overlay=x=20+n*2:y={height - 120}"
    graph = f"[0:v]{still}[s];color=c=0x404040:s=24x60:r=25[f];[s][f]{figure}"
    make = [ffmpeg, "-v", "error", "-y", "-i", str(SAMPLE), "-filter_complex", graph]
    make += ["-frames:v", str(frames), "-an"]
    make += ["-c:v", "libx264", "-crf", "30", "-bf", "0", "-g", "250", str(clip)]
    subprocess.run(make, check=True)
    return clip


def seconds(command: list[str]) -> float:
    """Return how long a process runs; it must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def rates(
    commands: dict[str, list[str]], short: dict[str, list[str]], runs: int, frames: int
) -> Row:
    """Return frames/s of each, start-up (a clip of one frame) subtracted; runs are interleaved."""
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name in commands:
            took[name].append(seconds(commands[name]) - seconds(short[name]))
    return {name: (frames - 1) / statistics.median(values) for name, values in took.items()}


def measure(size: tuple[int, int], device: str, runs: int, frames: int, ffmpeg: str) -> list[Row]:
    """Time the whole tool, each stage of it alone, and FFmpeg's own filters, on one clip."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, one = (make_clip(folder, size, n, ffmpeg) for n in (frames, 1))
        raw, raw_one = folder / "raw.nut", folder / "raw_one.nut"
        for source, target in ((clip, raw), (one, raw_one)):
            to_raw = ["-c:v", "rawvideo", str(target)]
            subprocess.run([ffmpeg, "-v", "error", "-y", "-i", str(source), *to_raw], check=True)
        out = str(folder / "out.mp4")

        def commands(source: Path, raw: Path) -> dict[str, list[str]]:
            plain = [ffmpeg, "-v", "error", "-y", "-i", str(source)]
            ours = [*CARFILTER, "-v", "error", "-y", "--device", device]
            peers = ("spp=qp=10", "fspp=qp=10", "uspp=qp=10", "nlmeans")
            return {
                "decode": [*plain, "-f", "null", "-"],
                "encode": [ffmpeg, "-v", "error", "-y", "-i", str(raw), *FAST_X264, out],
                "ffmpeg": [*plain, *FAST_X264, out],
                "strength 0": [*ours, str(source), out, "--strength", "0", *FAST_X264],
                "carfilter": [*ours, str(source), out, "--no-reuse", *FAST_X264],
                **{
                    f"ffmpeg {peer}": [*plain, "-vf", peer, *FAST_X264, out]
                    for peer in peers
                    if _has_filter(ffmpeg, peer.split("=")[0])
                },
            }

        fps = rates(commands(clip, raw), commands(one, raw_one), runs, frames)
        start_up = seconds(commands(one, raw_one)["carfilter"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shape = f"{size[1]}x{size[0]}"
    rows = [
        {"part": "tool", "size": shape, "what": name, "fps": value,
         "times_carfilter": value / fps["carfilter"]}
        for name, value in fps.items()
    ]  # fmt: skip
    rows.append({"part": "start", "size": shape, "seconds": start_up, "peak_mb": peak})
    return rows


def _has_filter(ffmpeg: str, name: str) -> bool:
    listed = subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True)
    return any(line.split()[1:2] == [name] for line in listed.stdout.splitlines())
