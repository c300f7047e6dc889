"""Scores of rows on compressed clips: right values, cached, over bad clips, and of given pairs."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import bjontegaard
import numpy as np
import pytest
from click.testing import CliRunner, Result
from skimage.metrics import structural_similarity

from carfilter import metrics
from carfilter.commands.evaluate import main
from carfilter.errors import MediaError
from carfilter.evaluation import baselines, measures, methods, tables
from carfilter.evaluation.bd_rate import bd_rate
from carfilter.evaluation.evaluate import Evaluation, Settings, evaluate
from carfilter.evaluation.pair import evaluate_pair
from carfilter.evaluation.prepared import Column, Prepared, Variant, find_columns, prepare
from carfilter.media.clips import Clip, read_clip, scale_clip
from carfilter.pairs.variants import Settings as DegradeSettings
from carfilter.restore.weights import Model, load_weights
from scenes import FRAMES, HEIGHT, LOSSLESS, WIDTH, draw_clip, save_clip, save_model


@dataclass(frozen=True)
class Scene:
    """Clean clips, a cache that already holds their variants, and a model."""

    clips: dict[str, Path]
    cache: Path
    model: Model

    @property
    def settings(self) -> Settings:
        return Settings(self.cache, DegradeSettings(preset="veryfast", max_frames=300))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    clips = {
        name: save_clip(folder / f"{name}.mkv", draw_clip(seed))
        for seed, name in enumerate(("gate", "street"))
    }
    model = load_weights(save_model(folder / "tiny.pt"))
    return Scene(clips, folder / "cache", model)


@pytest.fixture(scope="module")
def measured(scene: Scene) -> Evaluation:
    rows = [methods.decode(), *methods.spp_rows(), methods.network(scene.model)]
    return evaluate(scene.clips, rows, [measures.quality()], scene.settings)


# Values ------------------------------------------------------------------------------------------


def ffmpeg_psnr(first: Path, second: Path) -> list[float]:
    """Luma PSNR of each frame by FFmpeg's own filter, with all its digits."""
    command = [baselines.ffmpeg_program(), "-v", "error", "-i", first, "-i", second]
    command += ["-lavfi", "psnr,metadata=print:file=-", "-f", "null", "-"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in re.findall(r"lavfi\.psnr\.psnr\.y=(\S+)", done.stdout)]


def test_decode_and_network_agree_with_ffmpegs_psnr(scene: Scene, tmp_path: Path) -> None:
    clip = prepare("gate", scene.clips["gate"], scene.settings.degrade, scene.cache)
    coded, clean = read_clip(clip.variants[-1].compared), read_clip(clip.clean)
    for method in (methods.decode(), methods.network(scene.model)):
        restored = method.restore(coded, clean)
        other = save_clip(tmp_path / "restored.mkv", restored)
        ours = measures.quality().run(clean, restored)["psnr"]
        np.testing.assert_allclose(ours, ffmpeg_psnr(clip.clean, other), atol=1e-3)


def test_two_runs_at_once_share_a_cache(scene: Scene, tmp_path: Path) -> None:
    given = "gate", scene.clips["gate"], scene.settings.degrade, tmp_path / "cache"
    with ThreadPoolExecutor(3) as pool:
        first, *others = [run.result() for run in [pool.submit(prepare, *given) for _ in range(3)]]
    assert all(other == first for other in others)
    assert all(variant.compared.is_file() for variant in first.variants)
    assert len([*(tmp_path / "cache" / "variants").iterdir()]) == 1


def test_a_variant_that_lost_its_listing_is_named_with_what_to_do(
    scene: Scene, tmp_path: Path
) -> None:
    given = "gate", scene.clips["gate"], scene.settings.degrade, tmp_path / "cache"
    prepare(*given)
    (folder,) = (tmp_path / "cache" / "variants").iterdir()
    (folder / "listing.json").unlink()
    with pytest.raises(MediaError, match="no longer whole; remove it, and it is made again"):
        prepare(*given)
    shutil.rmtree(folder)
    assert prepare(*given).variants


