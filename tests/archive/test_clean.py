"""carfilter-batch as its users meet it: real clips, real processes, real signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import av
import numpy as np
import pytest

from archives import (
    FIXED,
    batch,
    hash_of,
    hashes,
    leftovers,
    make_archive,
    make_hard_life,
    processes_of_group,
    run_batch,
)
from carfilter.archive.clean import ArchiveOptions, clean_archive
from carfilter.archive.events import DONE, FAILED, PLANNED, STARTED, Event, Totals
from carfilter.archive.machine import choose_workers
from carfilter.archive.state import STATE_NAME, State, locked_folder
from carfilter.archive.verify import VerificationError, check_result
from carfilter.commands.batch_display import plan_lines
from carfilter.errors import CarfilterError
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.account import Run
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import filter_video
from clips import equal_planes, make_clip, read_content, tiny_weights

COPY = FilterOptions(
    source=SourceOptions(threads=1),
    target=TargetOptions(encoder=(("preset", "ultrafast"),), threads=1),
    restore=RestoreOptions(strength=0.0),
)
PLAIN = ArchiveOptions(filter=COPY, jobs=1)


def flip_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 900
    content[middle : middle + 400] = bytes(b ^ 0x5A for b in content[middle : middle + 400])
    path.write_bytes(content)


def everything(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Return what lies in a folder, and when it was written to."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def clean(
    source: Path, target: Path, options: ArchiveOptions = PLAIN
) -> tuple[Totals, list[Event]]:
    seen: list[Event] = []
    return clean_archive(source, target, options, seen.append), seen


def test_an_archive_is_mirrored_and_each_bad_file_fails_alone_with_its_reason(
    tmp_path: Path,
) -> None:
    archive, out = make_archive(tmp_path / "in", 3), tmp_path / "out"
    make_clip(archive / "sound.mp4", frames=25, audio="aac")
    make_clip(archive / "old.avi", codec="mpeg4")
    flip_bytes(make_clip(archive / "damaged.mp4", frames=24))
    (archive / "text.mp4").write_text("this is no video")
    (archive / "empty.mp4").touch()
    (archive / "abort.mp4").write_bytes((archive / "sound.mp4").read_bytes())
    os.utime(archive / "old.avi", (1_000_000_000, 1_000_000_000))
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    environment = make_hard_life(tmp_path / "site")
    arguments = (archive, out, *FIXED, "--jobs", 1, "--retries", 1, "--log-json", "-")
    code, output, errors = run_batch(*arguments, environment=environment)

    assert code == 1
    events = [json.loads(line) for line in output.splitlines()]
    reasons = {e["path"]: e["reason"] for e in events if e["event"] == "failed"}
    assert sorted(reasons) == ["abort.mp4", "empty.mp4", "text.mp4"]
    assert "SIGABRT" in reasons["abort.mp4"]
    assert "empty" in reasons["empty.mp4"]
    assert "not a video" in reasons["text.mp4"]
    assert all(path in errors for path in reasons)
    assert sum(e["event"] == "started" and e["path"] == "abort.mp4" for e in events) == 2
    assert [e["path"] for e in events if e.get("damaged")] == ["damaged.mp4"]
    assert len(hashes(out)) == 6
    assert read_content(out / "sound.mp4").types == ["video", "audio"]
    assert (out / "old.mkv").stat().st_mtime == 1_000_000_000
    assert {path: path.read_bytes() for path in before} == before
    assert not leftovers(out)

    placed = {path: path.stat().st_mtime_ns for path in out.rglob("*.m*")}
    totals, seen = clean(archive, out)
    assert totals.exit_code == 1
    assert sorted(path for path, _ in totals.failures) == sorted(reasons)
    assert not [event for event in seen if event.kind == STARTED]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.m*")} == placed


def test_an_archive_cleaned_twice_by_two_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "in"
    archive.mkdir()
    for number, size in enumerate([(322, 182), (176, 144), (250, 140)]):
        make_clip(archive / f"{number}.{('mkv', 'mp4', 'ts')[number]}", frames=30, size=size)
    made = []
    for name in ("one", "two"):
        target = TargetOptions(encoder=(("maxrate", "300k"), ("bufsize", "300k")))
        options = ArchiveOptions(FilterOptions(target=target), "fast", jobs=2)
        assert clean(archive, tmp_path / name, options)[0].done == 3
        made.append({p.name: p.read_bytes() for p in (tmp_path / name).glob("[0-9]*")})
    assert made[0] == made[1]


def test_only_what_is_missing_or_changed_is_done_again(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 4), tmp_path / "out"
    totals, _ = clean(archive, out)
    assert (totals.done, totals.exit_code) == (4, 0)
    keys = sorted(hashes(out))
    make_clip(archive / keys[0], frames=9)
    (out / keys[1]).unlink()
    totals, seen = clean(archive, out)
    assert sorted(e.path for e in seen if e.kind == STARTED) == keys[:2]
    assert (totals.done, totals.finished_before) == (2, 2)
    assert len(read_content(out / keys[0]).planes) == 9


def test_a_result_is_what_the_filter_alone_gives_and_its_sidecar_names_it(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path / "tiny.pt")
    archive = make_archive(tmp_path / "in", 1)
    filtering = replace(COPY, restore=RestoreOptions(), sidecar=True)
    options = ArchiveOptions(filter=filtering, weights=str(weights), jobs=1, verify="full")
    clean(archive, tmp_path / "out", options)
    source = archive / "camera0" / "clip000.mp4"
    filter_video(source, tmp_path / "alone.mp4", weights, filtering)
    result = tmp_path / "out" / "camera0" / "clip000.mp4"
    alone = read_content(tmp_path / "alone.mp4")
    assert equal_planes(read_content(result).planes, alone.planes)
    assert not equal_planes(alone.luma, read_content(source).luma)
    record = json.loads((tmp_path / "out" / "camera0" / "clip000.mp4.json").read_text())
    assert record["target"]["name"] == "clip000.mp4"
    assert record["frames"] == len(alone.planes)


def test_a_result_that_lacks_frames_time_or_a_stream_is_found_out(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=12, audio="aac")
    run = Run("a", "b", frames=12, video_seconds=11 / 25)

    def check(**clip: object) -> None:
        part = make_clip(tmp_path / "part.mkv", **clip)
        check_result(part, source, COPY, run, decode="full", report=lambda *_: None)

    check(frames=12, audio="aac")
    with pytest.raises(VerificationError, match="12 frames were written and 11 are in it"):
        check(frames=11, audio="aac")
    with pytest.raises(VerificationError, match=r"lasts 0\.520 s instead of 0\.440 s"):
        check(frames=12, audio="aac", pts=[*range(11), 13])
    with pytest.raises(VerificationError, match="0 audio streams instead of 1"):
        check(frames=12)
    assert not (tmp_path / "part.mkv").exists()


def test_a_worker_that_hangs_is_ended_and_its_file_fails_alone(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "in", 1)
    make_clip(archive / "hang.mp4")
    make_clip(archive / "oom.mp4")
    options = (*FIXED, "--jobs", 2, "--retries", 0, "--stall", 2)
    code, _, errors = run_batch(
        archive, tmp_path / "out", *options, environment=make_hard_life(tmp_path / "site")
    )
    assert code == 1
    assert "hang.mp4: no progress for 2 s" in errors
    assert "oom.mp4: its worker died of SIGKILL (out of memory?)" in errors
    assert len(hashes(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_run_cleanly_and_the_next_one_finishes_it(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    archive, out = tmp_path / "in", tmp_path / "out"
    archive.mkdir()
    make_clip(archive / "long.mp4", frames=400, size=(160, 120))
    slow = ("--strength", 0, "-threads", 1, "-preset", "veryslow", "--samples", 0)
    process = batch(archive, out, *slow, "--jobs", 1)
    wait_for(lambda: any(out.glob("*part*")), process)
    os.killpg(process.pid, number)  # as a terminal does: driver and workers alike
    process.communicate(timeout=90)
    assert process.returncode == code
    assert not leftovers(out)
    status, output, _ = run_batch("--status", out)
    assert status == 0
    assert "no run is at work; 1 pending" in output


def test_a_killed_driver_takes_its_workers_along_and_the_next_run_finishes(
    tmp_path: Path,
) -> None:
    archive, out = make_archive(tmp_path / "in", 3, frames=400), tmp_path / "out"
    process = batch(archive, out, *FIXED, "--jobs", 1)
    wait_for(lambda: any(out.rglob("*part*")), process)
    process.kill()
    process.communicate()
    wait_for(lambda: not processes_of_group(process.pid), None)
    totals, _ = clean(archive, out)
    assert totals.exit_code == 0
    assert sorted(hashes(out)) == sorted(hashes(archive))
    assert not leftovers(out)


def test_a_second_run_over_the_same_results_is_refused_and_the_first_one_seen(
    tmp_path: Path,
) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    out.mkdir()
    State(out / STATE_NAME).close()
    with locked_folder(out):
        with pytest.raises(CarfilterError, match="another carfilter-batch"):
            clean(archive, out)
        code, output, _ = run_batch("--status", out)
    assert code == 0
    assert "a run is at work" in output
    assert not hashes(out)


def wait_for(happened: object, process: "subprocess.Popen[str] | None") -> None:
    deadline = time.monotonic() + 60
    assert callable(happened)
    while not happened():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_watching_takes_a_file_only_when_it_is_complete(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    content = make_clip(tmp_path / "segment.ts", frames=24).read_bytes()
    stop, seen = threading.Event(), []

    def record() -> None:
        with (archive / "segment.ts").open("wb") as file:
            for start in range(0, len(content), len(content) // 3):
                file.write(content[start : start + len(content) // 3])
                file.flush()
                time.sleep(1.0)  # longer than the settling time: but it is held open
        started_too_early = [e for e in seen if e.path == "segment.ts"]
        seen.append(Event("recorded", values={"early": started_too_early}))
        deadline = time.monotonic() + 30
        while not (out / "segment.ts").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()

    recorder = threading.Thread(target=record)
    options = replace(PLAIN, watch=True, settle_seconds=0.5, jobs=1)
    recorder.start()
    totals = clean_archive(archive, out, options, seen.append, stop)
    recorder.join()
    (recorded,) = [e for e in seen if e.kind == "recorded"]
    assert not recorded.values["early"]
    assert totals.done == 2
    assert not [e for e in seen if e.kind == FAILED]
    assert len(read_content(out / "segment.ts").planes) == 24


def test_a_file_that_was_whole_in_the_end_is_no_failure(tmp_path: Path) -> None:
    """A recorder that pauses for longer than the settling time leaves half a file for a while."""
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    content = make_clip(tmp_path / "late.mp4", frames=24).read_bytes()
    stop, failed = threading.Event(), threading.Event()
    (archive / "late.mp4").write_bytes(content[: len(content) // 2])

    def note(event: Event) -> None:
        if event.path == "late.mp4" and event.kind == FAILED:
            failed.set()
        if event.path == "late.mp4" and event.kind == DONE:
            stop.set()

    def record() -> None:
        if failed.wait(60):
            (archive / "late.mp4").write_bytes(content)
        threading.Timer(60, stop.set).start()

    recorder = threading.Thread(target=record)
    recorder.start()
    options = replace(PLAIN, watch=True, settle_seconds=0.5, jobs=1, retries=0)
    totals = clean_archive(archive, out, options, note, stop)
    recorder.join()
    assert failed.is_set()
    assert (totals.done, totals.failed, totals.failures) == (2, 0, [])
    assert len(read_content(out / "late.mp4").planes) == 24


@pytest.mark.parametrize("way", ["compare", "turned"])
def test_the_pair_of_pictures_is_of_the_same_piece(tmp_path: Path, way: str) -> None:
    archive, page = tmp_path / "in", tmp_path / "page.html"
    archive.mkdir()
    make_clip(tmp_path / "plain.mp4", size=(128, 64), options={"qp": "1"})
    with av.open(str(tmp_path / "plain.mp4")) as plain, av.open(str(archive / "a.mp4"), "w") as out:
        video = out.add_stream_from_template(plain.streams.video[0])
        if way == "turned":
            quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
            video.set_display_matrix(quarter)
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
    target = TargetOptions(upright=way == "turned", encoder=(("qp", "1"),))
    chosen = replace(PLAIN.filter, target=target, compare=way == "compare")
    clean(archive, tmp_path / "out", replace(PLAIN, report=page, filter=chosen))
    after, before = sorted((tmp_path / "page_files").iterdir())
    pictures = []
    for path in (before, after):
        with av.open(str(path)) as opened:
            pictures.append(next(opened.decode(video=0)).to_ndarray(format="gray").astype(int))
    assert pictures[0].shape == pictures[1].shape == ((128, 64) if way == "turned" else (64, 128))
    assert np.abs(pictures[0] - pictures[1]).mean() < 8


def test_the_report_shows_verdicts_and_a_pair_of_pictures(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 1), tmp_path / "out"
    (archive / "<script>.mp4").write_text("no video")
    name = os.fsdecode(b"caf\xe9.mp4")  # a name that is no text
    make_clip(tmp_path / "clip.mp4").rename(archive / name)
    page = tmp_path / "page.html"
    totals, _ = clean(archive, out, replace(PLAIN, report=page))
    text = page.read_text()
    assert totals.failed == 1
    assert hash_of(out / name)
    assert "caf\\xe9.mp4" in text
    assert "&lt;script&gt;.mp4" in text
    assert "<script>" not in text
    assert "not a video" in text
    pictures = sorted(path.name for path in (tmp_path / "page_files").iterdir())
    assert [name.rpartition("-")[2] for name in pictures] == ["after.png", "before.png"] * 2
    assert all(f'src="page_files/{name}"' in text for name in pictures)


def test_a_report_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    page = tmp_path / os.fsdecode(b"r\xfc.html")
    archive = make_archive(tmp_path / "in", 1)
    totals, _ = clean(archive, tmp_path / "out", replace(PLAIN, report=page))
    assert totals.done == 1
    shown = re.findall(rb'src="([^"]*)"', page.read_bytes())
    assert len(shown) == 2
    assert all((tmp_path / os.fsdecode(unquote_to_bytes(name))).exists() for name in shown)


def test_the_report_of_a_file_done_again_shows_the_new_result(tmp_path: Path) -> None:
    archive, page, seen = make_archive(tmp_path / "in", 1), tmp_path / "page.html", []
    for strength in (0.2, 0.9):
        options = replace(
            PLAIN,
            report=page,
            filter=replace(
                PLAIN.filter,
                target=TargetOptions(video_codec="rawvideo", format="matroska"),
                restore=RestoreOptions(strength=strength),
            ),
        )
        clean(archive, tmp_path / "out", options)
        shown = re.findall(r'src="(page_files/[^"]*after\.png)"', page.read_text())
        seen += [(tmp_path / name).read_bytes() for name in shown]
    assert len(seen) == 2
    assert seen[0] != seen[1]


def test_a_plan_says_time_and_growth_and_does_nothing(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 2, frames=30), tmp_path / "out"
    totals, seen = clean(archive, out, replace(PLAIN, plan_only=True))
    assert totals.exit_code == 0
    ((plan, files),) = [(e.values["plan"], e.values["files"]) for e in seen if e.kind == PLANNED]
    assert plan.pending == 2
    assert plan.pending_seconds == pytest.approx((30 + 31) / 25)
    assert len(files) == 2
    assert all("h264 64x48 25 fps" in row and "QP" in row[-1] for row in files)
    assert plan.estimate.sampled == 2
    assert plan.estimate.growth is not None
    assert 0.2 < plan.estimate.growth < 20  # tiny clips are mostly headers
    sentences = "\n".join(plan_lines(plan))
    assert "to do: 2 files, 2 s of video" in sentences
    assert "times as large as the sources" in sentences
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_plan_knows_what_is_done_and_writes_nothing(tmp_path: Path) -> None:
    archive, out, temporary = make_archive(tmp_path / "in", 2), tmp_path / "out", tmp_path / "tmp"
    assert clean(archive, out)[0].done == 2
    make_clip(archive / "new.mp4", frames=30)
    (out / ".carfilter-0123456789abcdef.mp4").write_bytes(b"of a run that was killed")
    temporary.mkdir()
    before = everything(out)
    code, _, said = run_batch(
        archive, out, *FIXED, "--plan", environment={"TMPDIR": str(temporary)}
    )
    assert code == 0, said
    assert "to do: 1 files" in said
    assert "2 files are finished already" in said
    assert everything(out) == before
    assert not [*temporary.iterdir()]


def test_the_number_of_workers_depends_on_the_machine_and_not_on_the_files() -> None:
    workers = choose_workers(COPY.restore, 0)
    assert 1 <= len(workers.devices) <= len(os.sched_getaffinity(0))
    assert set(workers.devices) == {""}
    assert len(choose_workers(COPY.restore, 3).devices) == 3


def test_help_imports_neither_torch_nor_av() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from carfilter.commands import batch;"
        "r = CliRunner().invoke(batch.carfilter_batch, ['--help']); assert r.exit_code == 0;"
        "sys.exit(bool({'torch', 'av', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give IN_DIR and OUT_DIR"),
        (("missing", "out"), 1, "is no folder"),
        ((".", "out"), 1, "overlaps"),
        (("--status", "out"), 1, "nothing was run there yet"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, errors = run_batch(*arguments)
    assert status == code
    assert words in errors
    assert "Traceback" not in errors


def test_what_carfilter_says_of_a_file_is_said_of_an_archive_too(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    parts = [
        make_clip(tmp_path / f"{codec}.ts", codec=codec, frames=40)
        for codec in ("libx264", "mpeg2video")
    ]
    (folder / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    totals, seen = clean(folder, tmp_path / "out")
    assert (totals.done, totals.failed) == (1, 0)
    done = next(event for event in seen if event.kind == DONE)
    assert "its video changes to another codec in mid-stream" in done.text
    assert len(done.values["warnings"]) >= 1


def test_what_failed_over_a_name_is_done_once_the_name_is_free_or_given(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 2), tmp_path / "out"
    first, second = (video.relative_to(archive) for video in sorted(archive.rglob("*.mp4")))
    for name in (first, second):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / first).write_text("of somebody else")
    (out / second).symlink_to(tmp_path / "elsewhere.mp4")
    assert len(clean(archive, out)[0].failures) == 2
    assert len(clean(archive, out)[0].failures) == 2
    (out / second).unlink()
    overwriting = replace(COPY, target=replace(COPY.target, overwrite=True))
    totals, _ = clean(archive, out, replace(PLAIN, filter=overwriting))
    assert (totals.done, totals.failures) == (2, [])


def test_a_sidecar_belongs_to_the_result_beside_it(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 2), tmp_path / "out"
    describing = replace(PLAIN, filter=replace(COPY, sidecar=True))
    names = [video.relative_to(archive) for video in sorted(archive.rglob("*.mp4"))]
    foreign = out / f"{names[0]}.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text('{"mine": 1}')
    totals, _ = clean(archive, out, describing)
    assert (totals.done, foreign.read_text()) == (1, '{"mine": 1}')
    assert "not made here; give -y" in totals.failures[0][1]
    described = out / f"{names[1]}.json"
    assert json.loads(described.read_text())["target"]["name"] == names[1].name
    foreign.unlink()
    assert clean(archive, out, describing)[0].done == 1
    coarser = replace(COPY.target, encoder=(("preset", "ultrafast"), ("crf", "40")))
    assert clean(archive, out, replace(PLAIN, filter=replace(COPY, target=coarser)))[0].done == 2
    assert not list(out.rglob("*.json"))  # what they said is true of nothing any more
    _, seen = clean(
        archive, out, replace(PLAIN, filter=replace(COPY, target=coarser, sidecar=True))
    )
    assert any("2 results of earlier runs have no .json" in event.text for event in seen)


def test_of_names_that_read_alike_one_fails_and_says_so(tmp_path: Path) -> None:
    archive, out = tmp_path / "in", tmp_path / "out"
    archive.mkdir()
    clip = make_clip(tmp_path / "clip.mp4")
    for name in ("a\x80.mp4", os.fsdecode(b"a\x80.mp4")):
        (archive / name).write_bytes(clip.read_bytes())
    totals, _ = clean(archive, out)
    assert (totals.done, totals.failed) == (1, 1)
    assert "its name reads like another's; rename it" in totals.failures[0][1]


def test_names_that_print_alike_are_two_files(tmp_path: Path) -> None:
    archive, out = tmp_path / "in", tmp_path / "out"
    archive.mkdir()
    clip = make_clip(tmp_path / "clip.mp4")
    names = [os.fsdecode(name) for name in (b"a\xff.mp4", rb"a\xff.mp4", b"b\n.mp4", rb"b\n.mp4")]
    for name in names:
        (archive / name).write_bytes(clip.read_bytes())
    for done in (4, 0):
        totals, _ = clean(archive, out)
        assert (totals.done, totals.exit_code) == (done, 0)
    assert {path.name for path in out.glob("*.mp4")} == {*names}
