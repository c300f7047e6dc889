"""What is known of each file of an archive, in an SQLite database that survives kill -9 and power.

The rollback journal, since WAL needs memory shared between hosts and is unsafe on network file
systems. One driver writes, holding a lock on the folder; anybody may read at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from carfilter.errors import CarfilterError

STATE_NAME = "carfilter-batch.sqlite"
_LOCK_NAME = ".carfilter-batch.lock"
_VERSION = "1"
_LOCK_TRIES = 5  # --status looks at the lock by taking it for an instant
_BUSY_SECONDS = 30.0  # a reader such as --status may hold the database for a moment

PENDING, RUNNING, VERIFIED, DONE, FAILED = "pending", "running", "verified", "done", "failed"


@dataclass
class Row:
    """One file: what it was when it was worked on, and what came of it."""

    path: str  # relative to IN_DIR
    target: str = ""  # relative to OUT_DIR
    size: int = 0  # bytes of the input
    mtime_ns: int = 0
    video_seconds: float | None = None  # as the container says
    content_sha256: str = ""
    weights_sha256: str = ""  # empty at strength 0
    options: str = ""  # JSON of all that can change the result
    status: str = PENDING
    attempts: int = 0  # ended by the file's own fault, or its worker's
    interrupted: int = 0  # times a driver died or was stopped while this file was in work
    verdict: str = ""
    error: str = ""
    frames: int = 0
    damaged: int = 0
    seconds: float = 0.0  # of work, of the attempt that counted
    part: str = ""  # temporary name, relative to OUT_DIR
    target_size: int | None = None  # bytes of the result we placed; None if we never did
    finished_at: float | None = None  # seconds since 1970

    @property
    def is_over(self) -> bool:
        """Done, or failed for good."""
        return self.status in (DONE, FAILED)


_COLUMNS = tuple(f.name for f in fields(Row))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, {", ".join(_COLUMNS[1:])}
) WITHOUT ROWID;
"""


@contextmanager
def locked_folder(out_dir: Path) -> Iterator[None]:
    """Make OUT_DIR and hold its one writer's lock; the kernel lets go of it however we end.

    Raises:
        CarfilterError: it cannot be made, or another run holds it.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CarfilterError(f"{out_dir}: cannot be made ({error.strerror})") from error
    path = out_dir / _LOCK_NAME
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise CarfilterError(
            f"{out_dir}: cannot be written to ({error.strerror}); choose another OUT_DIR"
        ) from error
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            raise CarfilterError(
                f"{out_dir}: another carfilter-batch ({_holder(file)}) is"
                " at work here; wait for it, or watch it with --status"
            ) from None
        except OSError as error:
            raise CarfilterError(
                f"{path}: cannot be locked ({error.strerror}); OUT_DIR needs a file system with"
                " locks"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk the lock is held without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _holder(file: IO[bytes]) -> str:
    return file.read().decode(errors="replace").strip() or "just started"


def _lock(file: IO[bytes]) -> None:
    for left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.1)
        else:
            return


def is_locked(out_dir: Path) -> bool:
    """Say whether a run is at work in OUT_DIR."""
    try:
        with (out_dir / _LOCK_NAME).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class State:
    """The database; every method that changes something has it on the disk when it returns."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open it, and make it unless read_only.

        Raises:
            CarfilterError: it is missing, damaged, or not such a database.
        """
        self.path = path
        if read_only and not path.is_file():
            raise CarfilterError(f"{path}: no such database; nothing was run there yet")
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA query_only = 1" if read_only else "PRAGMA synchronous = FULL")
            self._check_schema()
            if not read_only:
                self._db.execute("PRAGMA journal_mode = DELETE")
                self._db.executescript(_SCHEMA)
            version = self.about("version") or _VERSION
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error
        if version != _VERSION:
            raise CarfilterError(f"{path}: made by another version; give another --state")

    def _check_schema(self) -> None:
        """Refuse another program's database, before anything is written to it."""
        known = {
            table: {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
            for (table,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if table in ("about", "files")
        }
        for table, columns in (("about", ("key", "value")), ("files", _COLUMNS)):
            if not known.get(table, {*columns}) >= {*columns}:
                raise self._unusable(f"its table {table!r} is of another program")

    def _unusable(self, reason: str) -> CarfilterError:
        return CarfilterError(
            f"{self.path}: cannot be used ({reason}); move it away, or give another --state"
        )

    @classmethod
    def copy_of(cls, path: Path) -> State:
        """Return in memory what is known so far, nothing where there is no database yet.

        Raises:
            CarfilterError: as State().
        """
        copy = cls(Path(":memory:"))
        copy.path = path
        if path.is_file():
            known = cls(path, read_only=True)
            known._db.backup(copy._db)
            known.close()
        return copy

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def about(self, key: str) -> str:
        """Return a note on the whole archive, or ""."""
        found = self._read("SELECT value FROM about WHERE key = ?", key)
        return str(found[0][0]) if found else ""

    def note(self, **notes: str) -> None:
        """Write notes on the whole archive."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", notes.items())

    def claim(self, in_dir: Path, out_dir: Path) -> None:
        """Tie the database to its two folders.

        Raises:
            CarfilterError: it belongs to others; their results would be taken for these.
        """
        for key, folder in (("in_dir", in_dir), ("out_dir", out_dir)):
            known = self.about(key)
            if known and known != os.fsencode(folder).hex():
                before = os.fsdecode(bytes.fromhex(known))
                raise CarfilterError(
                    f"{self.path}: keeps the state of {before}, not of {folder};"
                    " give another OUT_DIR or another --state"
                )
        self.note(
            version=_VERSION,
            in_dir=os.fsencode(in_dir).hex(),  # hex, since a path need not be text
            out_dir=os.fsencode(out_dir).hex(),
        )

    def rows(self) -> dict[str, Row]:
        """Return every file by its path.

        Raises:
            CarfilterError: the database is damaged.
        """
        found = self._read(f"SELECT {', '.join(_COLUMNS)} FROM files ORDER BY path")
        return {values[0]: Row(*values) for values in found}

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def save(self, *rows: Row) -> None:
        """Write rows, all or none."""
        marks = ", ".join("?" * len(_COLUMNS))
        with self._transaction():
            self._db.executemany(
                f"INSERT OR REPLACE INTO files ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [tuple(getattr(row, name) for name in _COLUMNS) for row in rows],
            )

    def beat(self, rows: Sequence[Row]) -> None:
        """Note how far the files in work are, for --status; a few times a minute is enough."""
        self.save(*rows)
        self.note(heartbeat=str(time.time()))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise CarfilterError(
                f"{self.path}: cannot be written ({error}); check the disk"
            ) from error
