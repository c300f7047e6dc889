"""-hwaccel cuda on a machine without a card: a driver of ours answers FFmpeg (card/driver.c)."""

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from cameras import COMMAND, carfilter, feed, free_port, stop, wait_for
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import _source_options
from clips import equal_planes, make_clip, read_content, tiny_weights

_SOURCE = Path(__file__).parents[1] / "card" / "driver.c"

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    for name, defined in (("libcuda.so.1", ["-DCUDA"]), ("libnvcuvid.so.1", [])):
        build = ["gcc", "-shared", "-fPIC", *defined, str(_SOURCE), "-o", str(folder / name)]
        subprocess.run(build, check=True)
    return folder


_READER = """
import logging, pickle, sys
from carfilter.media.frames import copy_luma
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, open_source
import numpy as np

logging.basicConfig(level=logging.INFO, format="%(message)s")
source = open_source(sys.argv[1], SourceOptions(**eval(sys.argv[2])))
for event in source.events():
    if isinstance(event, Decoded):
        frame = event.frame
        planes = [copy_luma(frame)]
        for plane in frame.planes[1:]:
            rows = np.frombuffer(plane, planes[0].dtype).reshape(plane.height, -1)
            planes.append(rows[:, : plane.width].copy())
        shown = frame.format.name, frame.pts * frame.time_base, frame.rotation, event.qp, planes
        sys.stdout.buffer.write(pickle.dumps(shown))
source.close()
"""


class Read:
    """What came of reading a source with -hwaccel cuda over that driver."""

    def __init__(self, driver: Path, source: Path, card: str = "", **options: object) -> None:
        log = source.with_name("card.log")
        log.unlink(missing_ok=True)
        given = [sys.executable, "-c", _READER, str(source), repr({"hwaccel": "cuda", **options})]
        run = subprocess.run(given, env=environment(driver, log, card), capture_output=True)
        self.said, self.card = run.stderr.decode(), log.read_text().splitlines()
        self.formats, self.seconds, self.rotations = [], [], []
        self.qps, self.planes = [], []
        stream = io.BytesIO(run.stdout)
        while stream.tell() < len(run.stdout):
            kept = self.formats, self.seconds, self.rotations, self.qps, self.planes
            for values, value in zip(kept, pickle.load(stream), strict=True):
                values.append(value)

    @property
    def surfaces(self) -> list[int]:
        return [int(line.split()[1]) for line in self.card if line.startswith("surfaces")]


def environment(driver: Path, log: Path, card: str = "") -> dict[str, str]:
    set_ = dict([card.split("=")] if card else [])
    return {**os.environ, "LD_LIBRARY_PATH": str(driver), "CARD_LOG": str(log), **set_}


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "bits"),
    [("libx264", "yuv420p", 0), ("libx264", "yuvj420p", 0), ("libx265", "yuv420p10le", 2)],
)
def test_every_frame_comes_from_the_card_in_the_format_of_the_file(
    driver: Path, tmp_path: Path, codec: str, pix_fmt: str, bits: int
) -> None:
    options = {"bf": "2"} if codec == "libx264" else {"x265-params": "log-level=none"}
    shape = {"size": (320, 240), "codec": codec, "pix_fmt": pix_fmt}
    source = make_clip(tmp_path / "in.mp4", **shape, options=options)
    read = Read(driver, source, threads=64, qp_maps=True)
    assert "the device decodes" in read.said
    assert 0 < max(read.surfaces) <= 32  # above that NVDEC may refuse; a thread takes one
    before = read_content(source)
    assert read.seconds == before.seconds
    assert set(read.formats) == {pix_fmt}
    # The first frame is the software decoder's, which alone knows all of the container.
    assert equal_planes(read.planes[0], before.planes[0])
    for luma, *chroma in read.planes[1:]:
        assert 100 << bits < luma[0, 0] < 116 << bits
        assert (luma == luma[0, 0]).all()
        assert all((plane >> bits == 128).all() for plane in chroma)
    # Measured or by headers, for no card exports it: not known of some frames alone.
    assert all(qp is not None and (qp == qp[0, 0]).all() for qp in read.qps)


@pytest.mark.parametrize("container", ["mp4", "h264"])
def test_what_the_card_decodes_has_the_qp_of_its_slices(
    driver: Path, tmp_path: Path, container: str
) -> None:
    """Of H.264 it is on the scale of what software exports, here alike in all blocks."""
    params = "aq-mode=0:mbtree=0:crf=24:bframes=3:b-adapt=0:b-pyramid=none"
    shape, options = {"size": (320, 240), "frames": 20}, {"x264-params": params}
    source = make_clip(tmp_path / f"in.{container}", **shape, options=options)
    on_card = Read(driver, source, qp_maps=True, measures_qp=False)
    assert "the device decodes" in on_card.said
    in_software = Read(driver, source, "CARD_OLD=1", qp_maps=True)
    pairs = zip(on_card.qps, in_software.qps, strict=True)
    told = [(int(card[0, 0]), int(own[0, 0])) for card, own in pairs]
    assert len(told) == 20
    assert len({own for _, own in told}) > 3
    assert told[0][0] == told[0][1]
    assert len({card - own for card, own in told[1:]}) == 1


