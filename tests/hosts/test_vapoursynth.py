"""The function for VapourSynth gives the filter's own frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carfilter
from carfilter.errors import ImpossibleValueError, MediaError
from carfilter.media.frames import copy_luma
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, open_source
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions

vs = pytest.importorskip("vapoursynth", reason="needs vapoursynth, which needs Python 3.12")
PLAZA = Path(__file__).parents[2] / "samples" / "plaza.mp4"
FRAMES = 20
PAST = RestoreOptions(lookahead=0)


@pytest.fixture(scope="module")
def decoded() -> list[Decoded]:
    source = open_source(PLAZA, SourceOptions(qp_maps=True, end_seconds=FRAMES / 10))
    frames = [event for event in source.events() if isinstance(event, Decoded)]
    source.close()
    assert len(frames) == FRAMES
    return frames


@pytest.fixture
def clip(decoded: list[Decoded]) -> Any:
    """The sample clip as a source filter gives it, and the QP of its macroblocks with it."""
    vs.core.num_threads = 2

    def filled(n: int, f: Any) -> Any:
        frame = f.copy()
        for plane, source in enumerate(decoded[n].frame.planes):
            rows = np.frombuffer(source, np.uint8).reshape(-1, source.line_size)
            np.copyto(np.asarray(frame[plane]), rows[: source.height, : source.width])
        frame.props["_PictType"] = "?IPB"[decoded[n].frame_type]
        qp = decoded[n].qp
        assert qp is not None
        frame.props["QP"] = qp.ravel().tolist()
        return frame

    size = {"width": decoded[0].frame.width, "height": decoded[0].frame.height}
    blank = vs.core.std.BlankClip(**size, format=vs.YUV420P8, length=FRAMES)
    return blank.std.ModifyFrame(blank, filled)


@pytest.fixture(scope="module")
def wanted() -> dict[str, list[Any]]:
    def filtered(name: str, restore: RestoreOptions) -> list[Any]:
        reading = SourceOptions(end_seconds=FRAMES / 10)
        options = FilterOptions(source=reading, restore=restore)
        return [copy_luma(frame) for frame in carfilter.restored_frames(PLAZA, name, options)]

    return {"fast": filtered("fast", PAST), "best": filtered("best", RestoreOptions())}


def luma(clip: Any, n: int) -> Any:
    with clip.get_frame(n) as frame:
        return np.array(frame[0])


def test_the_source_tells_what_the_filter_knows(clip: Any, wanted: dict[str, list[Any]]) -> None:
    restored = carfilter.vapoursynth.restore(clip, source=PLAZA)
    for n, frame in enumerate(restored.frames(prefetch=4)):
        assert np.array_equal(frame[0], wanted["best"][n]), n
        with clip.get_frame(n) as before:
            assert np.array_equal(frame[1], before[1])
    assert n == FRAMES - 1


def test_a_property_tells_the_qp(clip: Any, wanted: dict[str, list[Any]]) -> None:
    restored = carfilter.vapoursynth.restore(clip, "fast", qp="QP", options=PAST)
    alike = [np.array_equal(luma(restored, n), wanted["fast"][n]) for n in range(FRAMES)]
    assert all(alike)
    fine = carfilter.vapoursynth.restore(clip, "fast", qp=12, options=PAST)
    assert np.array_equal(luma(fine, 3), luma(clip, 3))  # too good to touch


def test_frames_come_in_any_order(clip: Any, wanted: dict[str, list[Any]]) -> None:
    restored = carfilter.vapoursynth.restore(clip, "fast", source=PLAZA, options=PAST)
    for n in (7, 3, 19, 0):
        assert np.array_equal(luma(restored, n), wanted["fast"][n]), n


@pytest.mark.parametrize("qp", [np.int64(12), np.int16(12), 12.0, np.float32(12)])
def test_a_whole_number_of_any_type_is_a_qp(clip: Any, qp: Any) -> None:
    fine = carfilter.vapoursynth.restore(clip, "fast", qp=qp, options=PAST)
    assert np.array_equal(luma(fine, 3), luma(clip, 3))  # too good to touch


@pytest.mark.parametrize("qp", [True, 12.5, float("nan"), float("inf"), [12], 52, b"QP"])
def test_what_is_no_qp_is_refused(clip: Any, qp: Any) -> None:
    with pytest.raises(ImpossibleValueError, match="qp has to"):
        carfilter.vapoursynth.restore(clip, "fast", qp=qp)


@pytest.mark.parametrize("held", ["coarse", float("nan")])
def test_a_property_that_holds_no_qp_is_named(clip: Any, held: Any) -> None:
    told = clip.std.SetFrameProps(QP=held)
    with pytest.raises(vs.Error, match=f"property QP holds .*{held}.*, which is no QP"):
        luma(carfilter.vapoursynth.restore(told, "fast", qp="QP", options=PAST), 0)


def test_a_source_of_another_size_is_named(clip: Any) -> None:
    smaller = carfilter.vapoursynth.restore(clip.std.CropAbs(64, 48), "fast", source=PLAZA)
    with pytest.raises(vs.Error, match=r"plaza.mp4: its pictures are 384x288 and the clip's 64"):
        luma(smaller, 0)


def test_what_cannot_be_is_said(clip: Any) -> None:
    restore = carfilter.vapoursynth.restore
    longer = restore(clip * 5, "fast", source=PLAZA, options=PAST)
    for n in (99, 99, 98):  # each time, not at the first alone
        with pytest.raises(vs.Error, match="ends before the clip"):
            luma(longer, n)
    with pytest.raises(MediaError, match="convert it with resize"):
        restore(clip.resize.Point(format=vs.RGB24, matrix_in=1))
    vs.core.num_threads = 1
    with pytest.raises(MediaError, match="num_threads = 2"):
        restore(clip)
