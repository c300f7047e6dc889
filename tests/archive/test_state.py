"""What the database promises: one writer, recovery from any moment, redo of what has changed."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import carfilter.archive.book as books
from carfilter.archive.book import Book, Settings, describe_options
from carfilter.archive.plan import Found
from carfilter.archive.state import (
    DONE,
    FAILED,
    PENDING,
    RUNNING,
    VERIFIED,
    Row,
    State,
    is_locked,
    locked_folder,
)
from carfilter.archive.worker import Outcome
from carfilter.errors import CarfilterError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from carfilter.run.sidecar import sidecar_of
from carfilter.unfinished import place

SETTINGS = Settings("weights", "{}")
FRESH = json.dumps({"carfilter": "1.0", "target": {"name": "a.mp4"}}).encode()  # a sidecar


OPENED: list[State] = []


@pytest.fixture(autouse=True)
def _databases_are_closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def open_state(path: Path) -> State:
    OPENED.append(State(path))
    return OPENED[-1]


def open_book(folder: Path, settings: Settings = SETTINGS, *, overwrite: bool = False) -> Book:
    return Book(open_state(folder / "s.sqlite"), folder, settings, overwrite=overwrite)


def make_found(folder: Path) -> Found:
    source = folder / "source" / "a.mp4"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(b"source")
    status = source.stat()
    return Found("a.mp4", source, folder / "a.mp4", status.st_size, status.st_mtime_ns)


def finish(book: Book, found: Found) -> None:
    part = book.begin(found, 1.0)
    part.write_bytes(b"result")
    book.accept(found, part, Outcome(found.key, target_size=6, frames=3, content_sha256="abc"))


def test_a_second_writer_is_refused_with_a_sentence_and_readers_see_that_one_is_there(
    tmp_path: Path,
) -> None:
    assert not is_locked(tmp_path)
    with locked_folder(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(CarfilterError, match=r"another carfilter-batch \(process \d+ on "),
            locked_folder(tmp_path),
        ):
            pass
    assert not is_locked(tmp_path)
    with locked_folder(tmp_path):
        pass


def test_the_journal_is_the_rollback_journal(tmp_path: Path) -> None:
    state = State(tmp_path / "s.sqlite")
    state.save(Row("a.mp4"))
    state.close()
    database = sqlite3.connect(tmp_path / "s.sqlite")
    mode = database.execute("PRAGMA journal_mode").fetchone()
    database.close()
    assert mode == ("delete",)


def test_a_state_of_other_folders_is_refused(tmp_path: Path) -> None:
    state = open_state(tmp_path / "s.sqlite")
    state.claim(tmp_path / "one", tmp_path / "out")
    state.claim(tmp_path / "one", tmp_path / "out")
    with pytest.raises(CarfilterError, match=r"keeps the state of .*one.*, not of .*two"):
        state.claim(tmp_path / "two", tmp_path / "out")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_bytes(b"no database, but long enough to look at" * 100)
    with pytest.raises(CarfilterError, match="another --state"):
        State(tmp_path / "s.sqlite")


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE files (id INTEGER, blob BLOB)")
    before = path.read_bytes()
    with pytest.raises(CarfilterError, match=r"'files' is of another program\); move it away, or"):
        State(path)
    assert path.read_bytes() == before


def test_a_database_whose_pages_are_damaged_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    state = open_state(path)
    state.save(*(Row(path=f"{number:05d}.mp4") for number in range(2000)))
    state.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)  # behind the pages of "about"
    path.write_bytes(content)
    with pytest.raises(CarfilterError, match=r"cannot be used .*; move it away, or give another"):
        open_state(path).rows()


def test_a_length_is_known_of_the_same_stretch_alone(tmp_path: Path) -> None:
    found = make_found(tmp_path)
    second = describe_options(FilterOptions(source=SourceOptions(end_seconds=1.0)))
    book = open_book(tmp_path, Settings("weights", second))
    part = book.begin(found, None)
    part.write_bytes(b"result")
    book.accept(found, part, Outcome(found.key, target_size=6, frames=25, seconds=1.0))
    assert book.length_of(found) == 1.0
    whole = open_book(tmp_path, Settings("weights", describe_options(FilterOptions())))
    assert whole.length_of(found) is None
    part = whole.begin(found, 1.0)  # of an estimate that was wrong
    part.write_bytes(b"result")
    whole.accept(found, part, Outcome(found.key, target_size=6, frames=100, seconds=4.0))
    assert whole.length_of(found) == 4.0


def test_reading_a_state_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(CarfilterError, match="nothing was run"):
        State(tmp_path / "s.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_finished_file_is_finished_until_something_changes(tmp_path: Path) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    finish(book, found)
    book = open_book(tmp_path)
    assert book.is_finished(found, retry_failed=False)
    assert not book.is_finished(replace(found, size=99), retry_failed=False)
    assert not book.is_finished(replace(found, mtime_ns=99), retry_failed=False)
    assert not book.is_finished(replace(found, target=tmp_path / "a.mkv"), retry_failed=False)
    for settings in (Settings("others", "{}"), Settings("weights", '{"live": true}')):
        assert not open_book(tmp_path, settings).is_finished(found, retry_failed=False)
    found.target.unlink()
    assert not book.is_finished(found, retry_failed=False)


def test_a_failed_file_stays_failed_until_it_is_asked_for_or_has_changed(tmp_path: Path) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    book.begin(found, None)
    book.blame(found, "a reason", again=False)
    book = open_book(tmp_path)
    assert book.row(found).status == FAILED
    assert book.is_finished(found, retry_failed=False)
    assert not book.is_finished(found, retry_failed=True)
    assert not book.is_finished(replace(found, size=99), retry_failed=False)


def test_a_file_in_work_when_the_driver_died_is_pending_again(tmp_path: Path) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    part = book.begin(found, None)
    part.write_bytes(b"half")
    assert book.row(found).status == RUNNING
    book = open_book(tmp_path)
    assert book.recover() == 1
    assert (book.row(found).status, book.row(found).interrupted) == (PENDING, 1)
    assert not part.exists()


@pytest.mark.parametrize("renamed", [False, True])
def test_a_verified_result_survives_a_cut_before_and_after_its_renaming(
    tmp_path: Path, renamed: bool
) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    part = book.begin(found, None)
    part.write_bytes(b"result")
    sidecar_of(part).write_bytes(FRESH)
    sidecar_of(found.target).write_bytes(FRESH.replace(b"1.0", b"0.9"))
    row = book.row(found)
    row.status, row.target_size = VERIFIED, 6
    book.state.save(row)
    if renamed:
        part.rename(found.target)
    book = open_book(tmp_path)
    book.recover()
    assert book.row(found).status == DONE
    assert found.target.read_bytes() == b"result"
    assert sidecar_of(found.target).read_bytes() == FRESH
    assert not part.exists()


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_cut_while_a_result_gets_its_name_costs_no_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    part = book.begin(found, None)
    part.write_bytes(b"result")
    sidecar_of(part).write_bytes(FRESH)

    def cut(*given: Path, **how: bool) -> None:
        if at == "after":
            place(*given, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(books, "place", cut)
    outcome = Outcome(found.key, target_size=6, frames=3, content_sha256="abc")
    with pytest.raises(KeyboardInterrupt):
        book.accept(found, part, outcome)
    monkeypatch.undo()
    open_book(tmp_path).recover()
    assert found.target.read_bytes() == b"result"
    assert sidecar_of(found.target).read_bytes() == FRESH


def test_a_verified_result_that_is_gone_is_done_again(tmp_path: Path) -> None:
    found, book = make_found(tmp_path), open_book(tmp_path)
    book.begin(found, None)
    row = book.row(found)
    row.status, row.target_size = VERIFIED, 6
    book.state.save(row)
    book = open_book(tmp_path)
    book.recover()
    assert book.row(found).status == PENDING


def test_the_sweep_takes_our_temporary_files_and_no_others(tmp_path: Path) -> None:
    ours = (".carfilter-0123456789abcdef.mkv", "..carfilter-0123456789abcdef.0a1b2c3d.part.mkv")
    ours += ("..carfilter-0123456789abcdef.part.mkv", ".carfilter-0123456789abcdef.mkv.json")
    ours += ("..carfilter-0123456789abcdef.mkv.json.0a1b2c3d.part",)
    others = ("a.mp4", ".b.part.mp4", ".carfilter-short.mkv", "carfilter-0123456789abcdef.mkv")
    (tmp_path / "deep").mkdir()
    for name in (*ours, *others):
        (tmp_path / "deep" / name).touch()
    open_book(tmp_path).sweep()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(others)


def test_a_file_that_was_not_made_here_is_not_replaced_without_y(tmp_path: Path) -> None:
    found = make_found(tmp_path)
    found.target.write_bytes(b"somebody else's")
    with pytest.raises(CarfilterError, match="not made here; give -y"):
        open_book(tmp_path).begin(found, None)
    open_book(tmp_path, overwrite=True).begin(found, None)


def test_a_link_in_the_results_that_leads_into_the_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "in")
    found = replace(make_found(tmp_path), target=tmp_path / "out" / "sub" / "a.mp4")
    with pytest.raises(CarfilterError, match="leads out of OUT_DIR"):
        open_book(tmp_path / "out").begin(found, None)


def test_only_options_that_change_the_result_are_a_reason_to_do_it_again() -> None:
    plain = describe_options(FilterOptions())
    same = FilterOptions(
        target=TargetOptions(overwrite=True), restore=RestoreOptions(batch_size=4), sidecar=True
    )
    other = FilterOptions(target=TargetOptions(encoder=(("crf", "20"),)))
    assert describe_options(same) == plain
    assert describe_options(other) != plain
