"""Compiles carfilter/restore/int8/rows.c when carfilter is installed, where that can be done.

Without a compiler, or elsewhere than on Linux on x86-64, the package is pure Python and computes
the same more slowly.
"""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Nothing is contracted, so that every compiler rounds alike.
_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared")
_AVX512 = ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512vnni")
# The kinds of CPU, by the names that carfilter/restore/int8/rows.py has for them.
_KINDS = {
    "amx": (*_AVX512, "-mamx-tile", "-mamx-int8"),
    "avx512vnni": _AVX512,
    "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
    "avx2": ("-march=x86-64-v3",),
}


class CustomBuildHook(BuildHookInterface):
    """Puts KIND.so beside its source, and into the wheel."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        """Compile; see hatchling's documentation of build hooks."""
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return
        source = Path(self.root, "carfilter", "restore", "int8", "rows.c")
        for kind, flags in _KINDS.items():
            target = source.with_name(f"{kind}.so")
            if not self._compile(source, flags, target):
                continue
            build_data["artifacts"].append(f"/{target.relative_to(self.root)}")
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"  # loaded by ctypes: any Python will do

    def _compile(self, source: Path, flags: tuple[str, ...], target: Path) -> bool:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        made = target.with_suffix(".part.so")
        try:
            command = [*compiler, *_FLAGS, *flags, str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            why = next((line for line in said if "error" in line), said[-1])
            self.app.display_warning(
                f"{target.name} was not compiled ({why}); int8 is slower without it"
            )
            target.unlink(missing_ok=True)  # of an older source
            return False
        made.replace(target)  # at once: another process may be loading it
        return True
