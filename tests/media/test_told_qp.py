"""What streams of other codecs than H.264 tell of their QP, and that it reaches the filter."""

import logging
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import av
import pytest

from av1_headers import Stream as Av1Stream
from avc_headers import Stream as AvcStream
from carfilter import filter_video
from carfilter.commands.display import summary
from carfilter.inspection.inspect import InspectOptions, inspect
from carfilter.media.frames import copy_luma
from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.media.qp.av1 import Av1Qp
from carfilter.media.qp.avc import AvcQp
from carfilter.media.qp.hevc import HevcQp
from carfilter.media.qp.jpeg import jpeg_step
from carfilter.media.qp.measured import qp_of_bytes
from carfilter.media.qp.reader import QpReader
from carfilter.media.qp.told import read_qp
from carfilter.media.source import Decoded, open_source
from carfilter.run.options import FilterOptions
from clips import make_clip, tiny_weights
from hevc_headers import Stream as HevcStream

AvcHeaders = list[tuple[str, int] | None]

THROUGH = FilterOptions(target=TargetOptions(video_codec="ffv1"))
FLAT = "log-level=none:ipratio=1:pbratio=1"  # all pictures of the QP that is asked for
FLAT_AVC = "aq-mode=0:mbtree=0"  # all blocks of the QP of their slice
FLAT_AV1 = "lp=1:rc=0:aq-mode=0:use-fixed-qindex-offsets=1"


def qps_of(path: Path) -> list[float]:
    """Return the mean QP of each frame as the filter is given it."""
    source = open_source(path, SourceOptions(qp_maps=True))
    try:
        assert source.tells_qp
        frames = [event for event in source.events() if isinstance(event, Decoded)]
        return [float(frame.qp.mean()) for frame in frames if frame.qp is not None]
    finally:
        source.close()


def headers(path: Path) -> list[tuple[str, int] | None]:
    """Return type and QP, or AV1's index, of each packet of a file."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        is_av1 = video.codec_context.codec.canonical_name == "av1"
        reader = (Av1Qp if is_av1 else HevcQp)(video.codec_context.extradata or b"")
        return [reader.read(bytes(packet)) for packet in container.demux(video) if packet.size]


def avc_headers(path: Path) -> tuple[AvcHeaders, AvcHeaders]:
    """Return type and QP of each picture as shown: by its header, and of all blocks as exported."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        decoder = video.codec_context
        decoder.options, decoder.thread_type = {"export_side_data": "venc_params"}, "SLICE"
        reader = AvcQp(decoder.extradata or b"")
        told, exported = [], []
        for packet in container.demux(video):
            if packet.size:
                told.append((packet.pts, reader.read(bytes(packet))))
            for frame in decoder.decode(packet if packet.size else None):
                qp = read_qp(frame)
                assert qp is not None
                assert qp.min() == qp.max()
                exported.append((" IPB"[frame.pict_type], int(qp.min())))
    if all(pts is not None for pts, _ in told):
        told.sort(key=lambda one: one[0])
    return [header for _, header in told], exported


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts", "h264"])
def test_h264s_slices_tell_what_its_decoder_exports(tmp_path: Path, container: str) -> None:
    options = {"x264-params": f"{FLAT_AVC}:qp=30:bframes=3:b-adapt=0"}
    told, exported = avc_headers(make_clip(tmp_path / f"in.{container}", options=options))
    assert len({qp for _, qp in exported}) == 4  # of I, P, and B that others refer to or not
    assert sorted(told) == sorted(exported)  # a raw stream is in the order of coding
    assert container == "h264" or told == exported


