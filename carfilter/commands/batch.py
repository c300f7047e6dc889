"""The command `carfilter-batch`: options, one call, exit code. Torch and PyAV load after --help."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carfilter.archive.plan import check_folders
from carfilter.commands.options import (
    CONTEXT_SETTINGS,
    LEVELS,
    Seconds,
    check_ends,
    encode_options,
    filter_options,
    grouped,
    loglevel_option,
    read_options,
    restore_options,
)
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError
from carfilter.process import stop_on_signals

if TYPE_CHECKING:
    from carfilter.archive.clean import ArchiveOptions

_FOLDER = click.Path(path_type=Path)


_archive_options = grouped(
    click.option("--jobs", type=click.IntRange(1), help="Workers.  [default: GPUs, or cores]"),
    click.option(
        "--verify",
        type=click.Choice(["full", "fast", "none"]),
        default="fast",
        help="Before a result gets its name: decode it, or read and count its packets.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=2,
        help="Further tries of a file whose worker crashed, hung or ran out of memory.",
    ),
    click.option("--retry-failed", is_flag=True, help="Also try what an earlier run gave up."),
    click.option(
        "--stall",
        type=Seconds(),
        default=300.0,
        help="End a worker that makes no progress for so long.",
    ),
    click.option(
        "--recycle",
        type=click.IntRange(1),
        default=50,
        help="Replace a worker after so many files.",
    ),
    click.option("--state", type=_FOLDER, help="Database.  [default: in OUT_DIR]"),
    click.option("--append-ext", is_flag=True, help="a.avi becomes a.avi.mkv, not a.mkv."),
    click.option("--dry-run", "--plan", is_flag=True, help="Plan and estimate only."),
    click.option(
        "--samples",
        type=click.IntRange(0),
        default=3,
        help="Files to try two seconds of, for the estimate.",
    ),
    click.option("--ignore-space", is_flag=True, help="Start although the disk looks too small."),
    click.option("--watch", is_flag=True, help="Go on as new files come; end it with Ctrl-C."),
    click.option(
        "--settle",
        type=Seconds(),
        default=30.0,
        help="With --watch: a file unchanged for so long is complete.",
    ),
    click.option(
        "--ray",
        metavar="[ADDRESS]",
        is_flag=False,
        flag_value="",
        help="Work on a Ray cluster; write --ray=ADDRESS, or --ray last.",
    ),
    click.option("-y", "overwrite", is_flag=True, help="Replace files that were not made here."),
    click.option("--compare", is_flag=True, help="Write input left, restored right, to look at."),
    click.option("--sidecar", is_flag=True, help="Write RESULT.json with checksums and settings."),
    click.option("--report", type=_FOLDER, metavar="PAGE.html", help="Write a page to look at."),
    click.option("--log-json", metavar="FILE", help='One JSON object an event; "-" is stdout.'),
    click.option("-stats_period", type=Seconds(), help="Seconds between lines of progress."),
    loglevel_option,
    click.option(
        "--status",
        type=_FOLDER,
        metavar="OUT_DIR",
        help="Show how far an archive is, also while it is worked on, and exit.",
    ),
)


@click.command(cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("in_dir", metavar="IN_DIR", type=_FOLDER, required=False)
@click.argument("out_dir", metavar="OUT_DIR", type=_FOLDER, required=False)
@restore_options
@encode_options
@read_options
@_archive_options
@version_option
def carfilter_batch(in_dir: Path | None, out_dir: Path | None, **given: Any) -> None:
    """Restore all videos under IN_DIR into the same tree under OUT_DIR.

    It can be stopped or killed at any moment and run again: only what is missing or changed is
    done. Sources are never touched; a result gets its name when it is complete and verified.

    Example: carfilter-batch /mnt/footage /mnt/clean --report clean.html
    """
    if given["status"] is not None:
        sys.exit(_show_status(given["status"], given["state"]))
    if in_dir is None or out_dir is None:
        raise click.UsageError("give IN_DIR and OUT_DIR, or --status OUT_DIR")
    check_ends(given)
    sys.exit(_run(in_dir, out_dir, given))


def main() -> None:
    """Run the command; the one place where errors become exit codes."""
    carfilter_batch()


def _run(in_dir: Path, out_dir: Path, given: dict[str, Any]) -> int:
    from carfilter.commands.batch_display import BatchDisplay

    display = BatchDisplay(level=LEVELS[given["loglevel"]], period_seconds=given["stats_period"])
    stop, received = stop_on_signals()
    try:
        check_folders(in_dir, out_dir)  # before torch takes its seconds to load
        from carfilter.archive.clean import clean_archive

        with display:
            totals = clean_archive(in_dir, out_dir, _options_of(given), display, stop)
    except CarfilterError as error:
        if LEVELS[given["loglevel"]] <= logging.ERROR:
            display.console.print(f"carfilter: error: {error}", markup=False, soft_wrap=True)
        return 1
    return 128 + received[0] if totals.interrupted and received else totals.exit_code


def _options_of(given: dict[str, Any]) -> "ArchiveOptions":
    from carfilter.archive.clean import ArchiveOptions

    return ArchiveOptions(
        filter=filter_options(given),
        weights=given["weights"],
        jobs=given["jobs"] or 0,
        retries=given["retries"],
        retry_failed=given["retry_failed"],
        recycle=given["recycle"],
        stall_seconds=given["stall"],
        verify=given["verify"],
        state=given["state"],
        append_ext=given["append_ext"],
        samples=given["samples"],
        plan_only=given["dry_run"],
        ignore_space=given["ignore_space"],
        report=given["report"],
        log_json=given["log_json"],
        watch=given["watch"],
        settle_seconds=given["settle"],
        ray=given["ray"],
    )


def _show_status(out_dir: Path, state: Path | None) -> int:
    from carfilter.archive.state import STATE_NAME, State, is_locked
    from carfilter.commands.batch_display import show_status

    try:
        opened = State(state or out_dir / STATE_NAME, read_only=True)
        show_status(
            list(opened.rows().values()), opened.about("heartbeat"), at_work=is_locked(out_dir)
        )
        opened.close()
    except CarfilterError as error:
        click.echo(f"carfilter: error: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    main()
