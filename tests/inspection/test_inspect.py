"""A look at a file: what it says is true, of files of many kinds, and it changes nothing."""

import csv
import json
import os
import re
import subprocess
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner

from cameras import COMMAND
from carfilter.commands.inspect import carfilter_inspect
from carfilter.errors import MediaError
from carfilter.inspection.inspect import InspectOptions, inspect
from clips import make_clip, read_content, tiny_weights

FACTS = InspectOptions(tries=False)
MANUAL = Path(__file__).parents[2] / "carfilter" / "inspection" / "README.md"


def decoded_types(path: Path) -> dict[str, int]:
    """Count the types of all pictures as the decoder tells them."""
    counts: dict[str, int] = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            kind = {1: "I", 2: "P", 3: "B"}[int(frame.pict_type)]
            counts[kind] = counts.get(kind, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "2", "g": "8"}),
        ("a.ts", "libx264", {"bf": "2", "g": "8"}),
        ("a.mkv", "libx265", {"x265-params": "log-level=none:keyint=8:bframes=2:slices=2"}),
        ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=8:bframes=2"}),
        ("a.avi", "mpeg4", {"bf": "2", "g": "8"}),
        ("a.ts", "mpeg2video", {"bf": "2", "g": "8"}),
        ("a.avi", "mjpeg", {}),
    ],
)
def test_types_of_pictures_are_those_of_the_decoder(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / name, frames=20, codec=codec, options=options, pix_fmt=pix_fmt)
    seen = inspect(clip, FACTS)
    assert seen.coding.types == decoded_types(clip)
    assert seen.coding.pictures == 20


def test_length_rate_and_key_frames_are_the_clips(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=25, options={"g": "10", "sc_threshold": "0"})
    seen = inspect(clip, FACTS)
    assert seen.times.seconds == pytest.approx(1.0)
    assert not seen.times.is_variable
    assert seen.coding.key_pictures == (10, 10.0, 10)
    assert seen.coding.key_seconds == pytest.approx((0.4, 0.4, 0.4))


def test_a_variable_rate_and_a_gap_are_seen(tmp_path: Path) -> None:
    uneven = [0, 40, 120, 140, 260, 300, 420, 440, 500, 640, 700, 900]
    clip = make_clip(tmp_path / "a.mkv", pts=uneven, time_base=Fraction(1, 1000))
    assert inspect(clip, FACTS).times.is_variable
    with_hole = [*range(0, 240, 40), *range(9000, 9240, 40)]
    clip = make_clip(tmp_path / "b.mkv", pts=with_hole, time_base=Fraction(1, 1000))
    times = inspect(clip, FACTS).times
    assert not times.is_variable
    assert times.gaps == ((pytest.approx(0.2), pytest.approx(8.8)),)


