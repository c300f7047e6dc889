"""Folders of real clips, runs of the real command over them, and hashes of what a player sees."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from clips import make_clip, read_content

# Codecs give other bytes with another number of threads; these tests compare bytes.
FIXED = ("--strength", "0", "-threads", "1", "-preset", "ultrafast")
_LIFE_IS_HARD = """
import multiprocessing, os, signal, sys, time

def hook(event, arguments):
    # Reading the file for its hash is where a worker meets it.
    if event != "open" or multiprocessing.parent_process() is None:
        return
    name = os.path.basename(str(arguments[0]))
    if name.startswith("abort"):
        os.abort()
    if name.startswith("hang"):
        time.sleep(3600)
    if name.startswith("oom"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


def make_hard_life(folder: Path) -> dict[str, str]:
    """Return an environment in which workers abort, hang or are killed over files so named."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_LIFE_IS_HARD)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def batch(*arguments: object, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start carfilter-batch in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "carfilter.commands.batch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        start_new_session=True,
    )


def run_batch(
    *arguments: object, environment: dict[str, str] | None = None, seconds: float = 120
) -> tuple[int, str, str]:
    """Run carfilter-batch to its end; returns exit code, stdout, stderr."""
    process = batch(*arguments, environment=environment)
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output, errors


def make_archive(folder: Path, count: int, frames: int = 6) -> Path:
    """Make a tree of small clips that all differ."""
    for number in range(count):
        here = folder / f"camera{number % 3}"
        here.mkdir(parents=True, exist_ok=True)
        make_clip(here / f"clip{number:03d}.mp4", frames=frames + number % 5)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of the frames and times of every result."""
    return {
        str(path.relative_to(folder)): hash_of(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".mp4", ".mkv", ".ts", ".mov")
    }


def hash_of(path: Path) -> str:
    content, digest = read_content(path), hashlib.sha256()
    for planes, seconds in zip(content.planes, content.seconds, strict=True):
        digest.update(str(seconds).encode())
        for plane in planes:
            digest.update(plane.tobytes())
    return digest.hexdigest()


def leftovers(folder: Path) -> list[str]:
    """Return everything that looks temporary."""
    kept = {".carfilter-batch.lock"}
    return [str(p) for p in folder.rglob("*") if p.name.startswith(".") and p.name not in kept] + [
        str(p) for p in folder.rglob("*-journal")
    ]


def processes_of_group(group: int) -> list[int]:
    """Return the living processes of a group, those that wait to be reaped left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
