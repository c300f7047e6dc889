"""The command `carfilter-inspect`: options, one call, exit code; torch loads after --help."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carfilter.commands.options import CONTEXT_SETTINGS, dash, grouped, model_options, on_stdout
from carfilter.commands.stdio import Command
from carfilter.commands.version import version_option
from carfilter.errors import CarfilterError
from carfilter.process import load_numpy, prepare_process
from carfilter.unfinished import check_outputs, check_writable, written_whole

if TYPE_CHECKING:
    from carfilter.inspection.inspect import InspectOptions

_options = grouped(
    click.option(
        "--html",
        type=click.Path(),
        metavar="PAGE.html",
        callback=dash,
        help='Write a page to look at; "-" is stdout.',
    ),
    click.option(
        "--json",
        "json_file",
        metavar="FILE",
        callback=dash,
        help='Write all of it; "-" is stdout.',
    ),
    click.option(
        "--csv", "csv_file", metavar="FILE", callback=dash, help='Write the table; "-" is stdout.'
    ),
    click.option("--full", is_flag=True, help="Decode every picture, and not a sample."),
    model_options,
)


@click.command(cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("inputs", metavar="INPUT...", type=click.Path(), nargs=-1, required=True)
@_options
@version_option
def carfilter_inspect(inputs: tuple[str, ...], **given: Any) -> None:
    """Look at files before they are restored: what the camera did, what the filter would do.

    It takes seconds a file and writes nothing but what you ask for. Of several files, or a folder,
    it prints a table, a line a file, those first of which most would change.

    Example: carfilter-inspect camera.mp4 --html camera.html
    """
    if url := next((name for name in inputs if "://" in name), None):
        raise click.UsageError(f"{url}: only a file can be inspected; record it first")
    if given["html"] is not None and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise click.UsageError("--html is the page of one file; give one INPUT")
    quiet = on_stdout(_outputs(given))
    sys.exit(_run([Path(name) for name in inputs], given, quiet=quiet))


def main() -> None:
    """Run the command; the one place where errors become exit codes."""
    carfilter_inspect()


def _run(inputs: Sequence[Path], given: dict[str, Any], *, quiet: bool) -> int:
    prepare_process()
    load_numpy()
    from carfilter.commands.inspect_display import InspectDisplay

    display = InspectDisplay(quiet=quiet)
    try:
        outputs = [Path(name) for name in _outputs(given).values() if name not in (None, "-")]
        for path in outputs:
            check_writable(path)
        files, unreadable = _files_of(inputs)
        check_outputs(outputs, files)
        if len(files) == 1 and not inputs[0].is_dir():
            return _show_one(files[0], given, display)
        return _show_many(files, unreadable, given, display)
    except CarfilterError as error:
        click.echo(f"carfilter: error: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _outputs(given: dict[str, Any]) -> dict[str, str | None]:
    return {"--html": given["html"], "--json": given["json_file"], "--csv": given["csv_file"]}


def _files_of(inputs: Sequence[Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files and the videos of the folders, and what of these cannot be read, and why."""
    from carfilter.archive.plan import Naming, scan

    files, unreadable = list[Path](), list[tuple[Path, str]]()
    for path in inputs:
        if not path.is_dir():
            files.append(path)
            continue
        found = scan(path, path, Naming())
        unreadable += [(Path(name), f"cannot be read ({why})") for name, why in found.unreadable]
        if not found.videos and not found.unreadable:
            raise CarfilterError(f"{path}: holds no video; check the folder")
        files += [video.source for video in found.videos]
    return files, unreadable


def _show_one(path: Path, given: dict[str, Any], display: Any) -> int:
    from carfilter.inspection.inspect import look_at

    look = look_at(path, _options_of(given))

    def html() -> str:
        from carfilter.inspection.page import page

        return page(look, _options_of(given), Path(given["html"]).name)

    try:
        _write_all(given, look.inspection.as_dict(), [(path, look.inspection)], html)
    finally:
        display.show(look.inspection)
    if given["html"] not in (None, "-"):
        display.note(f"wrote {given['html']}")
    return 0


def _show_many(
    files: Sequence[Path],
    unreadable: Sequence[tuple[Path, str]],
    given: dict[str, Any],
    display: Any,
) -> int:
    from carfilter.inspection.inspect import inspect

    seen, failed = [], [*unreadable]
    with display.passing(len(files)) as advance:
        for path in files:
            try:
                seen.append((path, inspect(path, _options_of(given))))
            except CarfilterError as error:
                failed.append((path, str(error).removeprefix(f"{path}: ")))
            advance(path)
    seen.sort(key=lambda one: -one[1].gain)
    try:
        _write_all(given, [one.as_dict() for _, one in seen], seen)
    finally:
        display.show_table(seen, failed)
    return 1 if failed else 0


def _options_of(given: dict[str, Any]) -> "InspectOptions":
    from carfilter.inspection.inspect import InspectOptions

    names = ("full", "weights", "device", "precision")
    return InspectOptions(**{name: given[name] for name in names})


def _write_all(
    given: dict[str, Any], content: Any, seen: Sequence[Any], html: Callable[[], str] = str
) -> None:
    """Write what was asked for, files first: who reads stdout may leave early."""
    texts: list[tuple[str | None, Callable[[], str]]] = [
        (given["json_file"], lambda: json.dumps(content, indent=2) + "\n"),
        (given["csv_file"], lambda: _csv_text(seen)),
        (given["html"], html),
    ]
    for name, text in sorted(texts, key=lambda one: one[0] == "-"):
        if name is not None:
            _write(name, text())


def _csv_text(seen: Sequence[Any]) -> str:
    import io

    from carfilter.inspection.summary import CSV_COLUMNS, values_of

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(values_of(one, str(path)) for path, one in seen)
    return text.getvalue()


def _write(name: str, text: str) -> None:
    if name == "-":
        click.echo(text.encode("utf-8", "backslashreplace"), nl=False)  # as into a file
        return
    try:
        with written_whole(Path(name)) as part:
            part.write_text(text, "utf-8", "backslashreplace")
    except OSError as error:
        raise CarfilterError(f"{name}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    main()
