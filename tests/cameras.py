"""Live sources on loopback for the tests: an RTSP camera, and feeds of the ffmpeg program."""

import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERVER = Path(__file__).with_name("rtsp_camera.py")
COMMAND = [sys.executable, "-c", "from carfilter.commands.restore import main; main()"]
Process = subprocess.Popen[bytes]


def free_port() -> int:
    """Return a port of loopback that nobody listens on, for TCP and UDP."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        port: int = tcp.getsockname()[1]
    return port


@contextlib.contextmanager
def ended(process: Process) -> Iterator[Process]:
    """Kill a process at the end, also where it is stopped or hangs."""
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def rtsp_camera(port: int) -> Iterator[Process]:
    """Run a camera at rtsp://127.0.0.1:PORT/camera: 160x120, 25 frames a second, A-law audio."""
    command = ["/usr/bin/python3", str(SERVER), str(port)]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 20)[0], "the camera does not start"
        assert process.stdout.readline() == b"ready\n"
        yield process


@contextlib.contextmanager
def feed(clip: Path, url: str, form: str, *options: str, loops: int = -1) -> Iterator[Process]:
    """Send a clip to a URL at its own pace, over and over unless `loops` says how often again."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-re", "-stream_loop", str(loops)]
    command += ["-i", str(clip), "-map", "0", "-c", "copy", "-f", form, *options, url]
    with ended(subprocess.Popen(command)) as process:
        yield process


@contextlib.contextmanager
def carfilter(*arguments: object, env: dict[str, str] | None = None) -> Iterator[Process]:
    """Run the command; its stderr is a pipe."""
    command = [*COMMAND, *map(str, arguments)]
    # Unbuffered: select() does not see lines that lie in a buffer already.
    with ended(subprocess.Popen(command, 0, stderr=subprocess.PIPE, env=env)) as process:
        yield process


def wait_for(process: Process, words: bytes, seconds: float = 180) -> bytes:
    """Read a process's stderr until the words come; return what was read."""
    assert process.stderr is not None
    text = b""
    while words not in text:
        ready = select.select([process.stderr], [], [], seconds)[0]
        line = process.stderr.readline() if ready else b""
        assert line, f"{words!r} did not come after {text!r}"
        text += line
    return text


def stop(process: Process, number: signal.Signals, seconds: float = 30) -> tuple[int, str]:
    """Send a signal; return the exit code and the rest of stderr."""
    process.send_signal(number)
    text = process.communicate(timeout=seconds)[1]
    return process.returncode, text.decode()
