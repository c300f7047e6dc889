"""Frames out are the frames the decoder gives: containers x codecs x patterns of rate."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from carfilter import filter_video
from carfilter.media.options import TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import make_clip

CONTAINERS = {
    "mp4": ("libx264", "libx265", "mpeg4", "libsvtav1", "mjpeg"),
    "mov": ("libx264", "libx265", "prores_ks", "mjpeg"),
    "mkv": ("libx264", "libx265", "mpeg2video", "mpeg4", "libvpx-vp9", "mjpeg", "ffv1"),
    "webm": ("libvpx", "libvpx-vp9", "libsvtav1"),
    "ts": ("libx264", "libx265", "mpeg2video"),
    "avi": ("libx264", "mpeg4", "mjpeg"),
    "nut": ("libx264", "mpeg4", "rawvideo"),
    "flv": ("libx264", "flv"),
    "mpg": ("mpeg1video", "mpeg2video"),
    "asf": ("wmv2", "mpeg4"),
    "3gp": ("libx264", "mpeg4"),
    "h264": ("libx264",),
    "hevc": ("libx265",),
    "m2v": ("mpeg2video",),
    "y4m": ("wrapped_avframe",),
}
FRAMES = 13
NTSC = Fraction(30000, 1001)
UNEVEN = [0, 1, 4, 5, 9, 20, 21, 40, 41, 42, 43, 60, 100]
FINE = Fraction(1, 60000)
PATTERNS: dict[str, dict[str, Any]] = {
    "cfr": {},
    "b_frames": {"options": {"bf": "3", "g": "6"}},
    "29.97": {"rate": NTSC, "time_base": 1 / NTSC},
    "start_offset": {"pts": [250 + n for n in range(FRAMES)]},
    "vfr": {"time_base": Fraction(1, 100), "pts": UNEVEN},
    "b_frames_vfr": {"time_base": Fraction(1, 100), "pts": UNEVEN, "options": {"bf": "2"}},
    "jitter": {"time_base": FINE, "pts": [n * 2400 + (n * n) % 97 for n in range(FRAMES)]},
    "repeated": {"time_base": FINE, "pts": [2400 * (n // 2) + 8 * (n % 2) for n in range(FRAMES)]},
    "one_frame": {"frames": 1},
}
CONSTANT = ("cfr", "b_frames", "29.97", "start_offset", "one_frame")
TIMED = ("vfr", "b_frames_vfr", "jitter", "repeated")
NO_B_FRAMES = {
    "flv",
    "wmv2",
    "libvpx",
    "libvpx-vp9",
    "mjpeg",
    "prores_ks",
    "ffv1",
    "rawvideo",
    "wrapped_avframe",
}
CONSTANT_ONLY = {"mpeg1video", "mpeg2video", "wrapped_avframe"}  # encoders with a list of rates
UNTIMED = {"avi", "h264", "hevc", "m2v", "y4m", "mpg"}  # containers that count frames


def combinations() -> list[Any]:
    found = []
    for container, codecs in CONTAINERS.items():
        for codec in codecs:
            timed = codec not in CONSTANT_ONLY and container not in UNTIMED
            for pattern in (*CONSTANT, *(TIMED if timed else ())):
                if "b_frames" in pattern and codec in NO_B_FRAMES:
                    continue
                if (container, pattern) == ("asf", "repeated"):  # its muxer refuses them
                    continue
                # A quick third of them, in which each container, codec and pattern occurs.
                is_quick = (len(found) + len(found) // 9) % 3 == 0
                marks = () if is_quick else (pytest.mark.slow,)
                found.append(pytest.param(container, codec, pattern, marks=marks))
    return found


def clip(path: Path, codec: str, pattern: str) -> Path:
    given = {"frames": FRAMES, **PATTERNS[pattern]}
    pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    options = dict(given.pop("options", {}))
    if codec == "libx265":
        options = {"x265-params": f"log-level=none:bframes={options.get('bf', 0)}"}
    if codec == "libsvtav1":
        options = {"preset": "12"}
    return make_clip(path, codec=codec, size=(128, 96), pix_fmt=pix_fmt, options=options, **given)


_GEN_PTS = 0x1  # AVFMT_FLAG_GENPTS


def decoded(path: Path, *, made_up: bool = True) -> list[Fraction | None]:
    """The times of all frames that a decoder gives, in its order."""
    with av.open(str(path)) as container:
        if not made_up:  # PyAV asks for times to be made up, and H.264 in AVI comes a frame late
            container.flags &= ~_GEN_PTS
        return [
            None if frame.pts is None else frame.pts * Fraction(frame.time_base)
            for frame in container.decode(video=0)
        ]


def test_the_matrix_is_as_wide_as_promised() -> None:
    every = combinations()
    quick = [c.values for c in every if not c.marks]
    assert len(quick) >= 60
    for column in range(3):
        assert {q[column] for q in quick} == {c.values[column] for c in every}


@pytest.mark.parametrize(("container", "codec", "pattern"), combinations())
def test_frames_out_are_the_frames_the_decoder_gives(
    tmp_path: Path, container: str, codec: str, pattern: str
) -> None:
    source = clip(tmp_path / f"in.{container}", codec, pattern)
    options = FilterOptions(
        target=TargetOptions(video_codec="ffv1"), restore=RestoreOptions(strength=0)
    )
    run = filter_video(source, tmp_path / "out.nut", options=options)
    before, after = decoded(source, made_up=False), decoded(tmp_path / "out.nut")
    assert len(before) >= PATTERNS[pattern].get("frames", FRAMES) - (container == "mpg")
    assert run.frames == len(after) == len(before)
    assert all(a < b for a, b in itertools.pairwise(after))
    if None not in before and len(set(before)) == len(before) and before == sorted(before):
        assert after == before
        assert run.repaired == 0


TARGETS = {  # and the seconds of their tick
    "mp4": Fraction(0),
    "mov": Fraction(0),
    "mkv": Fraction(1, 1000),
    "webm": Fraction(1, 1000),
    "flv": Fraction(1, 1000),
    "ts": Fraction(1, 90000),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_holds_every_frame_at_its_time(
    tmp_path: Path, target: str, pattern: str
) -> None:
    source = clip(tmp_path / "in.nut", "libx264", pattern)
    options = FilterOptions(
        target=TargetOptions(video_codec="libvpx-vp9" if target == "webm" else None),
        restore=RestoreOptions(strength=0),
    )
    run = filter_video(source, tmp_path / f"out.{target}", options=options)
    before, after = decoded(source), decoded(tmp_path / f"out.{target}")
    assert run.frames == len(after) == len(before) == PATTERNS[pattern].get("frames", FRAMES)
    shift = after[0] - before[0]  # 1.4 s in MPEG-TS, and so that no time is negative in FLV
    for a, b in zip(after, before, strict=True):
        assert abs(a - b - shift) <= TARGETS[target]
    # Two times of one millisecond stay two frames, of one time in Matroska and FLV.
    assert all(
        a < b or (a == b and TARGETS[target] == Fraction(1, 1000))
        for a, b in itertools.pairwise(after)
    )


@pytest.mark.parametrize("pattern", ["cfr", "b_frames", "29.97"])
@pytest.mark.parametrize("container", ["mkv", "ts", "avi"])
@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg4"])
def test_encoders_with_clocks_of_their_own_keep_every_frame_and_the_rate(
    tmp_path: Path, codec: str, container: str, pattern: str
) -> None:
    source = clip(tmp_path / "in.ts", "libx264", pattern)
    options = FilterOptions(
        target=TargetOptions(video_codec=codec), restore=RestoreOptions(strength=0)
    )
    run = filter_video(source, tmp_path / f"out.{container}", options=options)
    before, after = decoded(source), decoded(tmp_path / f"out.{container}")
    assert run.frames == len(after) == len(before) == FRAMES
    if container == "avi" and pattern == "b_frames":
        return  # it holds the order of decoding alone
    lengths = [float(times[-1] - times[0]) for times in (before, after)]
    assert lengths[1] == pytest.approx(lengths[0], abs=1.1e-3)