def test_rotation_that_only_the_container_tells_is_kept(driver: Path, tmp_path: Path) -> None:
    made, source = make_clip(tmp_path / "made.mp4", size=(320, 240)), tmp_path / "in.mkv"
    with av.open(str(made)) as given, av.open(str(source), "w") as turned:
        stream = turned.add_stream_from_template(given.streams.video[0])
        stream.set_display_rotation(90)
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                turned.mux(packet)
    read = Read(driver, source)
    assert "the device decodes" in read.said
    assert read.rotations[0] == 90  # with which the target is opened


def test_a_video_that_the_card_refuses_is_decoded_in_software_from_its_first_frame(
    driver: Path, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(320, 240), options={"bf": "2"})
    read = Read(driver, source, "CARD_OLD=1", qp_maps=True)
    refused = "does not decode h264 (it refuses this video); decoding in software"
    assert read.said.count(refused) == 1
    before = read_content(source)
    assert read.seconds == before.seconds
    assert equal_planes(read.planes, before.planes)
    assert any((qp != qp[0, 0]).any() for qp in read.qps)  # exported, block by block


def test_another_card_than_the_first_is_taken_where_it_restores(
    driver: Path, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(320, 240))
    read = Read(driver, source, hwaccel_device=3)
    assert {line for line in read.card if line.startswith("device")} == {"device 3"}
    assert "primary context of 3" in read.card  # torch's own, not a second one beside it
    for device, number in (("cuda:3", 3), ("cuda", None), ("auto", None), ("cpu", None)):
        options = FilterOptions(restore=RestoreOptions(device))
        assert _source_options(options, None).hwaccel_device == number


def test_a_context_that_torch_made_before_is_no_reason_to_decode_in_software(
    driver: Path, tmp_path: Path
) -> None:
    read = Read(driver, make_clip(tmp_path / "in.mp4", size=(320, 240)), "CARD_ACTIVE=1")
    assert "the device decodes h264" in read.said
    assert "own context of 0" in read.card


def test_a_card_without_room_leaves_decoding_to_software(driver: Path, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(320, 240))
    read = Read(driver, source, "CARD_FULL=1")
    assert read.said.count("cannot be used here") == 1
    assert equal_planes(read.planes, read_content(source).planes)


def test_a_card_that_stops_decoding_ends_the_run_and_says_so(driver: Path, tmp_path: Path) -> None:
    read = Read(driver, make_clip(tmp_path / "in.mp4", size=(320, 240)), "CARD_LASTS=8")
    assert "DeviceError: -hwaccel cuda: the device has stopped decoding" in read.said


@pytest.mark.ffmpeg
def test_a_recorder_whose_card_stops_decoding_connects_again_and_decodes_in_software(
    driver: Path, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=50, size=(320, 240), options={"g": "10"})
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    given = [
        "--live",
        url,
        target,
        "-hwaccel",
        "cuda",
        "--weights",
        tiny_weights(tmp_path / "t.pt"),
    ]
    on_card = environment(driver, tmp_path / "card.log", "CARD_LASTS=8")
    with feed(clip, url, "mpegts"), carfilter(*given, env=on_card) as run:
        wait_for(run, b"the device has stopped decoding")
        wait_for(run, b"back after")
        time.sleep(2)
        code, said = stop(run, signal.SIGTERM)
    assert code == 143, said
    assert len(read_content(tmp_path / "out.partial.mkv").planes) > 30


def test_a_pipe_whose_card_stops_decoding_fails_and_keeps_what_came(
    driver: Path, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "in.ts", frames=50, size=(320, 240))
    run = subprocess.run(
        [*COMMAND, "--live", "-", str(tmp_path / "out.mkv"), "-hwaccel", "cuda",
         "--weights", str(tiny_weights(tmp_path / "t.pt"))],
        input=source.read_bytes(), capture_output=True,
        env=environment(driver, tmp_path / "card.log", "CARD_LASTS=30"),
    )  # fmt: skip
    assert run.returncode == 1
    assert b"the device has stopped decoding" in run.stderr
    assert not (tmp_path / "out.mkv").exists()
    assert read_content(tmp_path / "out.partial.mkv").planes