def test_decode_and_network_agree_with_scikit_images_ssim(scene: Scene) -> None:
    clip = prepare("gate", scene.clips["gate"], scene.settings.degrade, scene.cache)
    coded, clean = read_clip(clip.variants[-1].compared), read_clip(clip.clean)
    for method in (methods.decode(), methods.network(scene.model)):
        restored = method.restore(coded, clean)
        theirs = [
            structural_similarity(
                truth,
                test,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
            )
            for truth, test in zip(clean.luma, restored.luma, strict=True)
        ]
        np.testing.assert_allclose(
            measures.quality().run(clean, restored)["ssim"], theirs, atol=1e-3
        )


def test_identical_frames_count_as_100_decibels() -> None:
    clip = draw_clip(frames=3)
    values = measures.quality().run(clip, clip)
    assert values["psnr"] == [100.0] * 3
    np.testing.assert_allclose(values["ssim"], 1, atol=1e-6)
    assert values["flicker"] == [0.0, 0.0]


def test_flicker_is_the_change_that_the_clean_clip_does_not_have() -> None:
    clean = np.full((4, 8, 8), 100, np.uint8)
    clean[2:, :, 4:] = 160  # this half changes, so it is not still at frame 2
    test = clean.copy()
    test[1, :, :4] += 6
    test[2:, :, 4:] += 9
    np.testing.assert_allclose(metrics.static_flicker(clean, test), [3, 6, 0])


def test_flicker_without_still_pixels_is_unknown() -> None:
    clean = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 90, np.uint8)])
    assert np.isnan(metrics.static_flicker(clean, clean)).all()


def test_psnr_swing_is_deviation_and_mean_height_of_peaks() -> None:
    values = [30.0, 34.0, 34.0, 31.0, 33.0]  # heights 4, 3, 2
    deviation, height = metrics.psnr_swing(values)
    assert deviation == pytest.approx(np.std(values))
    assert height == pytest.approx(3)
    assert metrics.psnr_swing([30.0]) == (0, 0)


def test_bd_rate_agrees_with_an_independent_implementation() -> None:
    rates, psnr = [100.0, 210.0, 430.0, 900.0], [28.0, 31.5, 34.0, 36.2]
    other = [28.6, 32.0, 34.6, 36.5]
    expected = bjontegaard.bd_rate(
        rates, psnr, rates, other, method="pchip", require_matching_points=False
    )
    assert bd_rate(rates, psnr, rates, other) == pytest.approx(expected, abs=1e-3)


def test_half_the_bits_at_equal_quality_are_minus_fifty_per_cent() -> None:
    rates, psnr = [100.0, 200.0, 400.0], [28.0, 31.0, 33.0]
    assert bd_rate(rates, psnr, [r / 2 for r in rates], psnr) == pytest.approx(-50)


@pytest.mark.parametrize("quality", [[40.0, 41.0, 42.0], [28.0, 27.0, 33.0]])
def test_bd_rate_of_curves_that_cannot_be_compared_is_unknown(quality: list[float]) -> None:
    rates = [100.0, 200.0, 400.0]
    assert bd_rate(rates, [28.0, 31.0, 33.0], rates, quality) is None


def fitful(scene: Scene, name: str) -> methods.Method:
    """Return a row that is good, but not where one clip is coded best."""
    luma = read_clip(scene.clips[name]).luma

    def restore(coded: Clip, clean: Clip) -> Clip:
        error = coded.luma.astype(int) - clean.luma
        best = np.array_equal(clean.luma, luma) and np.abs(error).mean() < 8
        return replace(coded, luma=(clean.luma + error * (9 if best else 0.9)).astype(np.uint8))

    return replace(methods.decode(), name=f"not {name}", key=name, restore=restore)


def test_rows_of_bd_rates_are_compared_over_the_same_clips(scene: Scene) -> None:
    rows = [methods.decode(), methods.network(scene.model), fitful(scene, "street")]
    done = evaluate(scene.clips, rows, [measures.quality()], scene.settings)
    gate = [clip for clip in done.clips if clip.name == "gate"]
    both, alone = (tables.bd_rate_table(replace(done, clips=c)) for c in (done.clips, gate))
    assert both is not None
    assert alone is not None
    assert both.rows == alone.rows
    assert "Clips left out: PSNR 1, SSIM 1 of 2." in both.notes
    assert len(alone.notes) == 1


