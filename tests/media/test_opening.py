"""A file, a pipe or an address is opened, and nothing that stands in it; headers are bounded."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from cameras import COMMAND
from carfilter import filter_video, restored_frames
from carfilter.errors import DeviceError, MediaError
from carfilter.media import opening
from carfilter.media.options import SourceOptions
from carfilter.media.source import open_source
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import make_clip, read_content, tiny_weights

EXACT = FilterOptions(restore=RestoreOptions(strength=0))
# What FFmpeg needs to be told to follow every kind of reference.
CARELESS = {
    "protocol_whitelist": "file,http,tcp,udp,rtp,crypto,data",
    "safe": "0",
    "enable_drefs": "1",
    "use_absolute_path": "1",
}


class Bait:
    """Another video in the folder and a port on loopback; both tell whether they were touched."""

    def __init__(self, folder: Path) -> None:
        self.file = make_clip(folder / "other.ts")
        self.calls = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/other.ts"
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        self.reset()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.calls += 1
                connection.close()

    def reset(self) -> None:
        self.calls = 0
        os.utime(self.file, (1, 2))  # read before it was written: the next read sets its time

    @property
    def touched(self) -> bool:
        return bool(self.calls) or self.file.stat().st_atime != 1

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Bait]:
    made = Bait(tmp_path)
    made.file.read_bytes()
    if not made.touched:
        pytest.skip("this file system does not note when a file is read")
    made.reset()
    yield made
    made.close()


def hls(address: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\n{address}\n#EXT-X-ENDLIST\n"


def concat(address: str) -> str:
    return f"ffconcat version 1.0\nfile '{address}'\n"


def dash(address: str) -> str:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
        ' mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:full:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="1000">'
        f"<BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    )


def sdp(_: str) -> str:
    return (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=camera\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )


def careless(path: Path) -> None:
    """Let FFmpeg follow what it finds, as the proof that there is something to follow."""
    with (
        contextlib.suppress(av.FFmpegError),
        av.open(f"file:{path}", options=CARELESS, timeout=5.0) as container,
    ):
        list(container.demux(video=0))


@pytest.mark.parametrize("name", ["list.m3u8", "list.txt", "list.mpd", "camera.sdp"])
@pytest.mark.parametrize("where", ["file", "network"])
def test_a_playlist_is_refused_and_nothing_it_names_is_opened(
    tmp_path: Path, bait: Bait, name: str, where: str
) -> None:
    make, kind = {
        "list.m3u8": (hls, "an HLS playlist"),
        "list.txt": (concat, "a concat list"),
        "list.mpd": (dash, "a DASH manifest"),
        "camera.sdp": (sdp, "an SDP description"),
    }[name]
    playlist = tmp_path / name
    playlist.write_text(make(bait.file.name if where == "file" else bait.url))
    if name in ("list.m3u8", "list.txt"):  # PyAV's wheels read no DASH; SDP calls nobody
        careless(playlist)
        assert bait.touched
    bait.reset()
    with pytest.raises(MediaError, match=f"{name}: is {kind}, which names other files"):
        filter_video(playlist, tmp_path / "out.mkv", options=EXACT)
    assert not bait.touched


@pytest.mark.parametrize("where", ["file", "network"])
@pytest.mark.parametrize("wanted", [None, "hls", "concat"])
def test_a_playlist_in_disguise_opens_nothing_either(
    tmp_path: Path, bait: Bait, where: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the check of the first bytes overlooks ends at FFmpeg's own list of protocols."""
    monkeypatch.chdir(tmp_path)
    address = bait.file.name if where == "file" else bait.url
    text = concat(address) if wanted != "hls" else hls(address)
    playlist = tmp_path / "movie.mp4"
    playlist.write_text(f"# a comment\n{text}")
    source = SourceOptions(format=wanted)
    with pytest.raises(MediaError):
        filter_video(
            playlist, tmp_path / "out.mkv", options=FilterOptions(source, restore=EXACT.restore)
        )
    assert not bait.touched


