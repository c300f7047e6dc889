"""The C of carfilter/restore/int8 for another kind of CPU than this one's, under an emulator."""

import ctypes
import shutil
import struct
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
SOURCES = REPOSITORY / "carfilter" / "restore" / "int8"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
# Neoverse N1 has dot products alone.
CPUS = {"i8mm": "max", "dotprod": "neoverse-n1"}


def can_emulate() -> bool:
    return all(shutil.which(program) for program in (COMPILER, EMULATOR))


def build_hook() -> Any:
    """Load hatch_build.py, which knows how each kind is compiled."""
    spec = spec_from_file_location("hatch_build", REPOSITORY / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


def compiled(name: str, kind: str, folder: Path, *flags: str) -> list[str]:
    """Compile a program beside this module for a kind of CPU of ARM64; return how it is run."""
    program, hook = folder / "-".join((name, kind, *flags)), build_hook()
    subprocess.run(
        [COMPILER, *hook.FLAGS, *hook.KINDS["aarch64", "linux"][kind], *flags, "-static",
         "-I", SOURCES, Path(__file__).with_name(name), "-o", program],
        check=True,
    )  # fmt: skip
    return [EMULATOR, "-cpu", CPUS[kind], str(program)]


class Emulated:
    """Takes the place of what is compiled for a kind of CPU of ARM64 and so many channels."""

    def __init__(self, kind: str, channels: int, folder: Path) -> None:
        self._run = compiled("emulated.c", kind, folder, f"-DCHANNELS={channels}")
        self._channels = channels

    def __call__(self, network: Any, picture: Any, top: int, bottom: int) -> int:
        layers, tail = network.layers, 3 * self._channels * 16
        rows, columns = 2 * picture.height - 1, 2 * picture.width
        blocks = -(-picture.height // 8) - 1, -(-picture.width // 8)
        channels = 4 * self._channels * layers
        weights = network.head_bytes + (layers - 2) * network.body_bytes + tail
        memories = [
            (network.weights, weights), (network.offset, channels),
            (network.equal, 4 * self._channels * network.maps),
            (network.scale, channels), (network.bias, channels),
            (network.rescale, 4 * layers), (network.gates, 4 * 256), (network.codes, 256),
            (picture.restored, rows * picture.restored_row + columns),
        ]  # fmt: skip
        for i in range(len(picture.luma)):
            memories += [
                (picture.luma[i], rows * picture.luma_row[i] + columns),
                (picture.qp[i], 2 * (blocks[0] * picture.qp_row[i] + blocks[1])),
            ]
        held = [ctypes.string_at(at, size) if at else b"" for at, size in memories]
        sizes = struct.pack(f"<2i{len(held)}q", top, bottom, *map(len, held))
        given = b"".join((bytes(network), bytes(picture), sizes, *held))
        out = subprocess.run(self._run, input=given, capture_output=True, check=True).stdout
        start = 2 * top * picture.restored_row
        band = out[start : (2 * bottom - 1) * picture.restored_row + columns]
        ctypes.memmove(picture.restored + start, band, len(band))
        return 0