@pytest.mark.parametrize(
    ("params", "pix_fmt"),
    [
        ("crf=28:bframes=3:b-adapt=0:b-pyramid=normal:ref=4:keyint=9:slices=3", "yuv420p"),
        ("crf=28:bframes=3:b-adapt=0:weightb=1:weightp=2:direct=temporal", "yuv420p"),
        ("crf=33:interlaced=1:bframes=2:b-adapt=0:ref=3", "yuv420p"),
        ("crf=33:bff=1:cabac=0:bframes=0:weightp=0:8x8dct=0", "yuv420p"),  # as Baseline is coded
        ("qp=40:cqm=jvt:bframes=2:nal-hrd=vbr:vbv-maxrate=9000:vbv-bufsize=9000", "yuv420p"),
        ("qp=22:fake-interlaced=1:open-gop=1:keyint=5:bframes=3:ref=5:aud=1", "yuv422p"),
        ("qp=30:bframes=3:b-adapt=0:weightp=2", "yuv420p10le"),
        ("qp=3:bframes=3:b-adapt=0", "yuv422p10le"),  # finer than 0 of 8 bits
        ("qp=33:bframes=2:b-adapt=0:weightp=2", "yuv444p"),
        ("qp=33:bframes=2:b-adapt=0:weightp=2", "gray"),
    ],
)
def test_h264_is_read_whatever_its_encoder_was_told(
    tmp_path: Path, params: str, pix_fmt: str
) -> None:
    options = {"x264-params": f"{FLAT_AVC}:{params}"}
    shape = {"size": (128, 96), "pix_fmt": pix_fmt}
    told, exported = avc_headers(make_clip(tmp_path / "in.mkv", **shape, options=options))
    assert told == exported


@pytest.mark.parametrize("seed", range(12))
def test_h264_is_read_where_no_encoder_of_pyav_writes_such_headers(seed: int) -> None:
    """Field pictures, planes apart, slice groups, lists in another order, references marked."""
    stream = AvcStream(Random(seed))
    reader = AvcQp(stream.parameter_sets())
    for _ in range(20):
        data, kind, qp = stream.slice()
        assert reader.read(b"\0\0\1\x6e\x80\x80\x80" + data) == (kind, qp)  # behind one of SVC


@pytest.mark.skipif("h264_v4l2m2m" not in av.codecs_available, reason="needs that decoder")
def test_of_h264s_slices_and_their_bytes_the_coarser_qp_counts(tmp_path: Path) -> None:
    """For a decoder on a device, beside one in software that gives the same pictures."""
    coarser = []
    for pix_fmt, qp in (("yuv420p", 38), ("gray", 24)):  # much chroma, and none
        options = {"x264-params": f"{FLAT_AVC}:qp={qp}"}
        source = make_clip(tmp_path / "in.mp4", pix_fmt=pix_fmt, options=options)
        with av.open(str(source)) as container:
            video = container.streams.video[0]
            device = av.CodecContext.create("h264_v4l2m2m", "r")
            device.extradata = video.codec_context.extradata
            reader = QpReader(device, SourceOptions(qp_maps=True))
            packet = next(container.demux(video))
            reader.note(packet)
            frame = [*video.codec_context.decode(packet), *video.codec_context.decode(None)][0]
            told = reader.told(frame, on_device=False)
            settled = reader.settled(told, frame, on_device=False)
        assert told is not None
        assert settled is not None
        measured = round(qp_of_bytes(copy_luma(frame), 8, packet.size))
        assert (settled == max(told[0, 0], measured)).all()
        coarser.append(measured - told[0, 0])
    assert coarser[0] < 0 < coarser[1]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video", "flv", "wmv2"])
def test_mpegs_quantiser_is_the_qp_of_a_step_as_wide_and_the_offset(
    tmp_path: Path, codec: str
) -> None:
    found = []
    for q in (4, 8, 16):
        quantiser = {"qmin": str(q), "qmax": str(q)}
        qps = qps_of(make_clip(tmp_path / "in.nut", codec=codec, options=quantiser))
        assert len(qps) == 12  # with the last one, which MPEG-2's decoder holds back
        assert len(set(qps)) == 1
        found.append(qps[0])
    assert found == [27, 33, 39]  # of steps 8, 16, 32: 22, 28, 34


