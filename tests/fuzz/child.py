"""Run carfilter on one mutant in a process of its own, and watch its time and memory.

The parent has loaded torch and PyAV and started no thread, so that a fork costs milliseconds where
a new interpreter would cost seconds. The child ends as the command does, through its interpreter.
"""

import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from carfilter.commands.restore import main

LIMIT_SECONDS = 120.0  # a run takes a second; the rest is for machines with other work
LIMIT_MEGABYTES = 2500
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    code: int  # exit code, or minus the signal
    stopped: str  # "hang" or "memory" where the parent ended it
    stdout: str
    stderr: str
    seconds: float


def run_command(arguments: Sequence[str], stdin: Path | None, folder: Path) -> Outcome:
    """Run `carfilter ARGUMENTS` to its end or its limits."""

    def work() -> None:
        source = os.open(stdin or os.devnull, os.O_RDONLY)
        os.dup2(source, 0)
        sys.argv = ["carfilter", *arguments]
        main()

    return _run(work, folder)


def play(target: Path, folder: Path) -> Outcome:
    """Decode the video of a finished file in a fresh process, as a player would."""

    def work() -> None:
        frames, last = 0, None
        with av.open(f"file:{target}") as container:
            video = container.streams.video[0]
            for packet in container.demux():  # of all streams: their headers must hold as well
                if packet.stream_index == video.index:
                    for frame in packet.decode():
                        assert last is None or frame.pts > last, "times do not increase"
                        frames, last = frames + 1, frame.pts
        print(frames, flush=True)
        os._exit(0)  # the interpreter's own end takes most of the time and is the player's matter

    return _run(work, folder)


def _run(work: Callable[[], None], folder: Path) -> Outcome:
    out, err = folder / ".stdout", folder / ".stderr"
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become_child(out, err)
        work()
        sys.exit(0)
    code, stopped = _watch(pid, started)
    seconds = time.monotonic() - started
    texts = [path.read_text(errors="replace") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    return Outcome(code, stopped, *texts, seconds)


def _become_child(out: Path, err: Path) -> None:
    os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _watch(pid: int, started: float) -> tuple[int, str]:
    """Wait for a child; end it past its limits. Returns its code and why it was ended."""
    stopped = ""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stopped
        if not stopped and time.monotonic() - started > LIMIT_SECONDS:
            stopped = "hang"
            os.kill(pid, signal.SIGUSR1)  # prints where its threads stand
            time.sleep(0.5)
            os.killpg(pid, signal.SIGKILL)
        elif not stopped and _megabytes(pid) > LIMIT_MEGABYTES:
            stopped = "memory"
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)


def _megabytes(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return int(fields[1]) * _PAGE / 1e6
