"""How fast carfilter is here, and beside what.

    python -m tests.bench [PART...] [--weights NAME]... [--clip FILE]... [--json FILE]

network   the network alone, in each precision and in other runtimes, against measured peaks
tool      the whole tool, each of its stages alone, FFmpeg's own filters, start-up, memory
start     one frame and short clips from exec to exit, beside the imports alone; memory (CPU)
pipeline  what the pipeline costs without a network and with an identity one (CPU; see pipeline.py)
reuse     what is saved on quiet footage, and what looking for it costs on the clips given
scaling   the network's time against resolution, cores and batch
idle      on CUDA: for how much of the time no kernel runs while the network is the bottleneck
beside    what the CPU does beside a network on a card that costs nothing, for `best`
motion    the estimator of motion beside OpenCV's DIS, on the clips given
convolution  one of car's, with what follows it apart and fused
length    the whole tool's time and memory against the length of the clip

Ratios are the result: they are taken within one run on one machine. Leave the machine alone.
`python -m tests.bench.plot OUT.png FILE.json...` draws the scaling. Measured: SPEED.md beside this.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from carfilter.process import prepare_process

prepare_process()

import torch  # noqa: E402

from carfilter.restore.devices import choose_device  # noqa: E402
from carfilter.restore.int8.rows import usable_kinds  # noqa: E402
from carfilter.restore.network import build_network  # noqa: E402
from carfilter.restore.weights import Model, load_weights, shipped_models  # noqa: E402

from . import beside, convolution, idle, network, reuse, scaling, start  # noqa: E402
from .load import Others  # noqa: E402
from .rows import Row, show  # noqa: E402

PARTS = (
    "network",
    "tool",
    "start",
    "pipeline",
    "reuse",
    "scaling",
    "idle",
    "length",
    *("convolution", "beside", "motion"),
)
SIZES = {"512": (512, 912), "1080": (1080, 1920)}
TOY = {"toy": (64, 96)}  # to rehearse with
TOOL_FRAMES = {"512": 250, "1080": 60, "toy": 3}


def hardware(device: str, ffmpeg: str | None) -> Row:
    """Say on what was measured."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in about.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor()
    if device != "cpu":
        name = torch.cuda.get_device_name(choose_device(device))
    return {"part": "hardware", "device": name, "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "int8_kinds": ", ".join(kind.name for kind in usable_kinds()),
            "torch": torch.__version__, "python": platform.python_version(),
            "ffmpeg": _version(ffmpeg)}  # fmt: skip


def _version(ffmpeg: str | None) -> str:
    if ffmpeg is None:
        return "none"
    said = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True).stdout
    return said.split()[2] if said.startswith("ffmpeg version") else "unknown"


def find_ffmpeg() -> str | None:
    """Return the ffmpeg of imageio-ffmpeg, which has all the filters, or else the system's."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except ImportError:
        return shutil.which("ffmpeg")


def options() -> argparse.ArgumentParser:
    """Return the options of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), default=[], metavar="PART")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", action="append", help="model, again for more; default: fast")
    parser.add_argument("--size", choices=(*SIZES, *TOY, "both"), default="both")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=0, help="of a clip")
    parser.add_argument(
        "--clip", type=Path, action="append", default=[], help="for reuse and motion"
    )
    parser.add_argument("--ffmpeg", default=find_ffmpeg(), help="program to compare with")
    parser.add_argument("--json", type=Path)
    return parser


def _model(name: str) -> Model:
    """Return a model by path or name; untrained where none is shipped, which is no slower."""
    if name == "car" and name not in shipped_models():
        return Model(build_network(name).eval(), f"untrained {name}", "")
    return load_weights(name)


def main() -> None:
    """Measure the parts asked for."""
    given = options().parse_args()
    chosen = given.parts or ["network", "tool", "reuse"]
    if given.ffmpeg is None and {"tool", "start", "reuse", "length"} & {*chosen}:
        sys.exit("needs an ffmpeg program (pip install imageio-ffmpeg)")
    device = choose_device(given.device).type
    if "idle" in chosen and device == "cpu":
        sys.exit("idle needs a CUDA device")
    models = [_model(name) for name in given.weights or ["fast"]]
    sizes = SIZES if given.size == "both" else {given.size: (SIZES | TOY)[given.size]}
    rows: list[Row] = []
    others = Others()

    def keep(*found: Row) -> None:
        nonlocal others
        new = [*found, others.row(str(found[-1]["part"]))]
        others = Others()
        rows.extend(new)
        for row in new:
            show(row)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=2) + "\n")

    keep(hardware(device, given.ffmpeg))
    if "network" in chosen:
        keep(peak := network.peaks(choose_device(device)))
        for model in models:
            for size in sizes.values():
                keep(*network.measure(model, device, size, given.runs, peak))
    if "start" in chosen:
        keep(*start.measure([model.name for model in models], given.runs, given.ffmpeg))
    if "convolution" in chosen:
        for size in sizes.values():
            keep(*convolution.measure(choose_device(device), size, given.runs))
    if "beside" in chosen:
        for size in sizes.values():
            keep(*beside.measure(size, given.frames or 100))
    if "motion" in chosen:
        from . import motion  # needs PyAV and OpenCV

        keep(*motion.measure(given.clip, given.runs, given.frames or 6))
    if "tool" in chosen:
        from . import tool  # needs PyAV

        for name, size in sizes.items():
            count = given.frames or TOOL_FRAMES[name]
            keep(*tool.measure(models, size, device, given.runs, count, given.ffmpeg))
    for model in models:
        if "reuse" in chosen:
            count = given.frames or 60
            keep(*reuse.measure(model, device, given.clip, given.runs, count, given.ffmpeg))
        if "scaling" in chosen:
            keep(*scaling.measure_network(model, device, given.runs))
        if "idle" in chosen:
            for size in sizes.values():
                keep(*idle.measure(model, device, size, given.frames or 600))
        if "length" in chosen:
            for row in scaling.measure_length(model.name, device, given.ffmpeg):
                keep(row)
    if "pipeline" in chosen:
        subprocess.run([sys.executable, str(Path(__file__).with_name("pipeline.py"))], check=True)


if __name__ == "__main__":
    main()
