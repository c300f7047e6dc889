"""Compiles the C of carfilter/restore/int8/ when carfilter is installed, where there is a compiler.

Without one, the package is pure Python and computes the same more slowly. A cross-compiler makes
the wheel of its own target: CC=aarch64-linux-gnu-gcc.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("rows.c", "rows_narrow.c", "planes.c", "motion.c", "move.c")
# Nothing is contracted, so that every compiler rounds alike.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off")
_AVX512 = ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512vnni")
_AVX2 = {
    "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
    "avx2": ("-march=x86-64-v3",),
}
_NEON = {
    "i8mm": ("-march=armv8.2-a+dotprod+i8mm",),
    "dotprod": ("-march=armv8.2-a+dotprod",),
}
# The kinds of CPU, as carfilter/restore/int8/kinds.py calls them, by what compilers call the
# architecture and the system.
KINDS = {
    ("x86_64", "linux"): {
        "amx": (*_AVX512, "-mamx-tile", "-mamx-int8"), "avx512vnni": _AVX512, **_AVX2,
    },
    ("aarch64", "linux"): _NEON,
    ("arm64", "darwin"): _NEON,
    ("x86_64", "windows"): {"avx2": _AVX2["avx2"]},  # elsewhere than on Linux nothing was tried
}  # fmt: skip
_NO_COMPILER = ("", "")
_OLDEST_MACOS = "11.0"  # the first on ARM64
_OLDEST_GLIBC = 17  # 2.17: the oldest that manylinux still serves


class CustomBuildHook(BuildHookInterface):
    """Puts KIND.so beside its source, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and write the manuals; see hatchling's documentation of build hooks."""
        if version == "standard":  # an editable install has no use for them
            self._add_manuals(build_data)
        compiler = shlex.split(os.environ.get("CC", "clang" if sys.platform == "win32" else "cc"))
        system = compiled_for(compiler)
        folder = Path(self.root, "carfilter", "restore", "int8")
        made = []
        for kind, flags in KINDS.get(system, {}).items():
            target = folder / f"{kind}.so"
            if error := compile_library(compiler, folder, flags, target):
                self._warn(f"{target.name} was not compiled ({error})")
            else:
                made.append(target)
        if system == _NO_COMPILER:
            self._warn(f"{shlex.join(compiler)} is no C compiler here")
        for older in {*folder.glob("*.so")} - {*made}:
            older.unlink()
        if made:
            build_data["artifacts"] += [f"/{target.relative_to(self.root)}" for target in made]
            build_data["pure_python"] = False
            # Loaded by ctypes: any Python will do.
            build_data["tag"] = f"py3-none-{platform_tag(system, made)}"

    def _add_manuals(self, build_data: dict[str, Any]) -> None:
        # Here, since an editable install does without what this needs.
        sys.path.insert(0, self.root)
        from hatch_manuals import write_manuals

        sys.path.remove(self.root)
        self._folder = TemporaryDirectory()
        about, folder = self.metadata.core, Path(self._folder.name)
        write_manuals(Path(self.root), about.scripts, about.version, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                build_data["shared_data"][str(path)] = str(path.relative_to(folder))

    def _warn(self, what: str) -> None:
        self.app.display_warning(f"{what}; int8 is slower without it")


def compiled_for(compiler: list[str]) -> tuple[str, str]:
    """Return architecture and system of a compiler's target, or _NO_COMPILER."""
    try:
        command = [*compiler, "-dumpmachine"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _NO_COMPILER
    architecture, _, rest = said.strip().partition("-")
    return architecture, next((name for _, name in KINDS if name in rest), rest)


def compile_library(
    compiler: list[str], folder: Path, flags: tuple[str, ...], target: Path
) -> str | None:
    """Compile the sources for one kind of CPU; return what went wrong."""
    made = target.with_suffix(".part.so")
    shared = ("-shared",) if sys.platform == "win32" else ("-shared", "-fPIC")
    try:
        subprocess.run(
            [*compiler, *FLAGS, *shared, *flags, *SOURCES, "-o", str(made.absolute())],
            cwd=folder,
            env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": _OLDEST_MACOS},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return next((line for line in said if "error" in line), said[-1])
    made.replace(target)  # at once: another process may be loading it
    return None


def platform_tag(system: tuple[str, str], libraries: list[Path]) -> str:
    """Return the wheel's platform tag: on Linux by the versions of glibc that libraries name.

    https://peps.python.org/pep-0600/
    """
    architecture, name = system
    if name == "darwin":
        return f"macosx_{_OLDEST_MACOS.replace('.', '_')}_{architecture}"
    if name == "windows":
        return "win_amd64"
    found = [re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes()) for library in libraries]
    if not all(found):  # another C library
        return f"linux_{architecture}"
    newest = max([_OLDEST_GLIBC, *(int(minor) for each in found for minor in each)])
    return f"manylinux_2_{newest}_{architecture}"
