"""--version of every command: what a report of a bug needs to say."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from carfilter import __version__

_NVIDIA = Path("/proc/driver/nvidia")


def _show(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if not given or context.resilient_parsing:
        return
    click.echo(f"carfilter {__version__}")
    for name, value in _facts().items():
        click.echo(f"{name}: {value}")
    context.exit()


version_option = click.option(
    "-version", "--version",
    is_flag=True, is_eager=True, expose_value=False, callback=_show,
    help="Say which versions, int8 code and GPU there are, and exit.",
)  # fmt: skip


def _facts() -> dict[str, str]:
    # torch takes seconds to load, so it is only asked for its version.
    from carfilter.media.libav.versions import ffmpeg_version

    return {
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "FFmpeg": ffmpeg_version(),
        "torch": _version_of("torch"),
        "int8": _int8(),
        "GPU": _gpu(),
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _int8() -> str:
    """Name the compiled code that is taken here."""
    from carfilter.restore.int8.rows import compiled_kind

    kind = compiled_kind()
    return "by torch: nothing is compiled for this CPU" if kind is None else f"on {kind.label}"


def _gpu() -> str:
    """Name the cards, as far as a driver tells without torch."""
    from carfilter.restore.door import may_have_card

    told = [path.read_text() for path in sorted(_NVIDIA.glob("gpus/*/information"))]
    lines = (line for text in told for line in text.splitlines())
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    if names:
        return ", ".join(names)
    return "a driver, whose cards torch knows" if may_have_card() else "no driver of NVIDIA or AMD"
