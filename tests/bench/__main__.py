"""How fast carfilter is here, and beside what.

    python -m tests.bench [network tool pipeline reuse scaling ...] [--device cuda] [--json FILE]

network   the network alone, in each precision and in other runtimes, against measured peaks
tool      the whole tool, decode and encode alone, FFmpeg's own filters, start-up, memory
pipeline  what the pipeline costs without a network and with an identity one (CPU; see pipeline.py)
reuse     what is saved on quiet footage, and what looking for it costs elsewhere
scaling   the network's time against resolution, cores and batch

Ratios are the result: they are taken within one run on one machine. Leave the machine alone.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from carfilter.process import prepare_process

prepare_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from carfilter.pictures import Picture  # noqa: E402
from carfilter.restore import RestoreOptions, Restorer, choose_device  # noqa: E402
from carfilter.weights import Model, load_weights  # noqa: E402

from . import network, tool  # noqa: E402

PARTS = ("network", "tool", "pipeline", "reuse", "scaling")
SIZES = {"512": (512, 912), "1080": (1080, 1920)}
SCALING = ((288, 352), (512, 912), (720, 1280), (1080, 1920), (2160, 3840))

Row = dict[str, Any]


def pictures(clip: Path, limit: int) -> list[Picture]:
    """Decode the luma and QP maps of a clip."""
    # Here, so that the network alone is measured on machines without PyAV too.
    from carfilter.frames import copy_luma
    from carfilter.source import Decoded, SourceOptions, open_source

    source, taken = open_source(clip, SourceOptions(qp_maps=True)), []
    try:
        for event in source.events():
            if isinstance(event, Decoded):
                taken.append(Picture(copy_luma(event.frame), qp=event.qp))
            if len(taken) >= limit:
                break
    finally:
        source.close()
    return taken


def measure_reuse(model: Model, given: Any, ffmpeg: str) -> list[Row]:
    """Time the network part with reuse and without, on quiet footage and on the clips given."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        clips = {"quiet": tool.make_quiet(Path(name), (1080, 1920), 60, ffmpeg)}
        clips |= {clip.name: clip for clip in given.clip}
        for what, clip in clips.items():
            frames = pictures(clip, given.frames)
            size = frames[0].luma.shape
            restorers = {
                reuse: Restorer(model.network, RestoreOptions(given.device, reuse=reuse), size,
                                model.int8_ranges)
                for reuse in (True, False)
            }  # fmt: skip
            results = {reuse: list(r.restore(frames)) for reuse, r in restorers.items()}
            pairs = list(zip(results[True], results[False], strict=True))
            jobs = {
                str(reuse): lambda r=r, frames=frames: sum(1 for _ in r.restore(frames))
                for reuse, r in restorers.items()
            }
            took = network.median_ms(jobs, given.runs)
            rows.append({
                "part": "reuse", "clip": what, "frames": len(frames),
                "saved": restorers[True].saved,
                "times_faster": took["False"] / took["True"],
                "ms_per_frame": took["True"] / len(frames),
                "largest_difference": max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs),
            })  # fmt: skip
    return rows


def measure_scaling(model: Model, device: str, runs: int) -> list[Row]:
    """Time the network part against resolution, cores and batch."""
    rows, cores = [], torch.get_num_threads()
    cases = [(size, cores, 0) for size in SCALING]
    cases += [((512, 912), count, 0) for count in range(1, cores)]
    cases += [((512, 912), cores, batch) for batch in (1, 2, 4, 8)]
    for size, threads, batch in cases:
        torch.set_num_threads(threads)
        options = RestoreOptions(device, batch_size=batch, reuse=False)
        restorer = Restorer(model.network, options, size, model.int8_ranges)
        luma = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        count = max(batch, 8 * 512 * 912 // luma.size, 1)
        job = {"": lambda r=restorer, n=count, y=luma: list(r.restore([Picture(y)] * n))}
        ms = network.median_ms(job, runs)[""] / count
        rows.append({"part": "scaling", "size": f"{size[1]}x{size[0]}", "threads": threads,
                     "batch": restorer.batch_size, "ms_per_frame": ms,
                     "ns_per_pixel": ms * 1e6 / luma.size})  # fmt: skip
    torch.set_num_threads(cores)
    return rows


def hardware(device: str) -> Row:
    """Say on what was measured."""
    if device != "cpu":
        name = torch.cuda.get_device_name(choose_device(device))
    else:
        lines = Path("/proc/cpuinfo")
        models = [line for line in lines.read_text().splitlines() if "model name" in line]
        name = models[0].split(":")[1].strip() if models else platform.processor()
    return {"part": "hardware", "device": name, "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
            "python": platform.python_version()}  # fmt: skip


def show(row: Row) -> None:
    """Print a row as words and numbers, as soon as it is measured."""
    parts = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    print(", ".join(parts[1:]) if row["part"] == "hardware" else ", ".join(parts), flush=True)


def find_ffmpeg() -> str | None:
    """Return the ffmpeg of imageio-ffmpeg, which has all the filters, or else the system's."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except ImportError:
        return shutil.which("ffmpeg")


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), default=[], metavar="PART")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default="fast", help="model; default: fast")
    parser.add_argument("--size", choices=(*SIZES, "both"), default="both")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=60, help="of a clip")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="for reuse")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.device = choose_device(given.device).type
    model, ffmpeg, rows = load_weights(given.weights), find_ffmpeg(), [hardware(given.device)]
    show(rows[0])
    sizes = [SIZES[given.size]] if given.size in SIZES else list(SIZES.values())

    def keep(found: list[Row]) -> None:
        rows.extend(found)
        for row in found:
            show(row)

    chosen = given.parts or ["network", "tool", "reuse"]
    if "network" in chosen:
        keep([peak := network.peaks(choose_device(given.device))])
        for size in sizes:
            keep(network.measure(model, given.device, size, given.runs, peak))
    if ffmpeg is None and {"tool", "reuse"} & {*chosen}:
        sys.exit("needs an ffmpeg program (pip install imageio-ffmpeg)")
    for size in sizes if "tool" in chosen else []:
        keep(tool.measure(size, given.device, given.runs, given.frames, str(ffmpeg)))
    if "reuse" in chosen:
        keep(measure_reuse(model, given, str(ffmpeg)))
    if "scaling" in chosen:
        keep(measure_scaling(model, given.device, given.runs))
    if "pipeline" in chosen:
        subprocess.run([sys.executable, str(Path(__file__).with_name("pipeline.py"))], check=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
