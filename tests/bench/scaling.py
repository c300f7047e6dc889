"""Cost against resolution, cores, batch and length; linear where it should be, or explained."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from carfilter.pictures import Picture
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model

from .footage import make_clip
from .processes import carfilter, run
from .rows import Row, size_name
from .timing import median_ms, take_times

SIZES = ((288, 352), (512, 912), (720, 1280), (1080, 1920), (2160, 3840))
LENGTHS = (300, 3_000, 30_000)
_HALF = (512, 912)
_SMALL = (96, 128)  # so that the longest ends within minutes
_SHORT = 3_000  # frames up to which a clip is run several times
_WORK = 8 * _HALF[0] * _HALF[1]  # pixels in a run


def measure_network(
    model: Model, device: str, runs: int, sizes: tuple[tuple[int, int], ...] = SIZES
) -> list[Row]:
    """Time the network part against resolution, cores and batch, all in turn."""
    cores = torch.get_num_threads()
    cases = [("resolution", size, cores, 0) for size in sizes]
    cases += [("cores", sizes[1], count, 0) for count in range(1, cores + 1)]
    for size in sizes[:2]:
        cases += [("batch", size, cores, batch) for batch in (1, 2, 4, 8, 16)]
    jobs, rows = {}, []
    for what, size, threads, batch in cases:
        torch.set_num_threads(threads)
        # Compiling so many shapes would take longer than all that is measured.
        options = RestoreOptions(device, batch_size=batch, reuse=False, compile_after=float("inf"))
        restorer = Restorer(model, options, size)
        luma = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        count = max(batch, min(_WORK // luma.size, 16), 1)
        given = [Picture(luma)] * count
        key = f"{what} {size} {threads} {batch}"
        jobs[key] = lambda r=restorer, g=given: list(r.restore(g))
        rows.append({"part": "scaling", "against": what, "model": model.name,
                     "size": size_name(size), "pixels": luma.size, "threads": threads,
                     "batch": restorer.batch_size, "frames": count, "job": key})  # fmt: skip
    torch.set_num_threads(cores)
    times = take_times(jobs, runs)
    for row in rows:
        row["ms_per_frame"] = median_ms(times, row.pop("job")) / row["frames"]
        row["ns_per_pixel"] = row["ms_per_frame"] * 1e6 / row["pixels"]
    return rows


def measure_length(
    model: str, device: str, ffmpeg: str, lengths: tuple[int, ...] = LENGTHS
) -> Iterator[Row]:
    """Time the whole tool on ever longer clips of a small size, with its peak of memory."""
    options = ["--device", device, "--weights", model, "--no-reuse"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = carfilter(make_clip(folder, _SMALL, 1, ffmpeg), folder / "out.mp4", *options)
        for frames in lengths:
            clip = make_clip(folder, _SMALL, frames, ffmpeg)
            whole = carfilter(clip, folder / "out.mp4", *options)
            # Starting takes as long as hundreds of frames, and scatters.
            times = 1 if frames > _SHORT else 5
            started = statistics.median(run(one).seconds for _ in range(times))
            ended = [run(whole) for _ in range(times)]
            ran = sorted(ended, key=lambda one: one.seconds)[times // 2]
            clip.unlink()
            seconds = ran.seconds - started
            yield {"part": "scaling", "against": "length", "model": model,
                   "size": size_name(_SMALL), "frames": frames, "seconds": ran.seconds,
                   "ms_per_frame": seconds * 1e3 / (frames - 1),
                   "peak_mb": ran.peak_mb}  # fmt: skip
