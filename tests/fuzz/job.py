"""Damage real videos and checkpoints and see that carfilter ends in order on every one.

    python -m tests.fuzz --runs 500 --seed 1

A run is in order when it ends in its time and memory with exit code 0 or 1, says so in a sentence
and never in a traceback, leaves a target exactly when it succeeds, one that a player decodes to
its end, and no other file. Prints what it found; exit code 1 if anything.
"""

import argparse
import gc
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz.child import Outcome, play, run_command
from fuzz.mutate import mutate
from fuzz.seeds import make_seeds

FINDINGS = ("crash", "hang", "memory", "traceback", "no sentence", "unreadable target", "leftovers")
_TARGETS = ("out.mp4", "out.mkv", "out.mkv", "out.ts", "out.nut", "out.mov")
_ERROR = re.compile(r"^carfilter: error: .+$")


@dataclass(frozen=True)
class Case:
    """One mutant and the command that is given it."""

    seed: str  # the sound file it was made of
    content: bytes
    arguments: tuple[str, ...]
    from_stdin: bool


def make_case(seeds: Path, run_seed: int, number: int) -> Case:
    """Return the mutant of that number, the same in every run with the same seeds."""
    rng = Random(f"{run_seed}/{number}")
    names = sorted(path.name for path in seeds.iterdir())
    videos = [n for n in names if not n.startswith("tiny")]
    name = rng.choice([*videos, "tiny.pt", "tiny.safetensors"])
    content = (seeds / name).read_bytes()
    others = [(seeds / rng.choice(videos)).read_bytes() for _ in range(3)]
    if rng.random() < 0.02:
        content = content[:16] + rng.randbytes(rng.randrange(20_000))  # a name and garbage
    else:
        content = mutate(content, rng, others)
    target = rng.choice(_TARGETS)
    options = ["-loglevel", "warning", "--max-pixels", "4000000", "-threads", "2"]
    if target.endswith(("mkv", "nut")) and rng.random() < 0.4:
        options += ["-c:v", "ffv1"]
    else:
        options += ["-preset", "ultrafast"]
    if name.startswith("tiny"):
        source, weights = str(seeds / rng.choice(videos)), f"mutant{Path(name).suffix}"
        return Case(name, content, (source, target, "--weights", weights, *options), False)
    options += ["--strength", "0"] if rng.random() < 0.4 else ["--weights", str(seeds / "tiny.pt")]
    for chance, extra in (
        (0.6, ["--drop-unsupported"]), (0.1, ["-xerror"]), (0.1, ["-ss", "0.1"]),
        (0.1, ["-t", "0.2"]), (0.05, ["--compare"]), (0.05, ["-an"]), (0.03, ["-map", "0:v"]),
    ):  # fmt: skip
        options += extra if rng.random() < chance else []
    from_stdin = rng.random() < 0.1
    source = "-" if from_stdin else f"mutant{Path(name).suffix}"
    return Case(name, content, (source, target, *options), from_stdin)


def judge(case: Case, folder: Path) -> tuple[str, Outcome]:
    """Run a case in an empty folder; return "" or the finding, and how the command ended."""
    mutant = folder / f"mutant{Path(case.seed).suffix}"
    mutant.write_bytes(case.content)
    target = folder / case.arguments[1]
    here = Path.cwd()
    os.chdir(folder)
    outcome = run_command(case.arguments, mutant if case.from_stdin else None, folder)
    os.chdir(here)
    return _finding(outcome, mutant, target, folder), outcome


def _finding(outcome: Outcome, mutant: Path, target: Path, folder: Path) -> str:
    lines = [line for line in outcome.stderr.splitlines() if line]
    errors = [line for line in lines if _ERROR.match(line)]
    if outcome.stopped:
        return outcome.stopped
    if outcome.code < 0 or "Fatal Python error" in outcome.stderr:
        return "crash"
    if "Traceback" in outcome.stderr:
        return "traceback"
    expected = 1 if outcome.code == 1 else 0
    told = all(line.startswith("carfilter: ") for line in lines) and not outcome.stdout
    if outcome.code not in (0, 1) or len(errors) != expected or not told:
        return "no sentence"
    allowed = {mutant.name} | ({target.name} if outcome.code == 0 else set())
    if {path.name for path in folder.iterdir()} != allowed:
        return "leftovers"
    if outcome.code == 0:
        played = play(target, folder)
        if played.code or played.stopped or int(played.stdout) < 1:
            return "unreadable target"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--keep", type=Path, help="folder for the mutants of the findings")
    given = parser.parse_args(arguments)
    # No context manager may stand around a fork: its end would run in the child as well.
    folder = Path(tempfile.mkdtemp(prefix="carfilter-fuzz-"))
    (folder / "seeds").mkdir()
    # In a process of its own, since encoders and torch start threads, which no fork survives.
    maker = multiprocessing.get_context("spawn").Process(
        target=make_seeds, args=(folder / "seeds",)
    )
    maker.start()
    maker.join()
    assert maker.exitcode == 0
    gc.freeze()  # else every child copies what the collector touches
    counts = _run_all(given, folder)
    shutil.rmtree(folder)
    return 1 if any(counts[finding] for finding in FINDINGS) else 0


def _run_all(given: argparse.Namespace, folder: Path) -> Counter[str]:
    started, counts, slowest = time.monotonic(), Counter[str](), (0.0, 0)
    for number in range(given.first, given.first + given.runs):
        case = make_case(folder / "seeds", given.seed, number)
        (folder / "run").mkdir()
        finding, outcome = judge(case, folder / "run")
        shutil.rmtree(folder / "run")
        counts[finding] += 1
        counts[f"exit {outcome.code}"] += 1
        slowest = max(slowest, (outcome.seconds, number))
        if finding:
            print(f"{given.seed}/{number} {case.seed}: {finding}: {' '.join(case.arguments)}")
            print(outcome.stderr[-3000:], outcome.stdout[-300:], flush=True)
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                kept = given.keep / f"{given.seed}-{number}-{case.seed}"
                kept.write_bytes(case.content)
    found = ", ".join(f"{counts[finding]} {finding}" for finding in FINDINGS)
    print(
        f"{given.runs} mutants with seed {given.seed}: {counts['exit 0']} ended with 0,"
        f" {counts['exit 1']} with 1; found {found};"
        f" {time.monotonic() - started:.0f} s, the slowest {slowest[0]:.1f} s (mutant {slowest[1]})"
    )
    return counts
