"""How an evaluation was made: command, versions, checksums, and what each row is."""

import contextlib
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

from carfilter import __version__
from carfilter.errors import CarfilterError
from carfilter.evaluation.baselines import ffmpeg_version
from carfilter.evaluation.methods import Method
from carfilter.pairs.variants import CODECS
from carfilter.pairs.variants import Settings as DegradeSettings

_PACKAGES = ("av", "torch", "numpy", "onnxruntime", "pycocotools")
_LINE = 60  # characters of the shown command after which the next option starts a new line
_SENTENCE = "--note"  # whose value has slashes that are not of paths


@dataclass(frozen=True)
class Record:
    """Everything a reader needs to repeat a run; no path of this machine."""

    command: str
    versions: dict[str, str]
    variants: str
    rows: tuple[tuple[str, str, str], ...]  # name, what it is, sha256 of the weights or ""
    detector: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)


def command_line(arguments: Sequence[str]) -> str:
    """Return the command, every path cut down to its last part, a line for a few options each."""
    lines = ["carfilter-eval"]
    for before, argument in pairwise(("", *arguments)):
        shown = shlex.quote(argument if before == _SENTENCE else _without_folders(argument))
        if argument.startswith("-") and len(lines[-1]) > _LINE:
            lines.append(f"    {shown}")
        else:
            lines[-1] += f" {shown}"
    return " \\\n".join(lines)


def _without_folders(argument: str) -> str:
    """Cut a path, or the one in --option=path, down to its last part; a sentence stays whole."""
    if argument.startswith("--") and "=" in argument:
        option, value = argument.split("=", 1)
        return argument if option == _SENTENCE else f"{option}={_without_folders(value)}"
    return Path(argument).name if "/" in argument else argument


def versions() -> dict[str, str]:
    """Return the version of everything that can change a value."""
    found = {"carfilter": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    with contextlib.suppress(CarfilterError):  # an optional package: its rows are missing as well
        found["FFmpeg (spp, VMAF)"] = ffmpeg_version()
    return found


def describe_variants(settings: DegradeSettings) -> str:
    """Return how the clips were compressed, in one sentence."""
    size = "at their own size"
    if settings.size is not None:
        size = "scaled to {}x{} {} the encoder".format(*settings.size, settings.scale)
    limit = "" if settings.max_frames is None else f" (their first {settings.max_frames} frames)"
    codec = CODECS[settings.codecs[0]]
    gop = "default key frames" if settings.gop is None else f"a key frame every {settings.gop}"
    if settings.bframes is not None:
        gop += f", {settings.bframes} B-frames in a row"
    preset = f" -preset {settings.preset}" if codec.has_presets else ""
    steps = f"{codec.scale} {'/'.join(map(str, settings.crfs))}"
    if settings.variants == "paper":
        caps = "scaled to the picture" if settings.scale_caps else "as they are"
        steps += f" with maxrate 2M/1.5M/1M {caps} and a buffer of {settings.bufsize_seconds:g} s"
    return f"{codec.encoder}{preset}, {gop}, one thread, {steps}, on clean clips {size}{limit}."


def describe_rows(methods: Sequence[Method]) -> tuple[tuple[str, str, str], ...]:
    """Return name, description and checksum of each row."""
    return tuple((method.name, method.about, method.sha256) for method in methods)
