"""A GPU that fails on the way: what was done is kept, a recorder goes on, an archive stops."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from archives import make_archive, run_batch
from card.fake import Card, fake_card
from carfilter import filter_video
from carfilter.errors import DeviceError
from carfilter.media.options import TargetOptions
from carfilter.restore import compiled
from carfilter.restore.network import build_network
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import save_weights
from carfilter.run.options import FilterOptions
from clips import equal_planes, make_clip, read_content, tiny_weights


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with fake_card(monkeypatch) as one:
        yield one


class Lost:
    """The card falls off the bus after so many convolutions."""

    def __init__(self, convolutions: int) -> None:
        self.left = convolutions

    def __call__(self, func: Any, _: tuple[Any, ...]) -> None:
        self.left -= func is torch.conv2d
        if self.left < 0:
            raise torch.AcceleratorError("CUDA error: device is lost\nCUDA kernel errors might")


def options(*, live: bool = False) -> FilterOptions:
    restore = RestoreOptions("cuda", "fp32", batch_size=1, compile_after=float("inf"))
    return FilterOptions(target=TargetOptions(video_codec="ffv1"), restore=restore, live=live)


def test_what_was_done_before_is_kept_and_named(tmp_path: Path, card: Card) -> None:
    source, target = make_clip(tmp_path / "in.mp4", frames=60), tmp_path / "out.mkv"
    card.fail = Lost(4 + 45 * 3)
    kept = tmp_path / "out.partial.mkv"
    with pytest.raises(DeviceError, match=r"cuda has failed \(CUDA error: device is lost\).*lies"):
        filter_video(source, target, tiny_weights(tmp_path / "tiny.pt"), options())
    assert not target.exists()
    before, after = read_content(source), read_content(kept)
    assert 0 < len(after.planes) < 60
    assert after.seconds == before.seconds[: len(after.seconds)]


def test_a_recorder_goes_on_with_pictures_as_they_come(
    tmp_path: Path, card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    source, fifo, target = tmp_path / "in.mkv", tmp_path / "camera", tmp_path / "out.mkv"
    make_clip(source, frames=40)
    os.mkfifo(fifo)
    feed = threading.Thread(target=lambda: fifo.write_bytes(source.read_bytes()))
    feed.start()
    card.fail = Lost(4)  # one to try it, three to warm up
    run = filter_video(fifo, target, tiny_weights(tmp_path / "tiny.pt"), options(live=True))
    feed.join()
    assert "the rest passes unrestored" in caplog.text
    before, after = read_content(source), read_content(target)
    assert run.frames == len(after.planes) == 40
    assert run.passed == 40
    assert equal_planes(after.planes, before.planes)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("name", ["fast", "best"])
def test_who_interrupts_does_not_wait_for_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, weights = make_clip(tmp_path / "in.mp4", frames=80), tmp_path / "tiny.pt"
    save_weights(weights, build_network(name, {"channels": 16, "body": 1}))
    stop, may_end, began = threading.Event(), threading.Event(), list[float]()

    def compile_slowly(network: Any, **_: object) -> Any:
        began.append(time.monotonic())
        stop.set()  # as on Ctrl-C
        may_end.wait(60)
        return network

    monkeypatch.setattr(torch, "compile", compile_slowly)
    monkeypatch.setattr(compiled, "_PROCESS", compiled.Ledger())
    restore = RestoreOptions("cuda", "fp32", batch_size=1, compile_after=0.05)
    run = filter_video(source, tmp_path / "out.mp4", weights, FilterOptions(restore=restore),
                       stop=stop)  # fmt: skip
    took = time.monotonic() - began[0]
    may_end.set()
    assert run.interrupted
    assert not (tmp_path / "out.mp4").exists()
    assert took < 10


_NO_CARD = """
import multiprocessing, os, sys

def hook(event, arguments):
    # Where a worker first meets a file, it meets the error that its GPU would give it later.
    if event == "open" and multiprocessing.parent_process() is not None:
        name = os.path.basename(str(arguments[0]))
        if name.startswith("clip") and name.endswith(".mp4"):
            from carfilter.errors import DeviceError
            raise DeviceError("cuda has failed (CUDA error: device is lost)")

sys.addaudithook(hook)
"""


def test_an_archive_stops_where_its_gpu_fails_and_goes_on_another_time(tmp_path: Path) -> None:
    archive, out = make_archive(tmp_path / "in", 5), tmp_path / "out"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_NO_CARD)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    }
    given = (archive, out, "--strength", "0", "-threads", "1", "--jobs", 1)
    code, output, errors = run_batch(*given, environment=environment)
    assert code == 1
    said = output + errors
    assert "it failed 3 times in a row" in said
    assert "device is lost" in said
    code, output, errors = run_batch(*given)
    assert code == 0, errors
    assert len(list(out.rglob("*.mp4"))) == 5
