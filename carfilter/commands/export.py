"""The command carfilter-export: options in, one file out."""

import re
from pathlib import Path
from typing import Any

import click

from carfilter.commands.options import CONTEXT_SETTINGS, guarded, models
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError, needing_torch
from carfilter.unfinished import check_outputs, check_writable, is_written_through

_DIGITS = re.compile("[0-9]{1,3}")  # str.isdigit() takes "²" for one, which int() does not
_EPILOG = """
The file takes luma as "luma", float32 [N, 1, H, W] of any size, and gives "restored" of that shape,
the correction added. With --qp input it takes "qp" as well: 0 to 51, below zero for unknown, of
that shape or [1, 1, 1, 1]. With --references "luma" has further planes: the frame, then the other
frames as `best` orders them, aligned to it; one that is missing is the frame itself.

\b
Examples:
  carfilter-export best clean.onnx --qp 38
  carfilter-export fast vs.onnx --qp 38 --levels limited --precision fp16

int8 is for CPUs (ONNX Runtime, OpenVINO), fp16 for GPUs.
"""


def _qp(_context: click.Context, _parameter: click.Parameter, text: str) -> int | None:
    if text == "input":
        return None
    if not _DIGITS.fullmatch(text) or int(text) > 51:
        raise click.BadParameter(f"{text!r} is neither 'input' nor a number of 0 to 51")
    return int(text)


@click.command("carfilter-export", cls=Command, context_settings=CONTEXT_SETTINGS, epilog=_EPILOG)
@click.argument("model", shell_complete=models)
@click.argument("target", metavar="OUT.onnx", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    help="Of the network; what goes in and comes out is float32.",
)
@click.option(
    "--levels",
    type=click.Choice(["unit", "limited", "codes"]),
    default="unit",
    help="How the program gives luma: unit is 0 to 1 for codes 0 to 255 (FFmpeg), limited 0 to 1"
    " for codes 16 to 235 (VapourSynth), codes 0 to 255.",
)
@click.option(
    "--qp",
    metavar="N|input",
    default="26",
    callback=_qp,
    help="How coarsely the video was coded, 0 to 51, for all of it; or a second input.",
)
@click.option("--references", is_flag=True, help="Take other frames too, of models that see them.")
@click.option("-y", "overwrite", is_flag=True, help="Replace an existing file.")
@version_option
def main(model: str, target: Path, overwrite: bool, **options: Any) -> None:
    """Write MODEL, a shipped one by name or a checkpoint, for programs that run ONNX.

    FFmpeg, VapourSynth, NVEnc, OpenVINO: see carfilter/hosts/README.md.
    """

    def work() -> None:
        if str(target) == "-":
            raise CarfilterError("-: a model goes into a file; give a name such as model.onnx")
        if target.exists() and not overwrite and not is_written_through(target):
            raise CarfilterError(f"{target}: exists already; give -y to replace it")
        try:
            with needing_torch("carfilter-export"):
                from carfilter.hosts.export import ExportOptions, export
        except ImportError as error:
            raise CarfilterError('this needs onnx; pip install "carfilter[export]"') from error
        from carfilter.restore.weights import load_weights

        check_writable(target)
        check_outputs([target], [Path(model)])
        size = export(load_weights(model), target, ExportOptions(**options))
        click.echo(f"carfilter-export: {target} ({size / 1e6:.2f} MB)", err=True)

    guarded("carfilter-export", work)
