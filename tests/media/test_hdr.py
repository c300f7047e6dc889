"""HDR10: what a television reads of the mastering display survives the encoder."""

import logging
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from carfilter import filter_video
from carfilter.media.hdr import MasteringDisplay, content_light, mastering_display
from carfilter.media.options import TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import make_clip

DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
PARAMS = f"master-display={DISPLAY}:max-cll=1000,400:log-level=none"
BT2020_PQ = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}


def hdr_clip(path: Path) -> Path:
    return make_clip(
        path,
        codec="libx265",
        pix_fmt="yuv420p10le",
        size=(128, 96),
        options={"x265-params": PARAMS},
        context=BT2020_PQ,
    )


def restored(source: Path, target: Path, codec: str, **encoder: str) -> Path:
    written = TargetOptions(video_codec=codec, encoder=tuple(encoder.items()))
    filter_video(
        source, target, options=FilterOptions(target=written, restore=RestoreOptions(strength=0))
    )
    return target


def first_frame(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def numbers(display: MasteringDisplay) -> list[Fraction]:
    pairs = (display.red, display.green, display.blue, display.white, display.luminance)
    return [value for pair in pairs for value in pair]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx265", "libx264", "libsvtav1"])
def test_mastering_display_and_light_level_survive(
    tmp_path: Path, codec: str, container: str
) -> None:
    source = hdr_clip(tmp_path / "in.mp4")
    made = first_frame(restored(source, tmp_path / f"out.{container}", codec))
    before, after = mastering_display(first_frame(source)), mastering_display(made)
    assert before is not None
    assert after is not None
    assert before.luminance == (1000, Fraction(1, 200))
    # AV1 counts in steps of its own: 1/65536, and 1/16384 for the lowest luminance.
    for a, b in zip(numbers(after), numbers(before), strict=True):
        assert a == b if codec != "libsvtav1" else abs(a - b) <= Fraction(1, 16384)
    assert content_light(made) == (1000, 400)
    assert (made.color_primaries, made.color_trc, made.colorspace) == (9, 16, 9)


def test_the_av1_encoder_prints_nothing_of_its_own(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", size=(128, 96))
    command = "from carfilter.commands.restore import main; main()"
    given = [source, tmp_path / "out.mkv", "-c:v", "libsvtav1", "--strength", "0"]
    run = subprocess.run(
        [sys.executable, "-c", command, *given, "-loglevel", "warning"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (run.stdout, run.stderr) == ("", "")


def test_what_the_user_says_of_the_display_stands(tmp_path: Path) -> None:
    params = {"x265-params": PARAMS.replace("1000,400", "700,300")}
    made = first_frame(
        restored(hdr_clip(tmp_path / "in.mp4"), tmp_path / "o.mp4", "libx265", **params)
    )
    assert content_light(made) == (700, 300)


def test_an_encoder_that_carries_none_of_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = hdr_clip(tmp_path / "in.mp4")
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        restored(source, tmp_path / "out.mkv", "ffv1")
    told = "HDR10 metadata, which ffv1 does not carry; use libx265 or libsvtav1"
    assert [told in record.message for record in caplog.records] == [True]


def test_hdr10_plus_is_not_carried_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = hdr_clip(tmp_path / "plain.hevc").read_bytes()
    source = tmp_path / "in.hevc"
    source.write_bytes(with_hdr10_plus(plain))
    with caplog.at_level(logging.WARNING, logger="carfilter"):
        restored(source, tmp_path / "out.mp4", "libx265")
    told = [r.message for r in caplog.records if "HDR10+" in r.message]
    assert told == ["the source has HDR10+ metadata, which is not carried into the result"]


def with_hdr10_plus(stream: bytes) -> bytes:
    """Put a message of SMPTE ST 2094-40 (ITU-T T.35) before each picture of a raw HEVC stream."""
    fields = [(1, 8), (1, 2), (400, 27), (0, 1), *[(70_001, 17)] * 4, (0, 4), (513, 10), (0, 3)]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    payload = bytes.fromhex("b5003c000104") + int(bits, 2).to_bytes(len(bits) // 8, "big")
    message = b"\0\0\0\1\x4e\1" + bytes([4, len(payload)]) + payload + b"\x80"
    pieces = re.split(rb"(?=\x00\x00\x01)", stream)
    out = b""
    for piece in pieces:
        is_picture = len(piece) > 5 and piece[3] >> 1 & 0x3F < 32 and piece[5] & 0x80
        out += (message if is_picture else b"") + piece
    return out