def test_a_playlist_on_stdin_opens_nothing(tmp_path: Path, bait: Bait) -> None:
    for text in (hls(bait.url), concat(str(bait.file))):
        run = subprocess.run(
            [*COMMAND, "-", str(tmp_path / "out.mkv"), "--strength", "0", "-loglevel", "error"],
            input=text.encode(), capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 1
        assert run.stderr.startswith(b"carfilter: error: stdin: not a video")
        assert run.stderr.count(b"\n") == 1
        assert not bait.touched


@pytest.mark.parametrize("pattern", ["img%d.jpg", "img*.jpg"])
def test_a_picture_named_like_a_pattern_is_one_picture(tmp_path: Path, pattern: str) -> None:
    one = make_clip(tmp_path / "one.mjpeg", codec="mjpeg", pix_fmt="yuvj420p", frames=1)
    for name in ("img1.jpg", "img2.jpg", "img3.jpg", pattern):
        (tmp_path / name).write_bytes(one.read_bytes())
    if "%" in pattern:
        with av.open(str(tmp_path / pattern)) as container:
            assert len(list(container.decode(video=0))) == 3  # FFmpeg reads the others
    assert filter_video(tmp_path / pattern, tmp_path / "out.mkv", options=EXACT).frames == 1


def test_samples_of_a_mov_that_lie_in_another_file_are_not_fetched(
    tmp_path: Path, bait: Bait
) -> None:
    source = tmp_path / "in.mov"
    source.write_bytes(_referring(make_clip(tmp_path / "own.mov").read_bytes(), bait.file))
    careless(source)
    assert bait.touched
    bait.reset()
    with contextlib.suppress(MediaError):
        filter_video(source, tmp_path / "out.mkv", options=EXACT)
    assert not bait.touched


def _referring(mov: bytes, other: Path) -> bytes:
    """Exchange the data reference of a MOV (its index at the end) by an alias to another file."""
    path = str(other).encode()
    path += b"\0" * (len(path) % 2)
    alias = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16) + struct.pack(">HH", 0, 0) + bytes(16)
    alias += struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    reference = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    at = mov.index(b"dref") - 4
    old = struct.unpack(">I", mov[at : at + 4])[0]
    made = bytearray(mov[:at] + reference + mov[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = made.rindex(name, 0, at) - 4
        size = struct.unpack(">I", made[place : place + 4])[0]
        made[place : place + 4] = struct.pack(">I", size + len(reference) - old)
    return bytes(made)


def test_what_the_network_sends_cannot_name_a_local_file(tmp_path: Path, bait: Bait) -> None:
    """A server on loopback that answers with a playlist of a file on this machine."""
    body = hls(f"file://{bait.file}").encode()
    head = b"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.recv(4096)
                connection.sendall(head + body)
                connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/camera.m3u8"
        with pytest.raises(MediaError):
            filter_video(url, tmp_path / "out.mkv", options=EXACT)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
    assert not bait.touched


def test_a_file_redirected_to_stdin_may_have_its_index_at_the_end(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", audio="aac")  # its index is at the end
    with source.open("rb") as file:
        command = [*COMMAND, "-", str(tmp_path / "out.mkv"), "--strength", "0"]
        subprocess.run(command, stdin=file, check=True, capture_output=True, timeout=60)
    assert len(read_content(tmp_path / "out.mkv").planes) == 12


@pytest.mark.parametrize("head", ["matroska", "zeros"])
def test_a_header_without_end_is_given_up(
    tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that keeps sending and never comes to a picture."""
    monkeypatch.setattr(opening, "_HEADER_TIMEOUT", 1.0)
    pipe = tmp_path / "endless.mkv"
    os.mkfifo(pipe)
    begin = make_clip(tmp_path / "a.mkv").read_bytes()[:60] if head == "matroska" else b""
    void = b"\xec\x5f\xf0" + bytes(0x1FF0) if head == "matroska" else bytes(8192)

    def send() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb", buffering=0) as out:
            out.write(begin)
            while True:
                out.write(void)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(MediaError, match=r"endless\.mkv: (no header|not a video)"):
            filter_video(pipe, tmp_path / "out.mkv", options=EXACT)
    finally:
        thread.join()


def catches(process: int, number: signal.Signals) -> bool:
    """Say whether a process has a handler for a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's list of signals")
@pytest.mark.parametrize("live", [[], ["--live"]], ids=["", "live"])
@pytest.mark.parametrize("what", ["no writer", "no data", "half a header", "stdin"])
def test_one_signal_ends_the_wait_for_a_silent_pipe(
    tmp_path: Path, what: str, live: list[str]
) -> None:
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    writers = [] if what == "no writer" else [os.open(pipe, os.O_RDWR)]
    if what == "half a header":
        os.write(writers[0], b"\x1a\x45\xdf\xa3")
    source = "-" if what == "stdin" else str(pipe)
    command = [*COMMAND, *live, source, str(tmp_path / "out.mkv"), "--strength", "0"]
    stdin = writers[0] if what == "stdin" else None
    with subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True) as run:
        while not catches(run.pid, signal.SIGTERM):
            time.sleep(0.1)
        time.sleep(1)
        since = time.monotonic()
        run.send_signal(signal.SIGINT)
        try:
            said = run.communicate(timeout=10)[1]
        finally:
            run.kill()
    for writer in writers:
        os.close(writer)
    assert time.monotonic() - since < 5
    assert run.returncode == 130
    assert said == "carfilter: interrupted before the first frame; nothing is written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.mkv"]


def test_pictures_larger_than_max_pixels_are_refused_before_they_take_memory(
    tmp_path: Path,
) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(128, 96))
    options = FilterOptions(SourceOptions(max_pixels=128 * 96 - 1), restore=EXACT.restore)
    with pytest.raises(
        MediaError, match=r"128x96, more than the 12287 pixels .*--max-pixels 12288$"
    ):
        filter_video(source, tmp_path / "out.mkv", options=options)
    for number, enough in enumerate((128 * 96, 2**31)):
        options = FilterOptions(SourceOptions(max_pixels=enough), restore=EXACT.restore)
        assert filter_video(source, tmp_path / f"out{number}.mkv", options=options).frames == 12


_DECLARED = """
import resource, sys
from carfilter.errors import MediaError
from carfilter.media.source import open_source
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_source(sys.argv[1]).close()
except MediaError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("container", ["mp4", "ts", "h264"])
def test_a_file_that_declares_enormous_pictures_costs_little(
    tmp_path: Path, container: str
) -> None:
    source = make_clip(
        tmp_path / f"in.{container}", size=(16384, 4096), frames=1, options={"preset": "ultrafast"}
    )
    run = subprocess.run(
        [sys.executable, "-c", _DECLARED, str(source)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    sentence, kilobytes = run.stdout.splitlines()
    assert "its pictures are 16384x4096, more than the 35651584 pixels allowed" in sentence
    assert int(kilobytes) < 16384 * 4096 * 1.5 / 1024  # not even one picture was allocated


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files")
def test_a_device_that_is_not_there_leaves_no_source_open(tmp_path: Path) -> None:
    source, weights = make_clip(tmp_path / "in.mp4"), tiny_weights(tmp_path / "tiny.pt")
    options = FilterOptions(restore=RestoreOptions("nowhere"))

    def is_open() -> bool:
        links = Path("/proc/self/fd").iterdir()
        return any(os.path.lexists(link) and link.readlink() == source for link in links)

    # The error is kept, and with it all that the failed call held.
    with pytest.raises(DeviceError, match="--device nowhere") as _kept:
        next(restored_frames(source, weights, options))
    assert not is_open()
    with pytest.raises(DeviceError, match="--device nowhere") as _too:
        filter_video(source, tmp_path / "out.mp4", weights, options)
    assert not is_open()


def test_an_mp4_that_ends_within_its_header_is_no_source_that_is_down(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "in.mp4", frames=50)
    data = path.read_bytes()
    said = []
    for kept in range(data.rindex(b"moov"), len(data), 97):
        path.write_bytes(data[:kept])
        try:
            open_source(path).close()
        except MediaError as refusal:
            said.append(str(refusal))
    assert any("its header is damaged or cut off" in one for one in said)
    assert not any("the source is up" in one for one in said)
