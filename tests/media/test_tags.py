"""What a file says of itself as a whole: tags, chapters, how it was made, where its chroma lies."""

import logging
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import pytest

from carfilter import filter_video
from carfilter.errors import MediaError
from carfilter.media.options import TargetOptions
from carfilter.restore.restorer import RestoreOptions
from carfilter.run.options import FilterOptions
from clips import draw_frame, make_clip

THROUGH = FilterOptions(restore=RestoreOptions(strength=0))


def drawn(
    path: Path,
    tags: dict[str, str],
    muxer: dict[str, str],
    encoder: dict[str, str] | None = None,
) -> Path:
    """A clip of a few frames with tags and two chapters."""
    with av.open(str(path), "w", container_options=muxer) as out:
        out.metadata.update(tags)
        out.set_chapters(
            [
                {"id": n, "start": n * 100, "end": n * 100 + 100, "metadata": {"title": f"part{n}"},
                 "time_base": Fraction(1, 1000)}
                for n in range(2)
            ]
        )  # fmt: skip
        stream = out.add_stream("libx264", rate=25, time_base=Fraction(1, 25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.options = encoder or {}
        for number in range(6):
            frame = draw_frame(number, (64, 48), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def tags_of(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.m4v", "out.mkv"])
def test_a_phones_place_and_make_stay(tmp_path: Path, name: str) -> None:
    phone = {"com.apple.quicktime.make": "Apple", "com.apple.quicktime.location.ISO6709": "+48.1"}
    flags = {"movflags": "use_metadata_tags"}
    source = drawn(tmp_path / "in.mov", {**phone, "title": "Gate 3"}, flags)
    filter_video(source, tmp_path / name, options=THROUGH)
    kept = tags_of(tmp_path / name)
    assert kept["title"] == "Gate 3"
    assert {key: kept.get(key.lower()) for key in phone} == phone


@pytest.mark.parametrize("name", ["mkv", "webm", "mp4", "mov", "m4v", "avi", "flv", "nut"])
def test_the_result_says_how_it_was_made(tmp_path: Path, name: str) -> None:
    target = TargetOptions(video_codec="libvpx-vp9" if name == "webm" else None)
    source = drawn(tmp_path / "in.mkv", {}, {})
    made = tmp_path / f"out.{name}"
    options = FilterOptions(target=target, restore=THROUGH.restore)
    filter_video(source, made, options=options)
    assert any("restored by carfilter" in value for value in tags_of(made).values())


def test_a_format_without_tags_or_chapters_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = drawn(tmp_path / "in.mp4", {"title": "Gate 3"}, {})
    filter_video(source, tmp_path / "out.ts", options=THROUGH)
    assert "the mpegts format has no tags that could say how it was made" in caplog.text
    assert "the mpegts format keeps few tags or none: title" in caplog.text
    assert "the mpegts format holds no chapters: the source's 2 are lost" in caplog.text
    caplog.clear()
    filter_video(source, tmp_path / "out.avi", options=THROUGH)
    assert "the avi format holds no chapters: the source's 2 are lost" in caplog.text
    assert "are kept" not in caplog.text


@pytest.mark.parametrize("name", ["list.m3u8", "list.mpd"])
def test_a_list_of_many_files_is_refused_before_one_is_written(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / "in.mp4")
    with pytest.raises(MediaError, match="HLS and DASH are a list and many files"):
        filter_video(source, tmp_path / name, options=THROUGH)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.ffmpeg
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("place", ["topleft", "center", "left"])
def test_chroma_samples_stay_where_they_lie(tmp_path: Path, codec: str, place: str) -> None:
    source = drawn(tmp_path / "in.mp4", {}, {}, {"chroma_sample_location": place})
    options = FilterOptions(target=TargetOptions(video_codec=codec), restore=THROUGH.restore)
    filter_video(source, tmp_path / "out.mkv", options=options)
    for path in (source, tmp_path / "out.mkv"):
        command = ["ffprobe", "-v", "error", "-show_entries", "stream=chroma_location"]
        told = subprocess.run([*command, path], capture_output=True, text=True).stdout
        assert f"chroma_location={place}" in told


@pytest.mark.ffmpeg
def test_alpha_that_the_decoder_leaves_out_is_told_and_tagged_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.webm"
    clip = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2,format=yuva420p"]
    subprocess.run(["ffmpeg", "-v", "error", *clip, "-c:v", "libvpx-vp9", source], check=True)
    filter_video(source, tmp_path / "out.mkv", options=THROUGH)
    assert "in.webm: its alpha is lost, since its decoder does not give it" in caplog.text
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert "alpha_mode" not in {key.lower() for key in made.streams.video[0].metadata}
