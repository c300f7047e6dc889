"""Which files are taken, how their results are called, and what is refused before any work."""

import os
from pathlib import Path

import pytest

from carfilter.archive.plan import (
    Naming,
    check_collisions,
    check_folders,
    scan,
)
from carfilter.errors import CarfilterError
from clips import make_clip


@pytest.mark.parametrize(
    ("naming", "name", "expected"),
    [
        (Naming(), "a.mp4", "a.mp4"),
        (Naming(), "A.MP4", "A.MP4"),
        (Naming(), "a.dav", "a.mkv"),
        (Naming(), "a.b.avi", "a.b.mkv"),
        (Naming(), "no ending", "no ending.mkv"),
        (Naming(append=True), "a.avi", "a.avi.mkv"),
        (Naming(append=True), "a.mp4", "a.mp4"),
        (Naming("matroska"), "a.mp4", "a.mkv"),
        (Naming("mpegts"), "a.ts", "a.ts"),
        (Naming("mov", append=True), "a.mp4", "a.mp4.mov"),
    ],
)
def test_results_keep_their_name_unless_the_container_changes(
    naming: Naming, name: str, expected: str
) -> None:
    assert naming.target_name(name) == expected


def test_two_files_that_would_get_one_name_are_refused_with_a_way_out(tmp_path: Path) -> None:
    for name in ("a.avi", "a.dav", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    found = scan(tmp_path, tmp_path / "out", Naming())
    with pytest.raises(CarfilterError, match=r"a\.avi and a\.dav .* a\.mkv.*--append-ext"):
        check_collisions(found.videos)
    check_collisions(scan(tmp_path, tmp_path / "out", Naming(append=True)).videos)


def test_a_result_that_would_have_the_name_of_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").mkdir()
    for name in ("a.avi", "a.mkv/b.mp4", "a.mkv/c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    found = scan(tmp_path, tmp_path / "out", Naming())
    with pytest.raises(CarfilterError, match=r"a\.avi and a\.mkv/[bc]\.mp4 .*--append-ext"):
        check_collisions(found.videos)
    check_collisions(scan(tmp_path, tmp_path / "out", Naming(append=True)).videos)


@pytest.mark.parametrize("out", ["in", "in/inside", "."])
def test_overlapping_folders_are_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CarfilterError, match="overlaps"):
        check_folders(tmp_path / "in", tmp_path / out)


def test_a_link_does_not_hide_that_folders_overlap(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    with pytest.raises(CarfilterError, match="overlaps"):
        check_folders(tmp_path / "in", tmp_path / "alias" / "out")


def test_videos_are_found_by_ending_and_by_content_and_nothing_else_is(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "good.mp4", frames=3)
    (tmp_path / "noending").write_bytes(clip.read_bytes())
    transport = make_clip(tmp_path / "whole.ts", frames=12).read_bytes()
    (tmp_path / "from.mid_packet").write_bytes(transport[100:])
    make_clip(tmp_path / "raw.h264", frames=12).rename(tmp_path / "raw.bits")
    (tmp_path / "text.mp4").write_text("claims to be a video")
    (tmp_path / "notes.txt").write_text("does not")
    (tmp_path / "nothing").touch()
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (tmp_path / "._good.mp4").write_bytes(b"a file that macOS leaves")
    found = scan(tmp_path, tmp_path / "out", Naming())
    by_ending = {f.key: f.claims for f in found.videos}
    assert by_ending == {
        "from.mid_packet": False, "good.mp4": True, "noending": False, "raw.bits": False,
        "text.mp4": True, "whole.ts": True,
    }  # fmt: skip
    assert found.left == [
        ("._good.mp4", "hidden"), ("notes.txt", "nothing that FFmpeg knows"), ("nothing", "empty"),
        ("photo.heic", "a picture"),
    ]  # fmt: skip


def test_links_are_named_and_never_followed(tmp_path: Path) -> None:
    archive, outside = tmp_path / "in", tmp_path / "outside"
    archive.mkdir()
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"x")
    (archive / "file.mp4").symlink_to(outside / "secret.mp4")
    (archive / "folder").symlink_to(outside)
    (archive / "loop").symlink_to(archive)
    found = scan(archive, tmp_path / "out", Naming())
    assert found.videos == []
    assert found.left == [(name, "a link") for name in ("file.mp4", "folder", "loop")]


def test_names_that_are_no_text_get_a_key_that_is(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).write_bytes(b"x")
    (found,) = scan(tmp_path, tmp_path / "out", Naming()).videos
    assert found.key == "caf\\xe9.mp4"
    assert found.source.exists()
    found.key.encode()


def test_a_name_cannot_send_commands_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J\n.mp4").write_bytes(b"x")
    (found,) = scan(tmp_path, tmp_path / "out", Naming()).videos
    assert found.key == "a\\x1b[2J\\n.mp4"