def test_a_quantiser_that_varies_is_told_block_by_block(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv",
        codec="mpeg4",
        size=(128, 96),
        context={"bit_rate": 200_000},
        options={"qmin": "2", "qmax": "31", "mpv_flags": "+qp_rd", "mbd": "rd"},
    )
    opened = open_source(source, SourceOptions(qp_maps=True))
    try:
        maps = [event.qp for event in opened.events() if isinstance(event, Decoded)]
    finally:
        opened.close()
    assert all(qp is not None and qp.shape == (6, 8) for qp in maps)
    assert any(qp.min() < qp.max() for qp in maps if qp is not None)


def test_vp9s_quantiser_is_the_qp_of_a_step_as_wide(tmp_path: Path) -> None:
    found = []
    for q in ("10", "30", "50"):
        options = {"crf": q, "qmin": q, "qmax": q, "b": "0", "deadline": "realtime"}
        qps = qps_of(make_clip(tmp_path / "in.webm", codec="libvpx-vp9", options=options))
        assert len(qps) == 12
        assert len(set(qps)) == 1
        found.append(qps[0])
    assert found == [19, 30, 42]  # of steps 47/8, 152/8 and 639/8


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts", "hevc"])
@pytest.mark.parametrize(("qp", "taken"), [(21, 18), (38, 35), (46, 45)])
def test_hevc_tells_the_qp_of_its_slices(
    tmp_path: Path, container: str, qp: int, taken: int
) -> None:
    source = hevc_clip(tmp_path / f"in.{container}", f"qp={qp}:bframes=0")
    assert [header and header[1] for header in headers(source)] == [qp] * 12
    assert qps_of(source) == [taken - 3] + [taken] * 11


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts", "hevc"])
def test_what_others_refer_to_is_finer_where_hevc_is_coded_out_of_order(
    tmp_path: Path, container: str
) -> None:
    source = hevc_clip(tmp_path / f"in.{container}", "qp=38:bframes=3:b-adapt=0")
    told = [header for header in headers(source) if header is not None]
    assert [found for _, found in told] == [38] * 12
    assert {kind for kind, _ in told} == {"I", "P", "B"}
    taken = {"I": 28, "P": 33, "B": 35}
    assert sorted(qps_of(source)) == sorted(taken[kind] for kind, _ in told)


def hevc_clip(path: Path, params: str) -> Path:
    return make_clip(path, codec="libx265", options={"x265-params": f"{FLAT}:{params}"})


@pytest.mark.parametrize(
    ("params", "pix_fmt"),
    [
        ("slices=2:weightb=1:weightp=1:bframes=3", "yuv420p"),
        ("ref=5:bframes=4:b-pyramid=1:open-gop=1:keyint=6", "yuv420p"),
        ("multi-pass-opt-rps=1:opt-qp-pps=1:opt-ref-list-length-pps=1:bframes=3", "yuv420p"),
        ("temporal-layers=1:bframes=3:scaling-list=default:hrd=1:vbv-maxrate=9000"
         ":vbv-bufsize=9000", "yuv420p"),
        ("no-wpp=1:no-temporal-mvp=1:no-sao=1:no-deblock=1:max-merge=1:bframes=2", "yuv420p10le"),
        ("interlace=tff:bframes=2:aud=1:repeat-headers=1", "yuv422p10le"),
        ("weightp=1:bframes=0:cu-lossless=1:tskip=1", "yuv444p"),
        ("bframes=2:weightb=1", "gray"),
    ],
)  # fmt: skip
def test_hevc_is_read_whatever_its_encoder_was_told(
    tmp_path: Path, params: str, pix_fmt: str
) -> None:
    source = make_clip(
        tmp_path / "in.mkv",
        codec="libx265",
        size=(128, 96),
        pix_fmt=pix_fmt,
        options={"x265-params": f"{FLAT}:qp=33:{params}"},
    )
    assert [header and header[1] for header in headers(source)] == [33] * 12


@pytest.mark.parametrize("seed", range(8))
def test_hevc_is_read_where_no_encoder_of_pyav_writes_such_headers(seed: int) -> None:
    """Tiles, long-term references, lists in another order, sets that follow from others."""
    rng = Random(seed)
    stream = HevcStream(rng)
    reader = HevcQp(stream.parameter_sets())
    for _ in range(12):
        data, kind, qp = stream.slice()
        assert reader.read(data) == (kind, qp)