def test_checksums_are_those_of_ffmpeg_and_of_the_file(tmp_path: Path) -> None:
    import hashlib
    import shutil

    if shutil.which("ffmpeg") is None:
        pytest.skip("needs the ffmpeg program")
    clip = make_clip(tmp_path / "a.mkv", audio="aac")
    told = subprocess.run(
        ["ffmpeg", "-i", clip, "-map", "0", "-c", "copy", "-copyinkf", "-f", "streamhash", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    seen = inspect(clip, FACTS)
    assert [s.sha256 for s in seen.streams] == [
        line.split("=")[1].lower() for line in told.splitlines()
    ]
    assert seen.sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()


def test_a_coarse_clip_promises_a_gain_and_a_fine_one_none(tmp_path: Path) -> None:
    coarse = inspect(make_clip(tmp_path / "a.mp4", options={"qp": "40"}), FACTS)
    fine = inspect(make_clip(tmp_path / "b.mp4", options={"qp": "14"}), FACTS)
    assert coarse.qp is not None
    assert fine.qp is not None
    assert coarse.qp.source == "read"
    assert coarse.qp.mean > 34 > 22 > fine.qp.mean
    assert "will help visibly" in coarse.findings[0].text
    assert "leave it alone" in fine.findings[0].text


def test_raw_video_wants_a_qp(tmp_path: Path) -> None:
    seen = inspect(make_clip(tmp_path / "a.nut", codec="rawvideo", options={}), FACTS)
    assert seen.qp is None
    assert "give carfilter --qp" in seen.findings[0].text


def test_an_earlier_encode_is_noticed(tmp_path: Path) -> None:
    from skimage import data

    photo = np.ascontiguousarray(data.astronaut()[:288, :384])

    def encode(path: Path, rgb: np.ndarray, qp: int) -> np.ndarray:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": str(qp)})
            stream.width, stream.height, stream.pix_fmt = 384, 288, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24")

    encode(tmp_path / "once.mp4", photo, 26)
    encode(tmp_path / "twice.mp4", encode(tmp_path / "coarse.mp4", photo, 36), 26)
    assert inspect(tmp_path / "once.mp4", FACTS).looks.coarser_than_coded is False
    assert inspect(tmp_path / "twice.mp4", FACTS).looks.coarser_than_coded is True


def test_only_a_sample_of_a_long_file_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from carfilter.media.survey import reading

    clip = make_clip(tmp_path / "a.ts", frames=200, options={"g": "10"})
    monkeypatch.setattr(reading, "_SAMPLED_PIXELS", 64 * 48 * 60)
    seen = inspect(clip, FACTS)
    assert not seen.looks.of_all
    assert 40 <= seen.looks.pictures <= 70
    assert seen.coding.pictures == 200
    assert seen.looks.damaged == 0
    times = [seconds for seconds, _ in seen.looks.change_over_time]
    assert times[0] < 1 < 7 < times[-1]
    assert inspect(clip, InspectOptions(tries=False, full=True)).looks.pictures == 200


def test_what_the_filter_refuses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n/etc/passwd\n")
    with pytest.raises(MediaError, match="names other files"):
        inspect(tmp_path / "list.m3u8", FACTS)
    with pytest.raises(MediaError, match="only a file"):
        inspect("rtsp://camera/stream", FACTS)
    os.mkfifo(tmp_path / "pipe.ts")
    with pytest.raises(MediaError, match=r"pipe\.ts: only a file"):
        inspect(tmp_path / "pipe.ts", FACTS)


def test_the_command_writes_nothing_unasked_and_all_that_is_asked(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", options={"qp": "38"})
    before, weights = clip.stat(), str(tiny_weights(tmp_path / "tiny.pt"))
    result = CliRunner().invoke(carfilter_inspect, [str(clip), "--weights", weights])
    assert result.exit_code == 0, result.output
    assert "will help visibly" in result.stdout
    assert "whole file" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "tiny.pt"}
    assert clip.stat().st_mtime_ns == before.st_mtime_ns
    result = CliRunner().invoke(carfilter_inspect, [str(clip), "--json", "-", "--weights", weights])
    told = json.loads(result.stdout)
    assert told["filter"]["model"] == "tiny"
    assert told["streams"][0]["codec"] == "h264"


def test_a_picture_too_large_to_look_at_is_restored_as_the_sentence_says(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "a.mp4", frames=1, size=(8320, 4352), options={"preset": "ultrafast"}
    )
    result = CliRunner().invoke(carfilter_inspect, [str(clip)])
    assert result.exit_code == 1
    remedy = re.search(r"if that is true and wanted, give carfilter (--max-pixels \d+)$",
                       result.stderr.rstrip())  # fmt: skip
    assert remedy, result.stderr
    given = [*remedy.group(1).split(), "--strength", "0", "-preset", "ultrafast"]
    target = tmp_path / "restored.mp4"
    subprocess.run([*COMMAND, clip, target, *given], check=True, capture_output=True, timeout=120)
    assert len(read_content(target).planes) == 1


def test_a_file_without_video_is_not_blamed_on_an_option_that_nobody_gave(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    result = CliRunner().invoke(carfilter_inspect, [str(tmp_path / "sound.wav")])
    assert result.exit_code == 1
    assert "sound.wav: holds no video stream to restore; check the file\n" in result.stderr


def test_an_address_is_refused_as_it_was_given() -> None:
    result = CliRunner().invoke(carfilter_inspect, ["http://127.0.0.1:1/x"])
    assert result.exit_code == 2
    assert "http://127.0.0.1:1/x: only a file can be inspected" in result.stderr


@pytest.mark.parametrize("size", [(64, 1), (1, 48), (1, 1)])
def test_a_picture_of_one_row_or_column_is_looked_at(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = make_clip(tmp_path / "a.mkv", size=size, codec="rawvideo", pix_fmt="gray")
    weights = str(tiny_weights(tmp_path / "tiny.pt"))
    result = CliRunner().invoke(carfilter_inspect, [str(clip), "--weights", weights])
    assert result.exit_code == 0, result.output
    assert "whole file" in result.stdout


def test_a_folder_gives_a_table_sorted_by_what_would_change(tmp_path: Path) -> None:
    folder, weights = tmp_path / "clips", str(tiny_weights(tmp_path / "tiny.pt"))
    folder.mkdir()
    for name, qp in (("fine", 12), ("coarse", 42), ("middle", 30)):
        make_clip(folder / f"{name}.mp4", options={"qp": str(qp)})
    (folder / "bad.mp4").write_bytes(b"no video")
    target = tmp_path / "table.csv"
    given = [str(folder), "--csv", str(target), "--weights", weights]
    result = CliRunner().invoke(carfilter_inspect, given)
    assert result.exit_code == 1
    assert "bad.mp4: not a video file" in result.stderr
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert [Path(row["file"]).stem for row in rows] == ["coarse", "middle", "fine"]
    assert float(rows[0]["change"]) > float(rows[1]["change"])


def test_a_page_loads_nothing_shows_four_pictures_and_is_small(tmp_path: Path) -> None:
    options = {"qp": "36", "g": "8", "sc_threshold": "0"}
    clip = make_clip(tmp_path / "a.mp4", frames=24, size=(320, 192), options=options)
    weights, target = str(tiny_weights(tmp_path / "tiny.pt")), tmp_path / "a.html"
    given = [str(clip), "--html", str(target), "--weights", weights]
    result = CliRunner().invoke(carfilter_inspect, given)
    assert result.exit_code == 0, result.output
    text = target.read_text()
    sources = re.findall(r"""\b(?:src|href)="([^"]*)"|url\(([^)]*)\)""", text)
    assert {re.split("[:#]", one or other)[0] for one, other in sources} == {"data", ""}
    assert "default-src 'none'" in text
    assert str(tmp_path) not in text
    assert text.count('class="stage compare') == 4
    assert all(f'data-layer="{key}"' in text for key in ("qp", "blocks", "still", "motion"))
    assert target.stat().st_size < 3_000_000


def test_a_page_of_strange_names_is_escaped(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "<b>&'.mp4", frames=3)
    given = [str(clip), "--html", str(tmp_path / "a.html")]
    given += ["--weights", str(tiny_weights(tmp_path / "tiny.pt"))]
    assert CliRunner().invoke(carfilter_inspect, given).exit_code == 0
    assert "<b>&" not in (tmp_path / "a.html").read_text()


def test_a_raw_stream_which_knows_no_times_is_counted_and_shown(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.h264", frames=20, size=(96, 64), options={"g": "5"})
    seen = inspect(clip, FACTS)
    assert seen.times.missing == 20
    assert seen.times.seconds == pytest.approx(0.8)
    given = [str(clip), "--html", str(tmp_path / "a.html")]
    given += ["--weights", str(tiny_weights(tmp_path / "tiny.pt"))]
    assert CliRunner().invoke(carfilter_inspect, given).exit_code == 0
    assert (tmp_path / "a.html").read_text().count('class="stage compare') == 4


def test_a_folder_that_cannot_be_read_is_named_and_fails(tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4")
    name, here = "deep" * 60, os.open(tmp_path, os.O_RDONLY)
    for _ in range(18):  # deeper than a path may be long
        os.mkdir(name, dir_fd=here)
        above, here = here, os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    given = [str(tmp_path), "--weights", str(tiny_weights(tmp_path / "tiny.pt"))]
    result = CliRunner().invoke(carfilter_inspect, given)
    assert result.exit_code == 1
    assert "deep: cannot be read (File name too long)" in result.stderr


@pytest.mark.parametrize(("codec", "has_qp"), [("libx264", True), ("ffv1", False)])
def test_the_example_of_the_manual_serves_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, has_qp: bool
) -> None:
    make_clip(tmp_path / "camera.mkv", codec=codec)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.S)
    known: dict[str, Any] = {}
    exec(example.replace("camera.mp4", "camera.mkv"), known)
    assert (known["seen"].qp is not None) == has_qp
