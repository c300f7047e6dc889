"""What reuse saves on quiet footage, what looking for it costs elsewhere, and that it is exact."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from carfilter.pictures import Luma, Picture
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.reuse import settle
from carfilter.restore.weights import Model

from .footage import changed_tiles, make_quiet, pictures
from .rows import Row, bar, size_name

_QUIET_TILES = 0.05  # of 64-pixel tiles change in footage that counts as quiet
_PIECE = 4  # pictures of a busy clip that are restored both ways before the next ones


def measure(
    model: Model, device: str, clips: list[Path], runs: int, frames: int, ffmpeg: str,
    size: tuple[int, int] = (1080, 1920),
) -> list[Row]:  # fmt: skip
    """Time the network part with reuse and without, on the clips given, or else quiet footage.

    The time of a multi-frame network includes its average over time, which reuse does not spare.
    """
    if clips:
        return [row for clip in clips for row in _measure_busy(model, device, clip, runs, frames)]
    with tempfile.TemporaryDirectory() as name:
        quiet = make_quiet(Path(name), size, frames, ffmpeg)
        given = pictures(quiet, frames)
        row = _compare(model, device, "quiet", given, runs, len(given))
    changed = row["changed_64_pixel_tiles"]
    if changed >= _QUIET_TILES:
        raise SystemExit(f"the quiet clip is not quiet: {changed:.1%} of its tiles change")
    if getattr(model.network, "references", 0):
        return [row, _equal(row)]
    faster = bar("quiet footage: reuse, times faster", row["times_faster"], 3)
    return [row, faster, _equal(row)]


def _measure_busy(model: Model, device: str, clip: Path, runs: int, frames: int) -> list[Row]:
    row = _compare(model, device, clip.name, pictures(clip, frames), runs, _PIECE)
    return [row, bar(f"{clip.name}: cost of reuse", row["cost"], 0.02, most=True), _equal(row)]


def _equal(row: Row) -> Row:
    allowed = 0 if row["precision"] == "int8" else 1
    what = f"{row['clip']}: reuse, largest difference in grey levels"
    return bar(what, row["largest_difference"], allowed, most=True)


def _compare(
    model: Model, device: str, name: str, given: list[Picture], runs: int, piece: int
) -> Row:
    """Restore pictures both ways in turn, each time with a Restorer that remembers nothing.

    Args:
        piece: pictures after which it is the other's turn. A machine that is shared may be twice as
            fast a second later; pieces of a run meet it as it is.
    """
    size = given[0].luma.shape
    ratios, cpu_ratios, results = [], [], {}
    for _ in range(runs + 1):  # the first warms up
        restorers = {
            reuse: Restorer(model, RestoreOptions(device, reuse=reuse), size)
            for reuse in (True, False)
        }
        took, cpu = dict.fromkeys(restorers, 0.0), dict.fromkeys(restorers, 0.0)
        results = {reuse: [] for reuse in restorers}
        for start in range(0, len(given), piece):
            turns = (True, False) if len(ratios) + start // piece & 1 else (False, True)
            for reuse in turns:
                seconds, cpu_seconds, restored = _timed(
                    restorers[reuse], given[start : start + piece]
                )
                took[reuse] += seconds
                cpu[reuse] += cpu_seconds
                results[reuse] += restored
        ratios.append(took[False] / took[True])
        cpu_ratios.append(cpu[False] / cpu[True])
    restorer = restorers[True]
    times_faster = statistics.median(ratios[1:])
    pairs = zip(results[True], results[False], strict=True)
    return {
        "part": "reuse",
        "clip": name,
        "model": model.name,
        "size": size_name(size),
        "frames": len(given),
        "precision": restorer.precision,
        "changed_64_pixel_tiles": changed_tiles([picture.luma for picture in given]),
        "saved": restorer.saved,
        "times_faster": times_faster,
        "cost": 1 / times_faster - 1,
        # Of CPU time: it suffers less from what else runs on the machine.
        "cpu_cost": 1 / statistics.median(cpu_ratios[1:]) - 1,
        "deciding_cpu_ms": _deciding_ms(restorer, given),
        "costs": sorted(round(1 / ratio - 1, 4) for ratio in ratios[1:]),
        "largest_difference": max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs),
    }


def _deciding_ms(restorer: Restorer, given: list[Picture]) -> float:
    """Return the CPU time a frame of what only reuse does: choosing what is computed again.

    Comparing a picture with the one before is done without reuse too, for its QPs.
    """
    settled = list(settle(given))
    began = time.process_time()
    for picture in settled:
        restorer._reuse._boxes(picture)
    return (time.process_time() - began) / len(settled) * 1e3


def _timed(restorer: Restorer, given: list[Picture]) -> tuple[float, float, list[Luma]]:
    """Return seconds by the clock and of CPU time, and the results."""
    began, cpu = time.perf_counter(), time.process_time()
    restored = list(restorer.restore(given))
    return time.perf_counter() - began, time.process_time() - cpu, restored