@pytest.mark.parametrize("container", ["mkv", "mp4", "ivf", "obu"])
def test_av1_tells_the_index_of_its_frames(tmp_path: Path, container: str) -> None:
    found = []
    for q in (15, 35, 55):
        options = {"preset": "10", "svtav1-params": f"{FLAT_AV1}:qp={q}"}
        source = make_clip(tmp_path / f"in.{container}", codec="libsvtav1", options=options)
        assert headers(source) == [("I", 4 * q)] + [("P", 4 * q)] * 11
        qps = qps_of(source)
        assert len(qps) == 12
        assert len(set(qps)) == 1
        found.append(qps[0])
    assert found == [22, 29, 36]  # of steps 64/8, 217/8 and 959/8: 22, 33, 45


def test_each_level_of_av1s_pyramid_is_told_where_it_is_shown(tmp_path: Path) -> None:
    """Half of its pictures are coded hidden and shown later, by a header of a few bytes."""
    options = {"preset": "10", "crf": "35", "svtav1-params": "lp=1"}
    source = make_clip(tmp_path / "in.mkv", codec="libsvtav1", frames=33, options=options)
    with av.open(str(source)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    assert sum(size < 12 for size in sizes) >= 8
    told = [header[1] for header in headers(source) if header is not None]
    assert len(told) == 33
    for step in (16, 8, 4, 2):  # finer than what lies between, which is predicted from it
        assert max(told[0:33:step]) < min(told[step // 2 : 33 : step])
    qps, order = qps_of(source), sorted(range(33), key=told.__getitem__)
    assert [qps[at] for at in order] == sorted(qps)


@pytest.mark.parametrize(
    ("params", "pix_fmt"),
    [
        ("pred-struct=1", "yuv420p"),
        ("tile-columns=1:tile-rows=1:scm=1", "yuv420p10le"),
        ("superres-mode=1:superres-denom=13", "yuv420p"),
        ("resize-mode=1:resize-denom=11:aq-mode=1", "yuv420p"),
    ],
)
def test_av1_is_told_whatever_its_encoder_was_told(
    tmp_path: Path, params: str, pix_fmt: str
) -> None:
    found = []
    for crf in ("20", "35", "50"):
        options = {"preset": "10", "crf": crf, "svtav1-params": f"lp=1:{params}"}
        source = make_clip(
            tmp_path / "in.mkv",
            codec="libsvtav1",
            size=(256, 192),
            frames=20,
            pix_fmt=pix_fmt,
            options=options,
        )
        told = [header for header in headers(source) if header is not None]
        assert [kind for kind, _ in told] == ["I"] + ["P"] * 19
        found.append(sum(index for _, index in told) / len(told))
        assert max(index for _, index in told) == 4 * int(crf)  # that of the last level
    assert found == sorted(found)


@pytest.mark.parametrize("seed", range(12))
def test_av1_is_read_where_no_encoder_of_pyav_writes_such_headers(seed: int) -> None:
    """Layers, operating points, references found by their order, tiles of uneven sizes."""
    stream = Av1Stream(Random(seed), layers=seed % 3 == 0)
    reader = Av1Qp(stream.sequence())
    for _ in range(20):
        data, kind, index = stream.unit()
        assert reader.read(data) == (kind, index)


def test_damaged_av1_tells_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    rng = Random(5)
    options = {"preset": "10", "crf": "35", "svtav1-params": "lp=1"}
    source = make_clip(tmp_path / "in.obu", codec="libsvtav1", frames=20, options=options)
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for _ in range(300):
        data = bytearray(rng.choice(packets)[: rng.randrange(3, 400)])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        reader = Av1Qp(bytes(data) if rng.random() < 0.5 else b"\x81\0\0\0" + bytes(data))
        for packet in (packets[0], bytes(data), rng.choice(packets)):
            told = reader.read(packet)
            assert told is None or 0 <= told[1] <= 255
    reader = Av1Qp(b"")
    assert reader.read(packets[1]) is None  # no sequence header yet
    assert reader.read(packets[0]) is not None
    assert reader.read(packets[1][:4]) is None
    assert reader.read(packets[2]) is None  # shows what would have been there
    assert min(map(len, packets)) == len(packets[2])


def read_damaged(reader_of: type[AvcQp | HevcQp], packets: list[bytes], rng: Random) -> None:
    """Read damaged parameter sets and packets, and whole ones after them."""
    for _ in range(300):
        data = bytearray(rng.choice(packets)[: rng.randrange(3, 400)])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        reader = reader_of(bytes(data) if rng.random() < 0.5 else b"\x01" + bytes(data))
        for packet in (bytes(data), rng.choice(packets)):
            told = reader.read(packet)
            assert told is None or 0 <= told[1] <= 51


@pytest.mark.parametrize(
    ("reader_of", "header"),
    [(AvcQp, b"\x67\x64\x00\x1f"), (HevcQp, b"\x42\x01\x01" + b"\x01" * 12)],
)
def test_a_parameter_set_of_a_megabyte_is_refused_at_once(
    reader_of: type[AvcQp | HevcQp], header: bytes
) -> None:
    begun = time.process_time()
    assert reader_of().read(b"\x00\x00\x01" + header + bytes(1 << 20)) is None
    assert reader_of().read(b"\x00\x00\x01" + header + b"\x55" * (1 << 20)) is None
    assert time.process_time() - begun < 2


def test_damaged_h264_tells_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    params = "keyint=4:bframes=2:b-adapt=0:weightp=2:repeat-headers=1"
    source = make_clip(tmp_path / "in.ts", options={"x264-params": params})
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    read_damaged(AvcQp, packets, Random(6))
    reader = AvcQp(b"")
    assert reader.read(packets[1]) is None  # no parameter sets yet
    assert reader.read(packets[0]) is not None
    assert reader.read(packets[1]) is not None
    assert reader.read(packets[1][:12]) is None


def test_damaged_headers_tell_nothing_and_break_nothing(tmp_path: Path) -> None:
    params = f"{FLAT}:qp=30:bframes=3:repeat-headers=1:weightb=1"
    source = make_clip(tmp_path / "in.ts", codec="libx265", options={"x265-params": params})
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    read_damaged(HevcQp, packets, Random(4))
    assert HevcQp(b"").read(packets[3][-200:]) is None
    assert jpeg_step(b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes(10)) is None


def test_mjpeg_tells_the_qp_of_its_tables(tmp_path: Path) -> None:
    found = []
    for q in (3, 6, 12, 24):
        options = {"qmin": str(q), "qmax": str(q)}
        source = make_clip(tmp_path / "in.avi", codec="mjpeg", pix_fmt="yuvj420p", options=options)
        qps = qps_of(source)
        assert len(qps) == 12
        assert len(set(qps)) == 1
        found.append(qps[0])
    steps = [after - before for before, after in pairwise(found)]
    assert set(steps) <= {4, 5, 6}  # steps twice as wide


def test_the_run_and_the_inspection_say_that_it_is_of_another_scale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantiser = {"qmin": "12", "qmax": "12"}
    source = make_clip(tmp_path / "in.mp4", codec="mpeg4", options=quantiser)
    with caplog.at_level(logging.INFO, logger="carfilter"):
        run = filter_video(source, tmp_path / "out.mkv", tiny_weights(tmp_path / "t.pt"), THROUGH)
    assert "told by its stream, on another scale" in caplog.text
    assert not run.qp_measured
    assert f"mean QP {run.mean_qp:.1f} (as H.264's)" in summary(run)
    seen = inspect(source, InspectOptions(tries=False))
    assert seen.qp is not None
    assert seen.qp.source == "converted"
    assert seen.qp.mean == run.mean_qp
    assert "on H.264's scale" in seen.findings[0].text