def test_a_table_of_bd_rates_that_no_clip_is_in_says_so(scene: Scene) -> None:
    rows = [methods.decode(), fitful(scene, "street"), fitful(scene, "gate")]
    table = tables.bd_rate_table(evaluate(scene.clips, rows, [measures.quality()], scene.settings))
    assert table is not None
    assert "Clips left out: PSNR 2, SSIM 2 of 2." in table.notes


# Baselines ---------------------------------------------------------------------------------------


def test_spp_really_filters_h264_and_keeps_size_and_order() -> None:
    clip = draw_clip(frames=5)
    filtered = baselines.spp(clip.luma, 6)
    assert filtered.shape == clip.luma.shape
    assert (filtered != clip.luma).mean() > 0.3
    closest = [np.abs(clip.luma.astype(int) - f).mean((1, 2)).argmin() for f in filtered]
    assert closest == [0, 1, 2, 3, 4]


def test_flat_luma_passes_spp_without_a_change_of_range() -> None:
    flat = np.stack([np.full((34, 50), level, np.uint8) for level in (0, 16, 128, 235, 255)])
    np.testing.assert_array_equal(baselines.spp(flat, 4), flat)


def test_the_papers_strength_is_a_quarter_of_the_qp() -> None:
    assert [baselines.paper_strength(qp) for qp in (0, 30, 34, 51)] == [1, 8, 8, 13]


def test_tuned_spp_is_not_worse_than_the_papers(measured: Evaluation) -> None:
    psnr = next(value for value in tables.VALUES if value.key == "psnr")
    for column in measured.columns:
        tuned, paper = (
            tables.mean_of_clips(measured, column, row, psnr)
            for row in ("spp (tuned)", "spp (QP/4)")
        )
        assert tuned is not None
        assert paper is not None
        assert tuned >= paper - 0.02  # the strength is a quarter of the QP, tried in steps


