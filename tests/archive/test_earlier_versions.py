"""What earlier versions began goes on."""

import os
import shutil
import sqlite3
from pathlib import Path

from archives import run_batch

SAMPLE = Path(__file__).parents[2] / "samples" / "plaza.mp4"
# Of carfilter 0.1.0 before its modules lay in wings: killed while it was at b.mp4, a.mp4 done.
BEGUN = Path(__file__).with_name("begun_before_the_wings.sql")
MODIFIED_SECONDS = 1_767_225_600  # of both files
RESULT_BYTES = 525_533  # of a.mp4


def test_an_archive_begun_by_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    in_dir, out_dir = tmp_path / "in", tmp_path / "out"
    in_dir.mkdir()
    out_dir.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copyfile(SAMPLE, in_dir / name)
        os.utime(in_dir / name, (MODIFIED_SECONDS, MODIFIED_SECONDS))
    database = sqlite3.connect(out_dir / "carfilter-batch.sqlite")
    database.executescript(BEGUN.read_text())
    database.close()
    (out_dir / "a.mp4").write_bytes(bytes(RESULT_BYTES))  # to see that it is left alone

    code, _, said = run_batch(in_dir, out_dir, "--strength", 0, "--jobs", 1, "-preset", "ultrafast")

    assert code == 0, said
    assert "1 files are finished already" in said
    assert (out_dir / "a.mp4").read_bytes() == bytes(RESULT_BYTES)
    assert (out_dir / "b.mp4").stat().st_size > 100_000
