"""How much memory is moved for a frame on its way from the decoder to the encoder."""

import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from carfilter import FilterOptions, filter_video
from carfilter.media.libav.frame import bare_copy
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore import planes
from carfilter.restore.engine import RestoreOptions

PLAZA = Path(__file__).parents[2] / "samples" / "plaza.mp4"  # a fixed camera
SIZE = 384, 288
COPYING = {"copy", "astype", "tobytes", "flatten"}  # methods of an array that copy it


class Copies:
    """Counts whole arrays of bytes that are copied, by their shape, in all threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: Counter[tuple[int, ...]] = Counter()
        copyto = np.copyto

        def counted(target: Any, source: Any, *given: Any, **options: Any) -> None:
            if np.shape(source) == target.shape:
                self._count(target)
            copyto(target, source, *given, **options)

        monkeypatch.setattr(np, "copyto", counted)

    def _count(self, array: Any) -> None:
        if array.dtype == np.uint8 and array.size >= SIZE[0] * SIZE[1] // 4:  # chroma, or luma
            self.shapes[array.shape] += 1

    def _seen(self, _frame: object, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in COPYING:
            owner = getattr(called, "__self__", None)
            if isinstance(owner, np.ndarray):
                self._count(owner)

    def __enter__(self) -> "Copies":
        threading.setprofile(self._seen)
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_exception: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.skipif(planes.compiled() is None, reason="what numpy does beside it copies more")
@pytest.mark.parametrize("weights", ["fast", "best"])
def test_luma_is_copied_once_to_the_network_and_once_back_and_so_is_chroma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    with av.open(str(PLAZA)) as container:
        if bare_copy(next(container.decode(video=0))) is None:
            pytest.skip("FFmpeg copies no properties here, so make_writable() copies each frame")
    options = FilterOptions(
        SourceOptions(end_seconds=1.0),
        TargetOptions(encoder=(("preset", "ultrafast"),)),
        RestoreOptions("cpu", reuse=False),  # which copies a picture of which it computes a part
    )
    with Copies(monkeypatch) as copies:
        run = filter_video(PLAZA, tmp_path / "out.mp4", weights, options)
    moved = sum(np.prod(shape) * count for shape, count in copies.shapes.items())
    assert copies.shapes[SIZE[::-1]] == 2 * run.frames
    assert moved == 3 * SIZE[0] * SIZE[1] * run.frames
