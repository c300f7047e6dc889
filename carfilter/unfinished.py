"""Files that are not finished: where they grow, and how a finished one takes its name.

A file grows beside its target under a hidden name of its own, made in one step: two runs never
write to the same one. A name that was free at the beginning and is taken at the end costs neither
file: the link(2) that gives a name refuses one that exists.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from carfilter.errors import MediaError

_LONGEST_NAME = 255  # bytes, where the file system does not say
_LONGEST_ENDING = 32  # bytes; longer ones are no ending
# File systems without hard links say one of these, FAT and some of the network among them.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")
_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def is_stdout(target: str | Path) -> bool:
    """Say whether a target is stdout, by whichever of its names."""
    return str(target) in _STDOUT


def is_written_through(path: Path) -> bool:
    """Say whether a target is a device, a named pipe or a descriptor, which is written to as it is.

    Behind one lies a reader, or a place that a rename would not reach.
    """
    return str(path).startswith(_DESCRIPTORS) or (path.exists() and not path.is_file())


def followed(path: Path) -> Path:
    """Return the file that a link leads to, which is written in its place; it may not exist yet.

    Raises:
        MediaError: the link leads in a circle.
    """
    if not path.is_symlink():
        return path
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise MediaError(f"{path}: is a link that leads nowhere; remove it") from error
    return path.resolve()


def begin(path: Path, *, ends_alike: bool = True) -> Path:
    """Make an empty file beside `path` under a hidden name that nobody else has.

    Args:
        ends_alike: with the ending of `path`, which says the format; else with one that nobody
            looks for.

    Raises:
        OSError: it cannot be made.
    """
    stem, ending = _parts(path) if ends_alike else (path.name, "")
    while True:
        part = _named(path.parent, ".", stem, f".{secrets.token_hex(4)}.part{ending}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return part


def place(part: Path, path: Path, *, overwrite: bool) -> Path:
    """Give a finished file its name, or where that is taken by now the next free one.

    Args:
        overwrite: replace what has the name; its mode stays.

    Returns:
        Where it lies: `path`, or NAME-2.EXT.

    Raises:
        OSError: it cannot be renamed.
    """
    if overwrite:
        _keep_mode(path, part)
        part.replace(path)
        return path
    number, free = 2, path
    while not _renamed(part, free):
        free = _beside(path, f"-{number}")
        number += 1
    return free


def partial_of(path: Path) -> Path:
    """Return the name of what an interrupted run leaves."""
    return _beside(path, ".partial")


@contextmanager
def written_whole(path: Path, *, ends_alike: bool = False) -> Iterator[Path]:
    """Yield a hidden file to write to, called as begin() says; `path` has it at the end.

    Nothing of it stays where that fails. A device or a pipe gets what it holds at the end.
    """
    if is_written_through(path):
        with _sent_at_the_end(path, ends_alike=ends_alike) as part:
            yield part
        return
    path = followed(path)
    part = begin(path, ends_alike=ends_alike)
    try:
        yield part
        place(part, path, overwrite=True)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Refuse, before the work for it, an output that could not be written after it.

    Raises:
        MediaError: it is a folder, or could not be made.
    """
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; name a file in it")
    if not is_written_through(path):
        check_folder_of(followed(path))


def check_outputs(outputs: Sequence[Path], sources: Iterable[Path]) -> None:
    """Refuse outputs that would be lost to one another, or would cost what is read.

    Files are compared and not names: links lead to them, and file systems ignore case.

    Raises:
        MediaError: it names the first such output.
    """
    files = [path for path in outputs if not is_written_through(path)]
    places = [os.path.realpath(path) for path in files]
    for number, path in enumerate(files):
        if places[number] in places[:number]:
            raise MediaError(f"{path}: would be written twice; give each output its own name")
    existing = {_identity(path): path for path in outputs}
    existing.pop(None, None)
    for source in sources if existing else ():
        if output := existing.get(_identity(source)):
            raise MediaError(f"{output}: is the source itself; write to another file")


def check_folder_of(path: Path) -> None:
    """Refuse a file that could not be made.

    Raises:
        MediaError: its folder does not exist or cannot be written to, or its name is too long.
    """
    if not path.parent.is_dir():
        raise MediaError(f"{path}: its folder does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise MediaError(f"{path}: its folder cannot be written to; choose another")
    check_name(path)


def check_name(path: Path) -> None:
    """Refuse a name that its folder cannot hold.

    Raises:
        MediaError: it is too long.
    """
    length, most = len(os.fsencode(path.name)), _longest_name(path.parent)
    if length > most:
        raise MediaError(
            f"{path}: its name has {length} bytes and {most} are allowed there; give a shorter one"
        )


@contextmanager
def _sent_at_the_end(path: Path, *, ends_alike: bool) -> Iterator[Path]:
    """Yield a file elsewhere, since formats go back in theirs, which a pipe does not let them."""
    import shutil  # both of which --help has no time for
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        part = begin(Path(folder) / path.name, ends_alike=ends_alike)
        yield part
        with part.open("rb") as made, path.open("wb") as target:
            shutil.copyfileobj(made, target)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file that holds something from all others, by whichever name."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None  # there is none
    holds = stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return (status.st_dev, status.st_ino) if holds else None


def _renamed(part: Path, path: Path) -> bool:
    """Rename a file unless the new name is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            return False
        part.replace(path)
        return True
    part.unlink()
    return True


def _keep_mode(path: Path, part: Path) -> None:
    """Give a new file the owner and the mode of the one that it replaces, as far as allowed."""
    try:
        old, new = path.stat(), part.stat()
    except OSError:
        return  # there is none
    with contextlib.suppress(OSError):
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.chown(part, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):
        part.chmod(stat.S_IMODE(old.st_mode))


def _beside(path: Path, words: str) -> Path:
    """Return the path with words between the stem of its name and its ending."""
    stem, ending = _parts(path)
    return _named(path.parent, "", stem, f"{words}{ending}")


def _parts(path: Path) -> tuple[str, str]:
    """Split a name into stem and ending."""
    is_ending = len(os.fsencode(path.suffix)) <= _LONGEST_ENDING
    return (path.stem, path.suffix) if is_ending else (path.name, "")


def _named(folder: Path, before: str, stem: str, after: str) -> Path:
    """Put a name together; its stem is cut where it would be too long."""
    room = _longest_name(folder) - len(os.fsencode(before + after))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return folder / f"{before}{stem}{after}"


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return _LONGEST_NAME
