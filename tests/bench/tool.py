"""The whole tool, its stages alone and its neighbours, in turn on one clip."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carfilter.restore.weights import Model

from . import stages
from .footage import make_clip
from .processes import FAST_X264, Ran, carfilter, ffmpeg_has, run
from .rows import Row, bar, size_name
from .timing import Times, median_ms, ratio, seconds_of

_PEERS = ("spp=qp=10", "fspp=qp=10", "uspp=qp=10", "nlmeans")
_SLOW_PEERS = ("uspp=qp=10", "nlmeans")
_SLOW_PEERS_FRAMES = 10  # two of them take seconds a frame at 1080p
_SERIAL_SHARE = 0.85


@dataclass(frozen=True)
class _Program:
    """A program on a clip, and on one frame of it, which is what it takes to start."""

    whole: list[str]
    one: list[str]
    frames: int


def measure(
    models: list[Model], size: tuple[int, int], device: str, runs: int, frames: int, ffmpeg: str
) -> list[Row]:
    """Time the whole tool with each model, its stages alone, and FFmpeg's own filters."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = _programs(models, size, device, frames, ffmpeg, folder)
        clip, out = make_clip(folder, size, frames, ffmpeg), folder / "stage.mp4"
        jobs = stages.jobs(models, clip, device, out, frames)
        measured: Times = {what: [] for what in (*programs, *jobs)}  # of a frame
        started: dict[str, list[Ran]] = {what: [] for what in programs}
        ended: dict[str, list[Ran]] = {what: [] for what in programs}
        for what in jobs:
            jobs[what]()  # once unmeasured
        for _ in range(runs):
            for what, program in programs.items():
                started[what].append(run(program.one))
                ended[what].append(run(program.whole))
                seconds = ended[what][-1].seconds - started[what][-1].seconds
                measured[what].append(seconds / (program.frames - 1))
            for what, job in jobs.items():
                measured[what].append(seconds_of(job) / frames)
    shape = size_name(size)
    rows = [_speed(shape, what, measured, models) for what in measured]
    rows += [_size(shape, what, started[what], ended[what]) for what in programs]
    return rows + _serial(shape, measured, models) + _bars(shape, measured, models)


def _programs(
    models: list[Model], size: tuple[int, int], device: str, frames: int, ffmpeg: str, folder: Path
) -> dict[str, _Program]:
    one, out = make_clip(folder, size, 1, ffmpeg), folder / "out.mp4"

    def program(command: Callable[[Path], list[str]], count: int = frames) -> _Program:
        clip = make_clip(folder, size, count, ffmpeg)
        return _Program(command(clip), command(one), count)

    def ours(*options: str) -> Callable[[Path], list[str]]:
        return lambda clip: carfilter(clip, out, "--device", device, *options)

    def plain(*options: str) -> Callable[[Path], list[str]]:
        start = [ffmpeg, "-nostdin", "-v", "error", "-y", "-i"]
        return lambda clip: [*start, str(clip), *options, *FAST_X264, str(out)]

    programs = {_tool(m): program(ours("--weights", m.name, "--no-reuse")) for m in models}
    programs["carfilter --strength 0"] = program(ours("--strength", "0"))
    programs["ffmpeg"] = program(plain())
    for peer in _PEERS:
        if ffmpeg_has(ffmpeg, peer.split("=")[0]):
            count = min(frames, _SLOW_PEERS_FRAMES) if peer in _SLOW_PEERS else frames
            programs[f"ffmpeg {peer}"] = program(plain("-vf", peer), count)
    return programs


def _tool(model: Model) -> str:
    return f"carfilter --weights {model.name}"


def _speed(shape: str, what: str, measured: Times, models: list[Model]) -> Row:
    ms, ours = median_ms(measured, what), _tool(models[0])
    return {"part": "tool", "size": shape, "what": what, "ms_per_frame": ms, "fps": 1e3 / ms,
            f"times_{models[0].name}": ratio(measured, ours, what)}  # fmt: skip


def _size(shape: str, what: str, started: list[Ran], ended: list[Ran]) -> Row:
    return {"part": "process", "size": shape, "what": what,
            "start_seconds": statistics.median(ran.seconds for ran in started),
            "peak_mb": max(ran.peak_mb for ran in ended),
            "cores_busy": statistics.median(
                (end.cpu_seconds - start.cpu_seconds) / (end.seconds - start.seconds)
                for start, end in zip(started, ended, strict=True)
            )}  # fmt: skip


def _serial(shape: str, measured: Times, models: list[Model]) -> list[Row]:
    """Hold the tool against its stages one after the other, each with all cores to itself."""
    rows = []
    for model in models:
        parts = ("decode alone", f"network alone, {model.name}", "encode alone")
        rounds = zip(measured[_tool(model)], *(measured[part] for part in parts), strict=True)
        share = statistics.median(sum(alone) / tool for tool, *alone in rounds)
        what = f"{_tool(model)}, {shape}: speed / (1 / (decode + network + encode))"
        rows.append(bar(what, share, _SERIAL_SHARE))
    return rows


def _bars(shape: str, measured: Times, models: list[Model]) -> list[Row]:
    rows = []
    for model in models:
        ours, what = _tool(model), f"{_tool(model)}, {shape}"
        rows.append(bar(f"{what}: frames/s", 1e3 / median_ms(measured, ours), 24))
        for peer, wanted in (("ffmpeg spp=qp=10", 0.6), ("ffmpeg nlmeans", 5)):
            if peer in measured:
                faster = ratio(measured, peer, ours)
                rows.append(bar(f"{what}: times the speed of {peer}", faster, wanted))
    return rows
