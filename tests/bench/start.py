"""What it takes to start: one frame, and clips of an event, beside the imports alone."""

import statistics
import sys
import tempfile
from pathlib import Path

from .footage import make_clip, make_moving
from .processes import CARFILTER, Ran, carfilter, run
from .rows import Row, bar

IMPORTS = [sys.executable, "-c", "import av, numpy"]
_EVENT = (288, 384)
_EVENT_FRAMES = 50  # two seconds
_MOST_TIMES, _MOST_MB = 4.0, 150.0
_PEAKS = {"fast": 250.0, "best": 400.0}  # MB at 912x512
_LARGE, _LARGE_FRAMES, _LARGE_PEAK = (1080, 1920), 130, 900.0  # `best`, with all waiting that may


def measure(models: list[str], runs: int, ffmpeg: str) -> list[Row]:
    """Run the tool from exec to exit on one frame, and on an event, in turn with the imports.

    Ratios of CPU time stand beside those of the clock: they suffer less from what else runs.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = _programs(folder, models, ffmpeg)
        took: dict[str, list[Ran]] = {what: [] for what in programs}
        for _ in range(runs):
            for what, command in programs.items():
                took[what].append(run(command))
        basis = took["imports"]
        for what, ran in took.items():
            times = _ratio(ran, basis, "seconds")
            peak = max(one.peak_mb for one in ran)
            cpu = _ratio(ran, basis, "cpu_seconds")
            rows.append({"part": "start", "what": what,
                         "seconds": statistics.median(one.seconds for one in ran),
                         "cpu_seconds": statistics.median(one.cpu_seconds for one in ran),
                         "times_imports": times, "cpu_times_imports": cpu,
                         "peak_mb": peak})  # fmt: skip
            if what.startswith("one frame"):
                rows.append(bar(f"{what}: times the imports", times, _MOST_TIMES, most=True))
                rows.append(bar(f"{what}: peak in MB", peak, _MOST_MB, most=True))
        rows += _peaks(folder, models, ffmpeg)
    return rows


def _programs(folder: Path, models: list[str], ffmpeg: str) -> dict[str, list[str]]:
    one, event = (make_clip(folder, _EVENT, frames, ffmpeg) for frames in (1, _EVENT_FRAMES))
    programs = {"imports": IMPORTS}
    ways = {model: ["--weights", model] for model in models} | {"strength 0": ["--strength", "0"]}
    for way, options in ways.items():
        for what, clip in (("one frame", one), ("an event of 2 s", event)):
            programs[f"{what}, {way}"] = _tool(folder, clip, options)
    return programs


def _tool(folder: Path, clip: Path, options: list[str]) -> list[str]:
    out = str(folder / "out.mp4")
    return [*CARFILTER, "-v", "error", "-y", "--device", "cpu", str(clip), out, *options]


def _ratio(ran: list[Ran], basis: list[Ran], what: str) -> float:
    pairs = zip(ran, basis, strict=True)
    return statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs)


def _peaks(folder: Path, models: list[str], ffmpeg: str) -> list[Row]:
    """Hold the memory of longer clips against its bars."""
    clip = make_clip(folder, (512, 912), 2 * _EVENT_FRAMES, ffmpeg)
    rows = [
        bar(f"{model}, 912x512: peak in MB",
            run(_tool(folder, clip, ["--weights", model])).peak_mb, most, most=True)
        for model, most in _PEAKS.items() if model in models
    ]  # fmt: skip
    if "best" in models:
        clip = make_moving(folder, _LARGE, _LARGE_FRAMES, ffmpeg)
        command = carfilter(clip, folder / "out.mp4", "--device", "cpu", "--no-reuse")
        peak = run([*command, "--weights", "best"]).peak_mb
        what = "best, 1920x1080, a moving picture with few key frames: peak in MB"
        rows.append(bar(what, peak, _LARGE_PEAK, most=True))
    return rows
