"""What packets do not tell at once: pictures in two of them, without times, or built up slowly."""

from pathlib import Path

import av
import pytest

from carfilter.inspection.inspect import InspectOptions, inspect
from carfilter.inspection.inspection import Inspection
from carfilter.media.survey.reading import Around, read_runs
from clips import make_clip
from hevc_headers import Writer

QUICK = InspectOptions(hashes=False, tries=False)


def looked(path: Path) -> Inspection:
    return inspect(path, QUICK)


def field_pictures(path: Path, frames: int = 20) -> Path:
    """Write a raw H.264 stream of gray fields: those above at QP 20, those below at QP 40."""
    side = 8  # macroblocks
    sps = Writer()
    sps.u(24, 77 << 16 | 30)
    sps.ue(0, 0, 0, 4, 1)
    sps.u(1, 0)
    sps.ue(side - 1, side // 2 - 1)
    sps.u(4, 0b0010)  # fields and frames, no cropping
    sps.u(1, 0)
    pps = Writer()
    pps.ue(0, 0)
    pps.u(2, 0)
    pps.ue(0, 0, 0)
    pps.u(3, 0)
    pps.se(0, 0, 0)
    pps.u(3, 0b100)
    stream = sps.unit(0x67) + pps.unit(0x68)
    for number in range(frames):
        since = number % 10
        for below in (0, 1):
            is_idr = not since and not below
            w = Writer()
            w.ue(0, 7, 0)
            w.u(4, since)
            w.u(2, 2 | below)
            if is_idr:
                w.ue(number % 2)
            w.u(8, 2 * since + below)
            w.u(2 if is_idr else 1, 0)
            w.se(14 if below else -6)
            w.ue(1)
            for _ in range(side * side // 2):
                w.ue(3, 0)
                w.se(0)
                w.u(1, 1)
            stream += w.unit(0x65 if is_idr else 0x61)
    path.write_bytes(stream)
    return path


def test_fields_that_have_packets_of_their_own_count_as_one_picture(tmp_path: Path) -> None:
    raw, source = field_pictures(tmp_path / "in.264"), tmp_path / "in.ts"
    with av.open(str(raw), options={"framerate": "50"}) as coded, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(coded.streams.video[0])
        for number, packet in enumerate(p for p in coded.demux(video=0) if p.size):
            packet.pts = packet.dts = number * 1800
            packet.time_base, packet.stream = stream.time_base, stream
            out.mux(packet)
    assert stream.time_base.denominator == 90000
    seen = looked(source)
    assert seen.coding.pictures == 20
    assert seen.coding.types == {"I": 20}
    assert seen.times.rate == pytest.approx(25)
    assert seen.qp is not None
    assert seen.qp.mean == pytest.approx(30)
    assert not [finding.text for finding in seen.findings if "missing" in finding.text]
    shown = [*read_runs(source, [Around(5, 7), Around(10, 10)])]
    assert [round(one.seconds * 25) for one in shown] == [
        round(shown[0].seconds * 25) + n for n in (0, 1, 2, 5)
    ]


def test_times_that_mpeg_ps_leaves_out_lie_between_the_others(tmp_path: Path) -> None:
    given = {"crf": "45", "g": "25", "keyint_min": "25", "bf": "2", "sc_threshold": "0"}
    flat = {"preset": "ultrafast", "pix_fmt": "yuv420p", "size": (64, 48)}
    options = {**given, "preset": str(flat.pop("preset"))}
    source = make_clip(tmp_path / "in.mpg", frames=250, options=options, **flat)
    with av.open(str(source)) as container:
        untimed = sum(p.size > 0 and p.pts is None for p in container.demux(video=0))
    assert untimed > 20
    seen = looked(source)
    assert not seen.times.is_variable
    assert seen.times.seconds == pytest.approx(10, abs=0.1)
    assert seen.coding.key_seconds == pytest.approx((1, 1, 1), abs=0.13)


def test_key_pictures_are_counted_as_they_are_shown(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=8:min-keyint=8:scenecut=0:open-gop=1:bframes=3:b-adapt=0"}
    seen = looked(make_clip(tmp_path / "in.mp4", frames=40, options={**options, "bf": "3"}))
    assert seen.coding.key_pictures == (8, 8, 8)


def test_a_picture_that_is_built_up_from_the_middle_on_is_not_damaged(tmp_path: Path) -> None:
    """Periodic intra refresh has no key frame but the first."""
    params = "intra-refresh=1:keyint=12:scenecut=0"
    options = {"preset": "ultrafast", "crf": "45", "x264-params": params}
    size = (3840, 2160)
    source = make_clip(tmp_path / "in.ts", frames=48, size=size, options=options)
    seen = looked(source)
    assert not seen.looks.of_all
    assert seen.looks.pictures > 0
    assert seen.looks.damaged == 0


def test_parameter_sets_that_change_in_mid_stream_are_taken(tmp_path: Path) -> None:
    """As an FLV is that a recorder went on with after it was cut off."""
    parts, whole = [], tmp_path / "in.flv"
    for qp, other in ((20, "sao=1"), (40, "sao=0:temporal-mvp=0:ref=4:weightp=0:sign-hide=0")):
        params = f"log-level=none:ipratio=1:bframes=0:qp={qp}:{other}"
        clip = make_clip(
            tmp_path / f"{qp}.mp4", codec="libx265", size=(128, 96), options={"x265-params": params}
        )
        part = tmp_path / f"{qp}.flv"
        with av.open(str(clip)) as coded, av.open(str(part), "w") as out:
            stream = out.add_stream_from_template(coded.streams.video[0])
            for packet in coded.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        parts.append(part.read_bytes())
    whole.write_bytes(parts[0] + parts[1][13:])  # without its header
    first, second, both = (looked(p).qp for p in (tmp_path / "20.mp4", tmp_path / "40.mp4", whole))
    assert first is not None
    assert second is not None
    assert both is not None
    assert both.mean == pytest.approx((first.mean + second.mean) / 2, abs=0.1)
