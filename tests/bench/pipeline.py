"""What the pipeline costs beside plain ffmpeg: the same decode, the same libx264, no restoring.

    python tests/bench/pipeline.py [CLIP] [--runs 3]

Prints the speed of `carfilter --strength 0`, and of an identity network that takes the whole way
through batches and slots, as ratios to `ffmpeg -i CLIP -c:v libx264`; start-up (a clip of one
frame) is subtracted from each. Without CLIP, a minute of the sample at 640x360 and 25 fps is made.
Run it on an otherwise idle machine.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "samples" / "plaza.mp4"
X264 = ["-c:v", "libx264", "-crf", "18", "-preset", "medium", "-c:a", "copy"]

IDENTITY = """
import sys
from carfilter.process import prepare_process
prepare_process()
import torch
from torch import nn
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import filter_video
from carfilter.media.options import TargetOptions
from carfilter.restore.weights import Model

class Identity(nn.Module):
    uses_qp, halo, live_bytes = True, 0, 0
    def forward(self, luma, qp=None):
        return torch.zeros_like(luma)

options = FilterOptions(target=TargetOptions(overwrite=True))
filter_video(sys.argv[1], sys.argv[2], Model(Identity(), "identity", "0" * 64), options)
"""


def commands(source: Path, target: Path) -> dict[str, list[str]]:
    """Return what is compared, by name."""
    carfilter = [sys.executable, "-c", "from carfilter.commands.restore import main; main()"]
    return {
        "ffmpeg": ["ffmpeg", "-v", "error", "-y", "-i", str(source), *X264, str(target)],
        "strength 0": [
            *carfilter, str(source), str(target), "-y", "-v", "error", "--strength", "0",
        ],
        "identity": [sys.executable, "-c", IDENTITY, str(source), str(target)],
    }  # fmt: skip


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def make_minute(folder: Path) -> Path:
    """Loop the sample to a minute of 640x360 at 25 fps, coded as a camera would."""
    clip = folder / "minute.mp4"
    make = ["ffmpeg", "-v", "error", "-stream_loop", "20", "-i", str(SAMPLE)]
    make += ["-vf", "scale=640:360,setpts=N/25/TB", "-r", "25", "-frames:v", "1500", "-an"]
    make += ["-c:v", "libx264", "-crf", "35", "-bf", "0", "-g", "50", str(clip)]
    subprocess.run(make, check=True)
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    if not shutil.which("ffmpeg"):
        sys.exit("needs the ffmpeg program (Debian: apt install ffmpeg)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = given.clip or make_minute(folder)
        short = folder / "short.mp4"
        cut = ["ffmpeg", "-v", "error", "-i", str(clip), "-c", "copy", "-frames:v", "1", str(short)]
        subprocess.run(cut, check=True)
        target = folder / "out.mp4"
        times: dict[str, list[float]] = {name: [] for name in commands(clip, target)}
        for _ in range(given.runs):  # interleaved, so that a drifting clock speed hits all alike
            for name, command in commands(clip, target).items():
                start_up = seconds(commands(short, target)[name])
                times[name].append(seconds(command) - start_up)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:12} {value:7.2f} s   {median['ffmpeg'] / value:.3f} x the speed of ffmpeg")


if __name__ == "__main__":
    main()
