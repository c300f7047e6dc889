"""Compressed twins: real encodes of small clips, their packs and the manifest."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from archives import processes_of_group
from carfilter.commands.degrade import main as degrade_main
from carfilter.errors import MediaError
from carfilter.media.clips import Clip, read_clip, read_photo, scale_clip, write_clip
from carfilter.media.frames import replace_luma
from carfilter.pairs.degrade import degrade, find_sources
from carfilter.pairs.packs import Twin, list_packs, load_clean, load_twin, save_clean, save_twin
from carfilter.pairs.photos import pan_and_zoom, still_scene
from carfilter.pairs.variants import Settings, plan_variants


def moving_texture(
    frames: int = 10, height: int = 64, width: int = 96, *, full_range: bool = False
) -> Clip:
    """Return a clip with a drifting texture over the whole range 0..255."""
    rng = np.random.default_rng(3)
    texture = rng.integers(0, 256, (height // 4, width // 4 + frames)).repeat(4, 0).repeat(4, 1)
    luma = np.stack([texture[:, 2 * t : 2 * t + width] for t in range(frames)]).astype(np.uint8)
    chroma = rng.integers(60, 200, (frames, 2, height // 2, width // 2)).astype(np.uint8)
    return Clip(luma, chroma, Fraction(25), full_range=full_range)


@pytest.fixture
def clean_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    write_clip(folder / "street.mkv", moving_texture(), {"qp": "0"})
    return folder


@pytest.mark.parametrize("full_range", [False, True])
def test_lossless_clips_come_back_bit_by_bit_with_their_range(
    tmp_path: Path, full_range: bool
) -> None:
    clip = moving_texture(full_range=full_range)
    write_clip(tmp_path / "a.mkv", clip, {"qp": "0"})
    again = read_clip(tmp_path / "a.mkv")
    assert np.array_equal(again.luma, clip.luma)
    assert np.array_equal(again.chroma, clip.chroma)
    assert again.full_range == full_range
    assert again.fps == 25


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv422p", "yuv444p", "yuv420p10le"])
def test_luma_of_other_layouts_keeps_its_values_and_loses_an_odd_edge(
    tmp_path: Path, pix_fmt: str
) -> None:
    scale = 4 if pix_fmt.endswith("10le") else 1
    ramp = np.add.outer(np.arange(49), np.arange(71)).astype(np.uint16) * 2 * scale
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 71, 49, pix_fmt
        frame = av.VideoFrame(71, 49, pix_fmt)
        replace_luma(frame, ramp if scale == 4 else ramp.astype(np.uint8))
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = read_clip(tmp_path / "a.mkv")
    assert clip.chroma.shape == (1, 2, 24, 35)
    assert np.array_equal(clip.luma[0], ramp[:48, :70] // scale)


def test_luma_keeps_its_range_through_scaling() -> None:
    clip = moving_texture()
    flat = Clip(np.full_like(clip.luma, 255), clip.chroma, clip.fps)
    assert scale_clip(flat, 64, 48).luma.min() == 255
    assert scale_clip(Clip(flat.luma * 0, clip.chroma, clip.fps), 64, 48).luma.max() == 0


def test_gray_photographs_keep_their_values(tmp_path: Path) -> None:
    from PIL import Image

    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256).repeat(32, 0)
    for name in ("ramp.png", "ramp.webp"):
        Image.fromarray(ramp).save(tmp_path / name, lossless=True)
        assert np.array_equal(read_photo(tmp_path / name), ramp)


def test_pan_and_zoom_moves_slowly_and_never_magnifies() -> None:
    rows, columns = np.mgrid[:300, :500]
    photo = (128 + 60 * np.sin(rows / 9) + 60 * np.sin(columns / 11)).astype(np.uint8)
    clip = pan_and_zoom(photo, 6, np.random.default_rng(1))
    assert clip.shape == (6, 240, 320)
    steps = np.abs(np.diff(clip.astype(int), axis=0)).mean((1, 2))
    assert 0 < steps.max() < 25
    small = pan_and_zoom(photo[:70, :50], 2, np.random.default_rng(1))
    assert small.shape == (2, 64, 48)


def test_the_paper_has_twelve_variants_with_one_second_buffers() -> None:
    variants = plan_variants(Settings(), "clip", 910 * 512 * 25, photo=False)
    assert len(variants) == 12
    assert {v.crf for v in variants} == {29, 35, 41, 47}
    assert {v.maxrate for v in variants} == {2_000_000, 1_500_000, 1_000_000}
    assert all(v.bufsize == v.maxrate for v in variants)
    assert variants[0].options() == {
        "crf": "29",
        "preset": "medium",
        "maxrate": "2000000",
        "bufsize": "2000000",
        "x264-params": "cpu-independent=1",
    }


@pytest.mark.parametrize("codec", ["hevc", "mpeg4", "mjpeg"])
def test_other_codecs_code_coarser_as_asked_and_tell_their_qp(
    clean_folder: Path, tmp_path: Path, codec: str
) -> None:
    crfs = {"hevc": (20, 44), "mpeg4": (2, 20), "mjpeg": (2, 20)}[codec]
    settings = Settings(variants="plain", crfs=crfs, codecs=(codec,), gop=6, max_frames=8)
    out = tmp_path / "out"
    fine, coarse = degrade(find_sources([clean_folder]), out, settings)
    assert fine["codec"] == coarse["codec"] == codec
    assert fine["kbps"] > 2 * coarse["kbps"]
    assert fine["mean_qp"] < coarse["mean_qp"]
    clean, _ = load_clean(out / "packs" / "street.clean.npz")
    qps = [load_twin(out / row["pack"], clean).qp.mean() for row in (fine, coarse)]
    assert 0 <= qps[0] < qps[1] <= 51


def test_cameras_hold_a_qp_or_a_bitrate_and_look_back_at_one_picture() -> None:
    settings = Settings(variants="camera", codecs=("h264", "hevc", "mjpeg"), per_clip=40)
    variants = plan_variants(settings, "clip", 2.5e6, photo=False)
    assert {v.codec for v in variants} == {"h264", "hevc", "mjpeg"}
    for variant in variants:
        options = variant.options()
        assert 12 <= int(options["g"]) <= 250
        if variant.codec != "mjpeg":
            assert options["bf"] == "0"
            assert ("qp" in options) != ("b" in options)


def test_scaled_caps_follow_the_pixel_rate() -> None:
    half = plan_variants(Settings(scale_caps=True), "clip", 910 * 512 * 12.5, photo=False)
    assert {v.maxrate for v in half} == {1_000_000, 750_000, 500_000}


def test_mixed_variants_span_the_crfs_and_repeat_with_the_seed() -> None:
    def plan(seed: int, clip: str) -> list[tuple[int, str, int | None]]:
        settings = Settings(variants="mixed", per_clip=8, seed=seed)
        variants = plan_variants(settings, clip, 2.5e6, photo=False)
        assert all(v.gop == 250 or 12 <= (v.gop or 0) <= 60 for v in variants)
        assert all(0 <= (v.bframes or 0) <= 3 for v in variants)
        return [(v.crf, v.preset, v.maxrate) for v in variants]

    assert plan(1, "a") == plan(1, "a") != plan(2, "a")
    assert plan(1, "a") != plan(1, "b")
    drawn = [crf for seed in range(60) for crf, _, _ in plan(seed, "a")]
    assert min(drawn) == 18
    assert max(drawn) == 51


def test_degrade_leaves_videos_packs_and_a_manifest_that_agree(
    clean_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows = degrade(find_sources([clean_folder]), out, Settings(variants="plain", crfs=(23, 41)))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["variants"] == rows
    assert [row["crf"] for row in rows] == [23, 41]
    assert rows[0]["kbps"] > rows[1]["kbps"]
    assert rows[0]["mean_qp"] < rows[1]["mean_qp"]
    source = read_clip(clean_folder / "street.mkv")
    clean, about = load_clean(out / "packs" / "street.clean.npz")
    assert np.array_equal(clean, source.luma)
    assert about["fps"] == "25"
    for row in rows:
        video = read_clip(out / row["video"])
        twin = load_twin(out / row["pack"], clean)
        assert np.array_equal(twin.luma, video.luma)
        assert video.qp is not None
        assert np.array_equal(twin.qp, video.qp)
        assert np.array_equal(twin.types, video.types)
        assert twin.types[0] == 1
        assert not np.array_equal(video.chroma, np.full_like(video.chroma, 128))


def test_a_felt_cap_is_reported_and_an_unfelt_one_is_not(
    clean_folder: Path, tmp_path: Path
) -> None:
    # Noise costs about 200 kbit a frame at CRF 29, which 2 Mb/s does not carry and 50 Mb/s would.
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 192, 256)).astype(np.uint8)
    chroma = np.full((30, 2, 96, 128), 128, np.uint8)
    write_clip(clean_folder / "noise.mkv", Clip(noise, chroma, Fraction(25)), {"qp": "0"})
    rows = degrade(find_sources([clean_folder]), tmp_path / "out", Settings(), jobs=1)
    felt = {(row["clip"], row["crf"], row["maxrate"]): row["cap_reached"] for row in rows}
    assert felt["noise", 29, 1_000_000] is True
    assert felt["street", 47, 2_000_000] is False


def test_an_unfelt_cap_changes_nothing_about_the_pictures(tmp_path: Path) -> None:
    clip = moving_texture()
    # As all variants have it: x264's AVX-512 code for mbtree differs from encode to encode.
    options = {"crf": "41", "preset": "medium", "x264-params": "cpu-independent=1"}
    write_clip(tmp_path / "free.mp4", clip, options)
    write_clip(tmp_path / "cap.mp4", clip, {**options, "maxrate": "2000000", "bufsize": "2000000"})
    free, capped = (read_clip(tmp_path / name) for name in ("free.mp4", "cap.mp4"))
    assert np.array_equal(free.luma, capped.luma)


def test_scaling_after_the_encoder_keeps_both_and_has_no_qp_map(
    clean_folder: Path, tmp_path: Path
) -> None:
    settings = Settings(variants="plain", crfs=(35,), size=(64, 48), scale="after")
    row = degrade(find_sources([clean_folder]), tmp_path / "out", settings)[0]
    assert read_clip(tmp_path / "out" / row["video"]).luma.shape == (10, 64, 96)
    scaled = read_clip(tmp_path / "out" / row["scaled"])
    clean, _ = load_clean(tmp_path / "out/packs/street.clean.npz")
    twin = load_twin(tmp_path / "out" / row["pack"], clean)
    assert scaled.luma.shape == clean.shape == (10, 48, 64)
    assert np.array_equal(twin.luma, scaled.luma)
    assert (twin.qp < 0).all()


def test_noise_is_part_of_the_clean_clip(clean_folder: Path, tmp_path: Path) -> None:
    settings = Settings(variants="plain", crfs=(20,), noise=(3.0,))
    degrade(find_sources([clean_folder]), tmp_path / "out", settings)
    clean, _ = load_clean(tmp_path / "out/packs/street.clean.npz")
    source = read_clip(clean_folder / "street.mkv").luma
    inside = (source > 20) & (source < 235)
    assert 2.5 < (clean.astype(float) - source)[inside].std() < 3.5


def test_several_processes_make_the_same_files_as_one(clean_folder: Path, tmp_path: Path) -> None:
    write_clip(clean_folder / "second.mkv", moving_texture(6), {"qp": "0"})
    settings = Settings(variants="mixed", per_clip=2)
    for jobs in (1, 2):
        degrade(find_sources([clean_folder]), tmp_path / f"out{jobs}", settings, jobs)
    rows = [json.loads((tmp_path / out / "manifest.json").read_text()) for out in ("out1", "out2")]
    assert rows[0] == rows[1]
    for clean_path, twins in list_packs(tmp_path / "out1").items():
        clean, _ = load_clean(clean_path)
        for path in twins:
            other = load_twin(tmp_path / "out2/packs" / path.name, clean)
            assert np.array_equal(load_twin(path, clean).luma, other.luma)


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
)
def test_no_worker_outlives_a_run_that_is_ended(
    clean_folder: Path, tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    out = tmp_path / "out"
    with two_workers(clean_folder, out) as process:
        (os.killpg if group else os.kill)(process.pid, number)
        _, message = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert message == "carfilter-degrade: interrupted\n"
        assert not list(out.rglob(".*"))
    wait_until(lambda: not processes_of_group(process.pid))
    assert not (out / "manifest.json").exists()


def test_a_worker_that_is_killed_is_one_sentence(clean_folder: Path, tmp_path: Path) -> None:
    with two_workers(clean_folder, tmp_path / "out") as process:
        worker = next(
            pid
            for pid in processes_of_group(process.pid)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(worker, signal.SIGKILL)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message.count("\n") == 1
    assert message.endswith("run carfilter-degrade with fewer --jobs\n")
    wait_until(lambda: not processes_of_group(process.pid))


@contextmanager
def two_workers(clean_folder: Path, out: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a run in a process group of its own; it takes seconds when both are at work."""
    for name in "abc":
        shutil.copy(clean_folder / "street.mkv", clean_folder / f"{name}.mkv")
    code = "from carfilter.commands.degrade import main; main()"
    options = ("--variants", "mixed", "--per-clip", "40", "--jobs", "2")
    command = [sys.executable, "-c", code, str(clean_folder), str(out), *options]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_until(lambda: len(list((out / "clean").glob("[!.]*.mkv"))) == 2)
        yield process


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_bad_clip_does_not_stop_the_others(clean_folder: Path, tmp_path: Path) -> None:
    (clean_folder / "broken.mkv").write_bytes(b"no video at all")
    out = tmp_path / "out"
    arguments = [str(clean_folder), str(out), "--variants", "plain", "-crf", "35"]
    result = CliRunner().invoke(degrade_main, arguments)
    assert result.exit_code == 1
    assert "1 of 2 clips failed, broken first" in result.stderr
    assert (out / "packs/street.crf35.npz").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(clean_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(degrade_main, [str(clean_folder), str(tmp_path / "file/out")])
    assert result.exit_code == 1
    assert "file/out/clean: cannot be made or used (Not a directory)" in result.stderr


def test_pieces_of_small_photographs_are_small() -> None:
    rng = np.random.default_rng(5)
    for side in (3, 16, 20, 40):
        others = [rng.integers(0, 256, (side, side), np.uint8)] * 3
        clip = still_scene(rng.integers(0, 256, (40, 64), np.uint8), others, 4, rng)
        assert clip.shape == (4, 32, 64)
        assert bool((clip[0] != clip[-1]).any()) == (side > 3)


def test_pieces_are_of_photographs_that_were_named(tmp_path: Path) -> None:
    from PIL import Image

    rng, photos = np.random.default_rng(2), tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (64, 96), np.uint8)
        Image.fromarray(pixels).save(photos / f"{name}.png")
    (photos / "held_out.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    options = ["--variants", "mixed", "--per-photo", "1", "--photo-camera", "still"]
    named = [str(photos / "a.png"), str(photos / "b.png")]
    for seed in range(3):  # none to three pieces are drawn
        command = [*named, str(out), *options, "--photo-frames", "2", "--seed", str(seed), "-y"]
        result = CliRunner().invoke(degrade_main, command)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-crf 99", "'-crf' / '--crf': 99 is not in 0..51, which h264 has"),
        ("-crf 40,51 --codec hevc,mjpeg", "40 is not in 1..31, which mjpeg has"),
        ("-crf 29,29", "'29,29' has one of them twice"),
        ("--codec av1,av1", "'--codec': one is named twice"),
        ("--noise nan", "'--noise': 'nan' is not of 0 to 255 grey levels"),
        ("--noise 0,inf", "'--noise': '0,inf' is not of 0 to 255"),
        ("--noise 1e300", "'--noise': '1e300' is not of 0 to 255"),
        ("--bufsize-seconds 0", "'--bufsize-seconds': 0.0 is not in the range"),
        ("--bufsize-seconds -1", "'--bufsize-seconds': -1.0 is not in the range"),
        ("--bufsize-seconds nan", "'--bufsize-seconds': 'nan' is no finite number"),
        ("--size 0x0", "'--size': '0x0' is neither 'source' nor an even size"),
        ("--size 6\u00b2x64", "is neither 'source' nor an even size"),
        ("--size 99998x99998", "'--size': '99998x99998' is larger than 8192x4352"),
        ("--size 16386x16", "'--size': '16386x16' is larger than 8192x4352, or longer than 16384"),
        ("--seed -1", "'--seed': -1 is not in the range x>=0"),
    ],
)
def test_what_no_encode_has_is_refused_by_the_name_of_the_option(
    clean_folder: Path, tmp_path: Path, options: str, said: str
) -> None:
    arguments = [str(clean_folder), str(tmp_path / "out"), "--variants", "plain"]
    result = CliRunner().invoke(degrade_main, [*arguments, *options.split()])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--codec hevc --size source", "the paper's variants are H.264; give --variants plain"),
        ("-crf 20,30", "-crf is of plain variants alone; give --variants plain with it"),
        ("--variants mixed --crf 20", "-crf is of plain variants alone"),
    ],
)
def test_what_the_variants_would_not_have_is_refused(
    clean_folder: Path, tmp_path: Path, options: str, said: str
) -> None:
    arguments = [str(clean_folder), str(tmp_path / "out"), *options.split()]
    result = CliRunner().invoke(degrade_main, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten_without_being_asked(
    clean_folder: Path, tmp_path: Path
) -> None:
    arguments = [str(clean_folder), str(tmp_path / "out"), "--variants", "plain", "-crf", "35"]
    assert CliRunner().invoke(degrade_main, arguments).exit_code == 0
    refused = CliRunner().invoke(degrade_main, arguments)
    assert refused.exit_code == 1
    assert "give -y" in refused.stderr
    assert CliRunner().invoke(degrade_main, [*arguments, "-y"]).exit_code == 0


@pytest.mark.parametrize("linked", ["source", "result", ""])
def test_a_clip_that_lies_where_results_go_is_refused_and_stays(
    clean_folder: Path, tmp_path: Path, linked: str
) -> None:
    clip = clean_folder / "street.mkv"
    given, out = clip, tmp_path
    if linked == "source":
        given = tmp_path / "link" / "street.mkv"
        given.parent.mkdir()
        given.symlink_to(clip)
    elif linked == "result":
        out = tmp_path / "out"
        (out / "clean").mkdir(parents=True)
        (out / "clean" / "street.mkv").symlink_to(clip)
    before = clip.read_bytes()
    result = CliRunner().invoke(degrade_main, [str(given), str(out), "-y"])
    assert result.exit_code == 1
    sentence = "street.mkv: lies where results go; give OUT_DIR a folder of its own\n"
    assert result.stderr.endswith(sentence)
    assert clip.read_bytes() == before
    assert not (out / "videos").exists()


@pytest.mark.parametrize("name", ["clean/street.mkv", "videos/street.crf35.mp4"])
def test_a_file_under_the_name_of_a_result_is_not_overwritten_without_being_asked(
    clean_folder: Path, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    arguments = [str(clean_folder), str(tmp_path / "out"), "--variants", "plain", "-crf", "35"]
    refused = CliRunner().invoke(degrade_main, arguments)
    assert "holds results already; give -y to overwrite them" in refused.stderr
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("lost", ["manifest.json", "packs", ""])
def test_what_is_not_made_again_is_removed_and_other_files_stay(
    clean_folder: Path, tmp_path: Path, lost: str
) -> None:
    out = tmp_path / "out"
    arguments = [str(clean_folder), str(out), "--variants", "plain"]
    first = ["-crf", "30,40", "--noise", "0,2", "--size", "64x64", "--scale", "after"]
    assert CliRunner().invoke(degrade_main, [*arguments, *first]).exit_code == 0
    if lost == "packs":
        shutil.rmtree(out / lost)
    elif lost:
        (out / lost).unlink()  # as where a run was cut off
    (out / "packs").mkdir(exist_ok=True)
    np.savez(out / "packs/mine.npz", luma=np.zeros(3))
    for folder in ("videos", "clean", "scaled"):
        (out / folder / "mine.mp4").write_bytes(b"mine")
    refused = CliRunner().invoke(degrade_main, [*arguments, "-crf", "40"])
    assert "holds results already; give -y to overwrite them" in refused.stderr
    assert (out / "videos/street-n0.crf30.mp4").exists()
    assert CliRunner().invoke(degrade_main, [*arguments, "-crf", "40", "-y"]).exit_code == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "manifest.json",
        "clean/street.mkv", "videos/street.crf40.mp4",
        "packs/street.clean.npz", "packs/street.crf40.npz",
        "packs/mine.npz", "videos/mine.mp4", "clean/mine.mp4", "scaled/mine.mp4",
    }  # fmt: skip


def test_what_is_made_under_the_same_name_leaves_no_scaled_twin(
    clean_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [str(clean_folder), str(out), "--variants", "plain", "-crf", "40"]
    scaled = ["--size", "64x64", "--scale", "after"]
    assert CliRunner().invoke(degrade_main, [*arguments, *scaled]).exit_code == 0
    assert (out / "scaled/street.crf40.mkv").exists()
    assert CliRunner().invoke(degrade_main, [*arguments, "-y"]).exit_code == 0
    assert not [*(out / "scaled").iterdir()]


def test_a_foreign_manifest_costs_no_file_elsewhere(clean_folder: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine.mp4"
    out.mkdir()
    (out / "videos").mkdir()
    mine.write_bytes(b"mine")
    rows = [
        {"video": "../mine.mp4", "clean": str(mine)},
        {"video": "videos/../../mine.mp4"},
        {"clean": "clean/.."},
    ]
    (out / "manifest.json").write_text(json.dumps({"variants": rows}))
    arguments = [str(clean_folder), str(out), "--variants", "plain", "-crf", "40", "-y"]
    assert CliRunner().invoke(degrade_main, arguments).exit_code == 0
    assert mine.exists()


def test_a_run_that_makes_nothing_leaves_the_manifest_of_what_is_there(
    clean_folder: Path, tmp_path: Path
) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken.mkv"
    broken.write_bytes(b"no video at all")
    options = [str(out), "--variants", "plain", "-crf", "40", "-y"]
    assert CliRunner().invoke(degrade_main, [str(clean_folder), *options]).exit_code == 0
    before = (out / "manifest.json").read_bytes()
    assert CliRunner().invoke(degrade_main, [str(broken), *options]).exit_code == 1
    assert (out / "manifest.json").read_bytes() == before
    assert (out / "packs/street.crf40.npz").exists()


@pytest.mark.parametrize(("clips", "words"), [(1, "the only clip"), (3, "all 3 clips")])
def test_a_run_in_which_all_clips_fail_says_so_and_leaves_no_manifest(
    tmp_path: Path, clips: int, words: str
) -> None:
    folder, out = tmp_path / "clean", tmp_path / "out"
    folder.mkdir()
    for name in "abc"[:clips]:
        (folder / f"{name}.mkv").write_bytes(b"no video at all")
    result = CliRunner().invoke(degrade_main, [str(folder), str(out), "--variants", "plain"])
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"carfilter-degrade: error: {words} failed, so nothing was made")
    assert f"{folder / 'a.mkv'}: " in last
    assert "manifest" not in result.stderr
    assert not (out / "manifest.json").exists()


def test_packs_are_lossless_whichever_coding_is_smaller(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (5, 32, 48)).astype(np.uint8)
    near = clean + rng.integers(0, 2, clean.shape).astype(np.uint8)  # best coded against clean
    still = np.repeat(clean[:1], 5, 0)  # best coded in time
    qp, types = np.zeros((5, 2, 3), np.int8), np.ones(5, np.uint8)
    save_clean(tmp_path, "clip", clean, {})
    for name, luma in (("near", near), ("still", still)):
        path = save_twin(tmp_path, "clip", clean, Twin(name, luma, qp, types, {"crf": 30}))
        twin = load_twin(path, clean)
        assert np.array_equal(twin.luma, luma)
        assert twin.about["coding"] == ("clean" if name == "near" else "time")
        assert path.stat().st_size < 0.7 * luma.nbytes


def test_foreign_and_truncated_packs_are_refused_by_name(tmp_path: Path) -> None:
    luma = np.zeros((2, 16, 16), np.uint8)
    path = save_clean(tmp_path, "clip", luma, {})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04N.", whole[:-200] + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=r"clip\.clean\.npz"):
            load_clean(path)
    np.savez(path, luma=luma)
    with pytest.raises(MediaError, match="not a training pack"):
        load_clean(path)


def test_twins_of_another_clean_clip_are_refused(tmp_path: Path) -> None:
    clean = np.zeros((2, 16, 16), np.uint8)
    qp, types = np.zeros((2, 1, 1), np.int8), np.ones(2, np.uint8)
    path = save_twin(tmp_path, "clip", clean, Twin("a", clean, qp, types, {}))
    with pytest.raises(MediaError, match="another clean clip"):
        load_twin(path, clean + np.uint8(1))
    with pytest.raises(MediaError, match=r"clip\.clean\.npz is missing"):
        list_packs(tmp_path)
    with pytest.raises(MediaError, match="no training packs"):
        list_packs(tmp_path / "elsewhere")
