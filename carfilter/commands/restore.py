"""The command `carfilter`: options, one call, exit code. Torch and PyAV load after --help."""

import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from carfilter.commands.options import (
    CONTEXT_SETTINGS,
    LEVELS,
    SEGMENTING,
    Seconds,
    check_ends,
    encode_options,
    files,
    filter_options,
    grouped,
    loglevel_option,
    read_options,
    restore_options,
)
from carfilter.commands.stdio import Command, drop_stdout
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError, DownstreamClosedError
from carfilter.media.segments import FORMATS as SEGMENT_FORMATS
from carfilter.process import load_numpy, prepare_process, stop_on_signals

if TYPE_CHECKING:
    from carfilter.run.account import Run


def _refuse_filters(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:  # else click would take it for -v
        raise click.UsageError("there is no -vf; put an ffmpeg -vf before or after it, in a pipe")


_report_options = grouped(
    click.option("-y", "overwrite", is_flag=True, help="Replace an existing output."),
    click.option("-n", "never_overwrite", is_flag=True, help="Never replace one (the default)."),
    click.option(
        "--live", is_flag=True, help="Follow a camera: without delay, across its outages."
    ),
    click.option("-segment_time", type=Seconds(), help="Length of a segment, with -f segment."),
    click.option("-strftime", metavar="0|1", help="Name segments by time, as %Y%m%d-%H%M%S."),
    click.option("-reset_timestamps", metavar="0|1", help="Begin each segment at zero."),
    click.option("--compare", is_flag=True, help="Write input left, restored right, to look at."),
    click.option("--sidecar", is_flag=True, help="Write OUTPUT.json with checksums and settings."),
    click.option("-progress", metavar="URL", help="key=value blocks to a file or pipe:N."),
    click.option("-stats_period", type=Seconds(), default=None, help="Seconds between reports."),
    loglevel_option,
    click.option("-vf", hidden=True, expose_value=False, callback=_refuse_filters),
    click.option("-hide_banner", is_flag=True, help="Accepted; there is no banner."),
    click.option("-nostdin", is_flag=True, help="Accepted; the keyboard is never read."),
)


@click.command(cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("source", metavar="INPUT", shell_complete=files)
@click.argument("target", metavar="OUTPUT", shell_complete=files)
@restore_options
@encode_options
@read_options
@_report_options
@version_option
def carfilter(source: str, target: str, **given: Any) -> None:
    """Remove compression artifacts from the luma of INPUT and write OUTPUT.

    INPUT and OUTPUT are files, URLs, or "-" for stdin and stdout (NUT with raw video unless -f and
    -c:v say otherwise). Chroma, timing, audio, subtitles and tags stay as they are.

    Example: carfilter camera.mp4 clean.mp4
    """
    if given["overwrite"] and given["never_overwrite"]:
        raise click.UsageError("-y and -n exclude each other")
    check_ends(given)
    for name in SEGMENTING:
        if given[name] is not None and given["format"] not in SEGMENT_FORMATS:
            raise click.UsageError(f"-{name} needs -f segment")
    sys.exit(_run(source, target, given))


def main() -> None:
    """Run the command; the one place where errors become exit codes."""
    carfilter()


def _run(source: str, target: str, given: dict[str, Any]) -> int:
    from carfilter.commands.display import RunDisplay, StderrLog, summary
    from carfilter.commands.progress import ProgressWriter

    level = LEVELS[given["loglevel"]]
    display = RunDisplay(quiet=level > logging.INFO, period_seconds=given["stats_period"])
    logger = logging.getLogger("carfilter")
    logger.setLevel(level)
    handler = StderrLog(display.console)
    logger.addHandler(handler)
    try:
        writer = None
        if given["progress"]:
            period = given["stats_period"] or 0.5
            writer = ProgressWriter(
                given["progress"], period, source, target, sidecar=given["sidecar"]
            )

        def report(run: "Run") -> None:
            display(run)
            if writer is not None:
                writer(run)

        with display:
            run, received = _filter_with_signals(source, target, given, report)
        if writer is not None:
            writer.close(run)
        logger.info("%s", summary(run))
    except DownstreamClosedError:
        drop_stdout()
        return 1
    except CarfilterError as error:
        logger.error("%s", error)
        return 1
    finally:
        logger.removeHandler(handler)
    return 128 + received[0] if run.interrupted and received else 0


def _filter_with_signals(
    source: str, target: str, given: dict[str, Any], report: Callable[["Run"], None]
) -> "tuple[Run, list[int]]":
    """Run the filter in a thread, since a read in C holds signals back in the main one."""
    stop, received = stop_on_signals()
    runs: list[Run] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            from carfilter.run.pipeline import filter_video

            _set_ffmpeg_log(given["loglevel"])
            options = filter_options(given)
            run = filter_video(
                source, target, given["weights"], options, stop=stop, progress=report
            )
            runs.append(run)
        except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
            errors.append(error)

    prepare_process()
    load_numpy()
    worker = threading.Thread(target=work, name="carfilter-run", daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(0.1)
    if errors:
        raise errors[0]
    return runs[0], received


def _set_ffmpeg_log(level: str) -> None:
    """Let FFmpeg speak for itself at the chatty levels only; PyAV keeps it silent otherwise."""
    if level not in ("verbose", "debug"):
        return
    from carfilter.media.source import log_ffmpeg

    log_ffmpeg(everything=level == "debug")
