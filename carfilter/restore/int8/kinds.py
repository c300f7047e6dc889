"""The kinds of CPU that rows.c is compiled for, and which of them this one is."""

import ctypes
import os
import sys
from dataclasses import dataclass

from carfilter.process import cpu_flags
from carfilter.restore.int8.packing import Dots, Pairs, SignedDots, Tiles


@dataclass(frozen=True)
class Kind:
    """A kind of CPU that rows.c is compiled for, see hatch_build.py.

    Attributes:
        needs: the flags of such CPUs, as Linux names them.
        packing: of the weights, and of how many channels networks can be.
    """

    name: str
    label: str
    needs: frozenset[str]
    packing: Dots | Tiles


_AVX2 = frozenset(("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"))
_AVX512 = _AVX2 | {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "_vnni")}
# The fastest first, of each architecture.
KINDS = (
    Kind("amx", "AMX", _AVX512 | {"amx_tile", "amx_int8"}, Tiles()),
    Kind("avx512vnni", "AVX-512 VNNI", _AVX512, Dots()),
    Kind("avxvnni", "AVX-VNNI", _AVX2 | {"avx_vnni"}, Dots()),
    Kind("avx2", "AVX2", _AVX2, Pairs()),
    Kind("i8mm", "NEON i8mm", frozenset(("asimddp", "i8mm")), Dots()),
    Kind("dotprod", "NEON dot products", frozenset(("asimddp",)), SignedDots()),
)
# Which kinds oneDNN's own variable for this rules out; other values rule out none.
# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
_RULED_OUT = {
    "SSE41": 4, "AVX": 4, "AVX2": 3, "AVX512_CORE": 3, "AVX2_VNNI": 2, "AVX2_VNNI_2": 2,
    "AVX512_CORE_VNNI": 1, "AVX512_CORE_BF16": 1, "AVX512_CORE_FP16": 1,
}  # fmt: skip


def usable_kinds() -> tuple[Kind, ...]:
    """Return the kinds that this CPU is of, the fastest first.

    ONEDNN_MAX_CPU_ISA holds here as it does for torch: to compare engines as on a lesser CPU.
    """
    flags = _flags()
    ruled_out = _RULED_OUT.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), 0)
    return tuple(kind for kind in KINDS[ruled_out:] if kind.needs <= flags)


def _flags() -> set[str]:
    """Return what this CPU can do, by Linux's names."""
    if sys.platform == "darwin":
        return _flags_of_macos()
    if sys.platform == "win32":
        return _flags_of_windows()
    return set(cpu_flags())


def _flags_of_macos() -> set[str]:
    # https://developer.apple.com/documentation/kernel/1387446-sysctlbyname/determining_instruction_set_characteristics
    system = ctypes.CDLL(None)

    def has(feature: str) -> bool:
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        name = f"hw.optional.arm.FEAT_{feature}".encode()
        failed = system.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        return not failed and bool(value.value)

    names = {"asimddp": "DotProd", "i8mm": "I8MM"}
    return {flag for flag, feature in names.items() if has(feature)}


def _flags_of_windows() -> set[str]:
    # CPUs with AVX2 have the rest of _AVX2; Windows tells nothing of VNNI.
    # https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-isprocessorfeaturepresent
    has_avx2 = 40
    system = ctypes.CDLL("kernel32")
    return set(_AVX2) if system.IsProcessorFeaturePresent(has_avx2) else set()