def test_vmaf_is_high_for_the_same_and_low_for_a_blurred_clip() -> None:
    clip = draw_clip(frames=3)
    blurred = clip.luma.reshape(3, HEIGHT // 8, 8, WIDTH // 8, 8).mean((2, 4))
    blurred = blurred.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    same, worse = baselines.vmaf(clip.luma, clip.luma), baselines.vmaf(clip.luma, blurred)
    assert set(same) == {"vmaf", "vmaf_neg"}
    assert min(same["vmaf"]) > 90 > 50 > max(worse["vmaf"])
    assert len(same["vmaf_neg"]) == 3


# Columns -----------------------------------------------------------------------------------------


def variant(crf: int, cap: int, share: float) -> Variant:
    nowhere = Path("none")
    return Variant(crf, cap, 100.0, 30.0, share, 35.0, nowhere, "", nowhere)


def test_caps_that_no_clip_felt_share_a_column() -> None:
    free = [variant(crf, cap, 0.0) for crf in (29, 35) for cap in (1000, 2000, 1500)]
    tight = [*free[:3], *(replace(v, cap_share=float(v.cap == 1000)) for v in free[3:])]
    clips = [Prepared(str(i), "", Path(), tuple(v)) for i, v in enumerate((free, tight))]
    assert find_columns(clips[:1]) == [(29, (2000, 1500, 1000)), (35, (2000, 1500, 1000))]
    assert find_columns(clips) == [(29, (2000, 1500, 1000)), (35, (2000, 1500)), (35, (1000,))]
    assert len(find_columns(clips[:1], every=True)) == 6


def test_clips_of_two_sizes_share_the_columns_of_scaled_caps(scene: Scene, tmp_path: Path) -> None:
    small = tmp_path / "small.mkv"
    save_clip(small, scale_clip(read_clip(next(iter(scene.clips.values()))), 64, 48))
    settings = DegradeSettings(scale_caps=True, preset="ultrafast")
    found = [
        prepare(name, path, settings, tmp_path / "cache")
        for name, path in {**scene.clips, "small": small}.items()
    ]
    columns = find_columns(found, every=True)
    assert len(columns) == 12
    for clip in found:
        assert {(v.crf, v.cap) for v in clip.variants} == {(crf, caps[0]) for crf, caps in columns}


def test_a_capped_crf_shows_its_caps_and_an_uncapped_one_does_not() -> None:
    columns: list[Column] = [(29, (2000000, 1500000)), (29, (1000000,)), (35, (2000000,))]
    evaluation = Evaluation(columns=columns)
    labels = [tables.column_label(column, evaluation) for column in columns]
    assert labels == ["CRF 29, 2M/1.5M", "CRF 29, 1M", "CRF 35"]


# Runs --------------------------------------------------------------------------------------------


def test_every_row_is_measured_on_every_frame_of_every_column(measured: Evaluation) -> None:
    assert not measured.failures
    assert [clip.name for clip in measured.clips] == ["gate", "street"]
    for clip in measured.clips:
        assert [r.variant.crf for r in clip.results] == [29, 35, 41, 47]
        for result in clip.results:
            assert list(result.rows) == ["decode", "spp (QP/4)", "spp (tuned)", "tiny"]
            assert all(len(row["psnr"]) == FRAMES for row in result.rows.values())
            assert result.key_frames[0] == 0


def counted(method: methods.Method, calls: list[str]) -> methods.Method:
    def restore(coded: Clip, clean: Clip) -> Clip:
        calls.append(method.name)
        return method.restore(coded, clean)

    return replace(method, restore=restore)


def run_counted(scene: Scene, rows: Sequence[methods.Method]) -> list[str]:
    calls: list[str] = []
    evaluate(
        scene.clips, [counted(row, calls) for row in rows], [measures.quality()], scene.settings
    )
    return calls


@pytest.mark.usefixtures("measured")
def test_a_changed_model_does_not_redo_the_other_rows(scene: Scene, tmp_path: Path) -> None:
    other = load_weights(save_model(tmp_path / "tiny.pt", seed=5))
    before = [methods.decode(), methods.network(scene.model)]
    assert run_counted(scene, before) == []
    assert set(run_counted(scene, [methods.decode(), methods.network(other)])) == {"tiny"}


def test_a_damaged_cache_entry_is_computed_again(scene: Scene, tmp_path: Path) -> None:
    mine = replace(scene, cache=tmp_path)  # which holds what this row needs and nothing else
    assert run_counted(mine, [methods.decode()])
    entry = sorted((tmp_path / "scores").rglob("*.json"))[0]
    whole = entry.read_text()
    entry.write_text(whole[: len(whole) // 2])
    assert run_counted(mine, [methods.decode()]) == ["decode"]
    assert json.loads(entry.read_text()) == json.loads(whole)


def test_two_clips_at_a_time_give_the_same_values(
    scene: Scene, measured: Evaluation, tmp_path: Path
) -> None:
    settings = replace(scene.settings, jobs=2, cache=tmp_path)
    again = evaluate(scene.clips, [methods.decode()], [measures.quality()], settings)
    for ours, theirs in zip(again.clips, measured.clips, strict=True):
        assert [r.rows["decode"] for r in ours.results] == [
            r.rows["decode"] for r in theirs.results
        ]


def test_a_blind_row_differs_from_the_one_with_qp_maps(scene: Scene) -> None:
    clip = prepare("gate", scene.clips["gate"], scene.settings.degrade, scene.cache)
    clean = read_clip(clip.clean)
    coded = read_clip(clip.variants[0].compared, measure_qp="always")
    assert coded.qp is not None
    with_qp, blind = (
        methods.network(scene.model, blind=blind).restore(coded, clean).luma
        for blind in (False, True)
    )
    assert (with_qp != blind).any()


# Pairs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A clean file, its compressed version, and a restored one; with what they show."""

    clean: Path
    coded: Path
    restored: Path
    clip: Clip


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    clip = draw_clip()
    coded = save_clip(tmp_path / "a.mp4", clip, crf="35", preset="veryfast")
    shown = read_clip(coded)
    better = replace(shown, luma=((shown.luma.astype(int) + clip.luma) // 2).astype(np.uint8))
    return Pair(
        save_clip(tmp_path / "clean.mkv", clip),
        coded,
        save_clip(tmp_path / "b.mkv", better),
        clip,
    )


def test_a_pair_is_measured_without_encoding_anything(pair: Pair, tmp_path: Path) -> None:
    done, row = evaluate_pair(
        pair.clean, pair.coded, pair.restored, [measures.quality()], tmp_path / "cache"
    )
    rows = done.clips[0].results[0].rows
    assert np.mean(rows[row.name]["psnr"]) > np.mean(rows["decode"]["psnr"]) + 4
    assert done.clips[0].results[0].variant.kbps > 0


def refusal(pair: Pair, tmp_path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        evaluate_pair(pair.clean, pair.coded, pair.restored, [measures.quality()], tmp_path / "c")
    return str(caught.value)


def test_no_table_is_written_over_a_clip_or_another_table(pair: Pair, tmp_path: Path) -> None:
    sides = ("--reference", pair.clean, "--distorted", pair.coded, "--restored", pair.restored)
    before, table = pair.clean.read_bytes(), tmp_path / "table"
    for read in (sides, (pair.clean,)):
        refused = run(*read, "--report", pair.clean)
        assert refused.exit_code == 1
        assert "clean.mkv: is the source itself; write to another file" in refused.stderr
    assert pair.clean.read_bytes() == before
    refused = run(*sides, "--csv", table, "--json", table)
    assert "table: would be written twice; give each output its own name" in refused.stderr
    assert not table.exists()


def test_a_table_that_could_not_be_written_is_refused_before_the_work(
    pair: Pair, tmp_path: Path
) -> None:
    given = tmp_path / "none" / "t.md"
    refused = run(pair.clean, "--markdown", given, "--cache", tmp_path / "cache")
    assert refused.exit_code == 1
    assert "t.md: its folder does not exist; make it first" in refused.stderr
    assert not (tmp_path / "cache").exists()


def test_what_is_about_clean_clips_is_refused_of_a_pair(pair: Pair) -> None:
    sides = ("--reference", pair.clean, "--distorted", pair.coded, "--restored", pair.restored)
    for option in (("--max-frames", "4"), ("--spp",), ("--shipped",)):
        refused = run(*sides, *option)
        assert refused.exit_code == 2
        assert f"{option[0]} is about clean clips" in refused.stderr


@pytest.mark.parametrize("seconds", ["nan", "0", "-1"])
def test_a_buffer_that_no_encoder_has_is_refused(scene: Scene, seconds: str) -> None:
    refused = run(scene.clips["gate"], "--bufsize-seconds", seconds)
    assert refused.exit_code == 2
    assert "'--bufsize-seconds'" in refused.stderr


def test_a_pair_of_another_size_is_refused(pair: Pair, tmp_path: Path) -> None:
    small = replace(pair.clip, luma=pair.clip.luma[:, :64], chroma=pair.clip.chroma[:, :, :32])
    save_clip(pair.restored, small)
    assert "128x64" in refusal(pair, tmp_path)


def test_a_pair_of_another_length_is_refused(pair: Pair, tmp_path: Path) -> None:
    save_clip(
        pair.restored, replace(pair.clip, luma=pair.clip.luma[1:], chroma=pair.clip.chroma[1:])
    )
    assert "11 frames" in refusal(pair, tmp_path)


def test_a_pair_with_a_frame_at_another_time_is_refused(pair: Pair, tmp_path: Path) -> None:
    ticks = [*range(5), *range(6, FRAMES + 1)]  # one frame dropped, so the rest comes late
    with av.open(str(pair.restored), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=LOSSLESS)
        stream.width, stream.height, stream.time_base = WIDTH, HEIGHT, Fraction(1, 25)
        for tick, luma in zip(ticks, pair.clip.luma, strict=True):
            frame = av.VideoFrame.from_ndarray(
                np.concatenate((luma, np.full((HEIGHT // 2, WIDTH), 128, np.uint8))), "yuv420p"
            )
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "frame 5 comes at 0.240 s" in refusal(pair, tmp_path)


# The command -------------------------------------------------------------------------------------


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_imports_neither_torch_nor_av() -> None:
    code = (
        "import sys\nfrom carfilter.commands.evaluate import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'av'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--detector" in done.stdout


def test_a_cache_that_cannot_be_made_names_the_option_for_another(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused = run(scene.clips["gate"], "--no-shipped")
    assert refused.exit_code == 1
    folder = tmp_path / "file" / "carfilter" / "eval"
    assert refused.stderr.startswith(f"carfilter-eval: error: {folder}: cannot keep variants and")
    assert refused.stderr.endswith("give another folder by --cache PATH\n")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [(), ("a.mkv", "--reference", "b.mkv"), ("--reference", "b.mkv"), ("--size", "3x3")],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_bad_clip_is_reported_the_rest_is_done_and_the_exit_code_is_1(
    scene: Scene, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "broken.mkv").write_bytes(b"no video in here")
    (folder / "gate.mkv").write_bytes(scene.clips["gate"].read_bytes())

    options = ("--no-shipped", "--no-spp", "--no-vmaf", "-preset", "veryfast")
    target = tmp_path / "out.md"
    result = run(folder, *options, "--cache", scene.cache, "--markdown", target)

    assert result.exit_code == 1
    assert "broken" in result.stderr
    assert "FAILED, left out of every mean: broken" in target.read_text()
    assert "| gate | 12 | 128x96 |" in target.read_text()


def test_a_clip_whose_variants_cannot_be_kept_stops_no_other(scene: Scene) -> None:
    clips = {"long" * 60: scene.clips["street"], "gate": scene.clips["gate"]}
    done = evaluate(clips, [methods.decode()], [measures.quality()], scene.settings)
    assert [clip.name for clip in done.clips] == ["gate"]
    assert "street.mkv: its variants cannot be kept" in done.failures["long" * 60]
    assert "give the clip a shorter name" in done.failures["long" * 60]


def test_no_usable_clip_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "broken.mkv").write_bytes(b"no video in here")
    result = run(tmp_path / "broken.mkv", "--no-shipped", "--cache", tmp_path / "c")
    assert result.exit_code == 1
    assert "no clip could be measured" in result.stderr


def test_json_csv_and_markdown_tell_the_same(scene: Scene, tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    written = [argument for kind, path in paths.items() for argument in (f"--{kind}", path)]
    options = ("--no-shipped", "--no-vmaf", "-preset", "veryfast", "--paper", "--note", "A note.")

    result = run(*scene.clips.values(), *options, "--cache", scene.cache, *written)

    assert result.exit_code == 0, result.stderr
    content = json.loads(paths["json"].read_text())
    lines = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    page = paths["markdown"].read_text()
    table = next(table for table in content["tables"] if table["key"] == "psnr")
    shown = table["rows"][0][1][0]["value"]
    ours = [float(r["psnr"]) for r in lines if r["row"] == "decode" and r["crf"] == "29"]
    assert shown == pytest.approx(np.mean(ours))
    assert f"| decode | {shown:.2f} |" in page
    assert "A note." in page
    assert "CAR-CNN (paper)" in page
    assert "not tested: `car-mse`" in page
    assert str(tmp_path) not in page + paths["json"].read_text()


@pytest.mark.parametrize(
    ("codec", "encoder", "heads"),
    [
        ("hevc", "libx265 -preset veryfast", "CRF 26 | CRF 32 | CRF 38 | CRF 44"),
        ("mpeg4", "mpeg4", "q 6 | q 12 | q 20"),
        ("mjpeg", "mjpeg", "q 8 | q 15 | q 25"),
    ],
)
def test_the_tables_are_of_the_codec_that_was_asked_for(
    scene: Scene, tmp_path: Path, codec: str, encoder: str, heads: str
) -> None:
    clip, target, lines = scene.clips["gate"], tmp_path / "out.md", tmp_path / "out.csv"
    options = ("--no-shipped", "--no-vmaf", "-preset", "veryfast", "-g", 6, "--codec", codec)
    options += () if codec == "mjpeg" else ("--no-spp",)  # which takes its time
    result = run(clip, *options, "--cache", scene.cache, "--markdown", target, "--csv", lines)

    assert result.exit_code == 0, result.stderr
    page = target.read_text()
    assert f"12 frames, compressed by {encoder.split()[0]}." in page
    assert f"Variants: {encoder}, a key frame every 6, one thread, {heads.split()[0]} " in page
    assert f"## Luma PSNR, dB\n\n| row | {heads} |" in page
    assert ("spp (tuned)" in page) == (codec == "mjpeg")
    assert "spp (QP/4)" not in page  # that QP is H.264's
    rows = list(csv.DictReader(io.StringIO(lines.read_text())))
    assert {row["codec"] for row in rows} == {codec}
    shown = {row["crf"]: float(row["psnr"]) for row in rows if row["row"] == "decode"}
    videos = sorted(scene.cache.glob(f"variants/gate-*/videos/gate.{codec}-*.mp4"))
    assert len(videos) == len(shown) == heads.count("|") + 1
    for video in videos:
        with av.open(video) as opened:
            assert opened.streams.video[0].codec_context.name == codec
        step = re.findall(r"crf(\d+)", video.name)[0]
        assert shown[step] == pytest.approx(np.mean(ffmpeg_psnr(clip, video)), abs=0.01)


def test_the_papers_bars_are_not_asked_of_another_codec(scene: Scene) -> None:
    result = run(scene.clips["gate"], "--codec", "mjpeg", "--paper")
    assert result.exit_code == 2
    assert "--paper is about h264" in result.stderr
    assert run(scene.clips["gate"], "--codec", "h265").exit_code == 2


def test_a_model_that_beats_nothing_is_said_so_first(scene: Scene, tmp_path: Path) -> None:
    weights = save_model(tmp_path / "fast.pt", seed=3)
    target = tmp_path / "out.md"
    options = ("--no-shipped", "--no-vmaf", "-preset", "veryfast", "--paper")
    run(*scene.clips.values(), *options, "--weights", weights, "--cache", scene.cache,
        "--markdown", target)  # fmt: skip
    assert target.read_text().splitlines()[2].startswith("* **NOT MET**: `fast` above the decode")


def test_json_on_stdout_is_nothing_but_json(pair: Pair, tmp_path: Path) -> None:
    sides = ("--reference", pair.clean, "--distorted", pair.coded, "--restored", pair.restored)
    result = run(*sides, "--no-vmaf", "--json", "-", "--cache", tmp_path / "c")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["tables"][0]["key"] == "psnr"


def test_a_reader_of_stdout_that_leaves_costs_no_file(pair: Pair, tmp_path: Path) -> None:
    sides = ("--reference", pair.clean, "--distorted", pair.coded, "--restored", pair.restored)
    code = "from carfilter.commands.evaluate import main; main()"
    command = [sys.executable, "-c", code, *sides, "--no-vmaf", "--cache", tmp_path / "cache"]
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [*command, "--json", tmp_path / "e.json"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (run.returncode, run.stderr) == (1, "")
    assert json.loads((tmp_path / "e.json").read_text())["tables"]


def test_a_page_on_stdout_is_nothing_but_the_page(pair: Pair, tmp_path: Path) -> None:
    sides = ("--reference", pair.clean, "--distorted", pair.coded, "--restored", pair.restored)
    result = run(*sides, "--no-vmaf", "--report", "-", "--cache", tmp_path / "c")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("<!doctype html>")
    assert result.stdout.rstrip().endswith("</html>")


def test_stdout_takes_one_output(pair: Pair, tmp_path: Path) -> None:
    refused = run(pair.clean, "--csv", "-", "--report", "/dev/stdout", "--cache", tmp_path / "c")
    assert refused.exit_code == 2
    assert "--csv and --report cannot both go to stdout" in refused.stderr
    assert not (tmp_path / "c").exists()


def test_clips_scaled_after_the_encoder_are_compared_at_the_new_size(
    scene: Scene, tmp_path: Path
) -> None:
    options = ("--no-shipped", "--no-spp", "--no-vmaf", "--size", "64x48", "--scale", "after")
    target = tmp_path / "out.md"
    result = run(scene.clips["gate"], *options, "--cache", tmp_path, "--markdown", target)
    assert result.exit_code == 0, result.stderr
    assert "| gate | 12 | 64x48 |" in target.read_text()
    assert "scaled to 64x48 after the encoder" in target.read_text()


@pytest.mark.slow
def test_300_frames_of_640x360_in_twelve_variants_take_less_than_ten_minutes(
    tmp_path: Path,
) -> None:
    import time

    rng = np.random.default_rng(0)
    small = draw_clip(frames=300).luma
    luma = np.tile(small, (1, 4, 5))[:, :360, :640]
    luma = (luma + rng.integers(0, 4, luma.shape)).clip(0, 255).astype(np.uint8)
    chroma = np.full((300, 2, 180, 320), 128, np.uint8)
    source = save_clip(tmp_path / "long.mkv", Clip(luma, chroma, Fraction(25)))
    options = ("--no-shipped", "--weights", "fast", "--no-spp", "--no-vmaf", "--every-variant")

    started = time.monotonic()
    result = run(source, *options, "--cache", tmp_path / "c")

    assert result.exit_code == 0, result.stderr
    assert time.monotonic() - started < 600
