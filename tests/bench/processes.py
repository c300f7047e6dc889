"""Programs run to their end, each with its own time and its own peak of memory (Linux)."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CARFILTER = [sys.executable, "-c", "from carfilter.commands.restore import main; main()"]
FAST_X264 = ["-c:v", "libx264", "-crf", "18", "-preset", "veryfast"]
_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Ran:
    """What one run of a program took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: list[str], cores: int = 0) -> Ran:
    """Run a program on so many cores (0: all); it must succeed."""
    launch = [sys.executable, "-S", "-E", str(_LAUNCH), str(cores), *command]
    done = subprocess.run(launch, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    if found.pop("code"):
        raise SystemExit(f"this failed, see above: {' '.join(command)}")
    return Ran(**found)


def carfilter(source: Path, target: Path, *options: str) -> list[str]:
    """Return the command of the whole tool, libx264 at CRF 18 and veryfast."""
    return [*CARFILTER, "-v", "error", "-y", str(source), str(target), *FAST_X264, *options]


def ffmpeg_has(ffmpeg: str, name: str) -> bool:
    """Say whether an ffmpeg has a filter."""
    listed = subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True)
    return any(line.split()[1:2] == [name] for line in listed.stdout.splitlines())
