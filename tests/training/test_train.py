"""Training: crops, recipe, resume, fine-tuning, several processes; all with real steps."""

import csv
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from carfilter.commands.degrade import main as degrade_main
from carfilter.commands.train import main as train_main
from carfilter.errors import MediaError, WeightsError
from carfilter.media.clips import Clip, write_clip
from carfilter.pairs.packs import load_clean, load_twin
from carfilter.restore.network import (
    QP_UNKNOWN,
    Car,
    Fast,
    build_network,
    count_parameters,
    deepen,
    mac_per_pixel,
)
from carfilter.restore.weights import load_weights, save_weights
from carfilter.restore.window import PAST_SLOTS, REFERENCES
from carfilter.training.dataset import Pairs, Sampling, draw_crops, load_pairs
from carfilter.training.loop import Hooks, sampling_at, train
from carfilter.training.recipe import Budget, Recipe, learning_rate, loss_of, paper_recipe
from carfilter.training.state import load_state, new_state
from carfilter.training.validation import frame_of, score_network
from packs import make_packs

SMALL = Recipe(batch=4, crop=32, late_crop=48, lr=2e-3, warmup=5, tail_first=5)
CPU = torch.device("cpu")
BRIEF = ("--batch", 2, "--crop", 16, "--late-crop", 0, "--channels", 8, "--layers", 1)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of a drifting texture of 96x64 pixels at CRF 30 and 44."""
    return texture_packs(tmp_path_factory.mktemp("training"), seed=3, crfs="30,44")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another texture."""
    return texture_packs(tmp_path_factory.mktemp("valid"), seed=4, crfs="30,44")


def texture_packs(folder: Path, seed: int, crfs: str) -> Path:
    rng = np.random.default_rng(seed)
    texture = rng.integers(30, 220, (16, 40)).repeat(4, 0).repeat(4, 1)
    luma = np.stack([texture[:, t : t + 96] for t in range(8)]).astype(np.uint8)
    chroma = np.full((8, 2, 32, 48), 128, np.uint8)
    write_clip(folder / "texture.mkv", Clip(luma, chroma, Fraction(25)), {"qp": "0"})
    return make_packs(folder / "texture.mkv", crfs)


@pytest.fixture(scope="module")
def pairs(packs: Path) -> Pairs:
    return load_pairs(packs)


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(train_main, [str(argument) for argument in arguments])
    return result.exit_code, result.stderr


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_weights(path).network.state_dict()


def assert_same(first: Path, second: Path) -> None:
    one, other = weights_of(first), weights_of(second)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_crops_are_the_pixels_and_qps_of_their_place(packs: Path, pairs: Pairs) -> None:
    sampling = Sampling(crop=32, hard=0.0, qp_dropout=0.0, transpose=False)
    crops = draw_crops(pairs, 16, sampling, np.random.default_rng(0))
    clean, _ = load_clean(packs / "texture.clean.npz")
    twins = [load_twin(packs / f"texture.crf{crf}.npz", clean) for crf in (30, 44)]
    assert crops.clean.shape == crops.degraded.shape == crops.qp.shape == (16, 1, 32, 32)
    for index in range(16):
        wanted = (crops.degraded[index, 0] * 128 + 128).numpy()
        matches = [
            (twin, time, top, left, mirror)
            for twin in twins
            for time in range(8)
            for top in (0, 16, 32)
            for left in (0, 16, 32, 48, 64)
            for mirror in (1, -1)
            if np.array_equal(
                twin.luma[time, top : top + 32, left : left + 32][:, ::mirror], wanted
            )
        ]
        assert matches, "a crop lies off the 16-pixel grid or mixes planes"
        twin, time, top, left, mirror = matches[0]
        there = clean[time, top : top + 32, left : left + 32][:, ::mirror]
        assert np.array_equal((crops.clean[index, 0] * 128 + 128).numpy(), there)
        qp = twin.qp[time, top // 16 : top // 16 + 2, left // 16 : left // 16 + 2]
        expected = qp.repeat(16, 0).repeat(16, 1)[:, ::mirror] / np.float32(51)
        assert np.allclose(crops.qp[index, 0].numpy(), expected)


def test_qp_maps_turn_with_their_crops(pairs: Pairs) -> None:
    """Put each pixel's own QP into its luma; then any turn must leave the two equal."""
    shot = pairs.shots[0]
    size = int(shot["frames"] * shot["height"] * shot["width"])
    planes = [frame_of(pairs, shot, time).qp for time in range(int(shot["frames"]))]
    luma = pairs.luma.clone()
    qp = (torch.stack(planes) * 51).round().to(torch.uint8).flatten()
    luma[shot["degraded"] : shot["degraded"] + size] = qp
    marked = replace(pairs, luma=luma, shots=pairs.shots[:1], about=pairs.about[:1])
    crops = draw_crops(marked, 64, Sampling(32, 0.5, 0.0), np.random.default_rng(1))
    assert torch.equal((crops.degraded * 128 + 128).round(), (crops.qp * 51).round())


def test_qp_dropout_withholds_whole_maps(pairs: Pairs) -> None:
    crops = draw_crops(pairs, 400, Sampling(16, 0.0, 0.2), np.random.default_rng(1))
    unknown = (crops.qp == QP_UNKNOWN).flatten(1)
    assert torch.equal(unknown.any(1), unknown.all(1))
    assert 0.12 < unknown.all(1).float().mean() < 0.28


@pytest.mark.parametrize("window", ["mixed", "past", "whole"])
def test_a_network_for_past_frames_alone_is_trained_with_no_later_ones(
    pairs: Pairs, window: str
) -> None:
    recipe = Recipe(model="best", window=window, crop=32, batch=64)
    sampling = replace(sampling_at(recipe, 0, 0.0)[1], strange=0.0)
    crops = draw_crops(pairs, 300, sampling, np.random.default_rng(1))
    assert crops.references is not None
    seen = ((crops.references - crops.degraded) != 0).flatten(2).any(2).float().mean(0)
    later = [slot for slot in range(REFERENCES) if slot not in PAST_SLOTS]
    assert (seen[later] == 0).all() == (window == "past")
    assert seen[REFERENCES - 2] > (0.8 if window != "mixed" else 0.5)  # the one before


def test_hard_crops_have_more_error_than_uniform_ones(pairs: Pairs) -> None:
    def mean_error(hard: float) -> float:
        crops = draw_crops(pairs, 400, Sampling(16, hard, 0.0), np.random.default_rng(1))
        return float((crops.clean - crops.degraded).square().mean())

    assert mean_error(1.0) > 1.05 * mean_error(0.0)


def test_crops_larger_than_every_clip_are_refused(pairs: Pairs) -> None:
    with pytest.raises(MediaError, match="no clip is as large as a crop of 128x128"):
        draw_crops(pairs, 2, Sampling(128), np.random.default_rng(0))


def test_learning_rate_warms_up_and_follows_the_budget() -> None:
    recipe = Recipe(lr=1e-3, warmup=10, tail_first=0, final_lr=0.0)
    assert learning_rate(recipe, 0, 0.0) == pytest.approx(1e-4)
    assert learning_rate(recipe, 100, 0.5) == pytest.approx(5e-4)
    assert learning_rate(recipe, 100, 1.0) == pytest.approx(0.0)
    # Half of one hour is a quarter of two: the larger budget's cosine stands higher there.
    hour, two = Budget(seconds=3600), Budget(seconds=7200)
    assert learning_rate(recipe, 100, two.progress(100, 1800)) > learning_rate(
        recipe, 100, hour.progress(100, 1800)
    )


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = paper_recipe()
    assert (recipe.model, recipe.loss, recipe.alpha) == ("car", "both", 0.79)
    assert (recipe.batch, recipe.crop, recipe.late_crop, recipe.lr) == (128, 64, None, 1e-4)
    assert recipe.betas[0] == 0.9
    assert learning_rate(recipe, 0, 0.0) == learning_rate(recipe, 10**6, 0.9) == 1e-4


@pytest.mark.parametrize("loss", ["mse", "ssim", "both", "charbonnier"])
def test_every_loss_is_least_at_the_clean_picture(pairs: Pairs, loss: str) -> None:
    crops = draw_crops(pairs, 4, Sampling(32, 0.0), np.random.default_rng(0))
    recipe = Recipe(loss=loss)
    best = loss_of(recipe, crops.clean, crops.clean, crops.error, 10**6)
    worse = loss_of(recipe, crops.degraded, crops.clean, crops.error, 10**6)
    assert float(best) < 1e-3 < float(worse)


def test_mse_loss_is_in_units_of_the_unit_range() -> None:
    clean = torch.zeros(1, 1, 16, 16)
    recipe = Recipe(loss="mse", balance=0.0)
    loss = loss_of(recipe, clean + 2 / 128, clean, torch.ones(1), 0)
    assert float(loss) == pytest.approx((2 / 255) ** 2)


def test_a_crop_that_went_wild_does_not_take_the_step_for_itself() -> None:
    clean = torch.zeros(2, 1, 16, 16)
    error = torch.full((2,), 10.0)
    slopes = []
    for levels in (4.0, 400.0):
        restored = clean.clone().requires_grad_()
        off = restored + torch.tensor([2.0, levels]).view(2, 1, 1, 1) / 128
        loss_of(Recipe(balance=1.0), off, clean, error, 10**6).backward()
        assert restored.grad is not None
        slopes.append(restored.grad.abs().sum((1, 2, 3)))
    assert torch.equal(slopes[0][0], slopes[1][0])
    assert slopes[1][1] < slopes[0][1]


def test_activations_that_ran_away_are_brought_back(pairs: Pairs, tmp_path: Path) -> None:
    network = Fast()
    with torch.no_grad():
        network.body[2].bias[:4] = 8 * network.config.ceiling
    recipe = Recipe(batch=2, crop=32, late_crop=None, tail_first=0, warmup=0)
    state = new_state(recipe, torch.device("cpu"), network)
    train(pairs, tmp_path / "m.pt", recipe, Budget(steps=5), state)
    assert (state.network.body[2].bias[:4] < 8 * network.config.ceiling).all()


def test_pairs_show_one_place_in_frames_that_follow_each_other(pairs: Pairs) -> None:
    """Put each frame's time into its luma; then the halves of a batch must differ by one."""
    luma = pairs.luma.clone()
    for shot in pairs.shots:
        for at in range(int(shot["frames"])):
            size = int(shot["height"] * shot["width"])
            start = int(shot["degraded"]) + at * size
            places = torch.arange(size) % 16  # tells places apart, whatever the time
            luma[start : start + size] = (places * 8 + at).to(torch.uint8)
    marked = replace(pairs, luma=luma)
    sampling = Sampling(32, neighbours=True, references=True)
    crops = draw_crops(marked, 64, sampling, np.random.default_rng(1))
    before, after = (crops.degraded * 128 + 128).round().chunk(2)
    assert torch.equal(after, before + 1)


def test_unchanged_macroblocks_are_trained_with_the_qp_of_their_last_change(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(3)
    luma = rng.integers(30, 220, (20, 24)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    luma = np.stack([luma] * 8)
    for at in range(8):  # a bar runs down the right edge, all else keeps still
        luma[at, at * 8 : at * 8 + 16, 80:] = 250
    chroma = np.full((8, 2, 40, 48), 128, np.uint8)
    write_clip(tmp_path / "bar.mkv", Clip(luma, chroma, Fraction(25)), {"qp": "0"})
    arguments = [str(tmp_path / "bar.mkv"), str(tmp_path / "out"), "--variants", "plain"]
    assert CliRunner().invoke(degrade_main, [*arguments, "-crf", "35"]).exit_code == 0
    packs = tmp_path / "out" / "packs"
    clean, _ = load_clean(packs / "bar.clean.npz")
    twin, pairs = load_twin(packs / "bar.crf35.npz", clean), load_pairs(packs)
    held = [frame_of(pairs, pairs.shots[0], at).qp[::16, ::16] * 51 for at in range(8)]
    kept = 0
    for at in range(1, 8):
        for row, column in np.ndindex(twin.qp.shape[1:]):
            block = np.s_[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            same = np.array_equal(twin.luma[at][block], twin.luma[at - 1][block])
            wanted = float(held[at - 1][row, column] if same else twin.qp[at, row, column])
            assert float(held[at][row, column]) == pytest.approx(wanted, abs=1e-3)
            kept += same and abs(wanted - twin.qp[at, row, column]) > 0.5
    assert kept, "no QP of an unchanged macroblock differs here: nothing was tried"


def test_flicker_counts_where_the_clean_picture_keeps_still() -> None:
    clean = torch.zeros(2, 1, 16, 16)
    restored = clean.clone()
    restored[1, :, :8] = 4 / 128  # half of the picture jumps by four levels
    recipe = Recipe(balance=0.0, flicker=0.5)
    error = torch.ones(2)
    without = loss_of(replace(recipe, flicker=0.0), restored, clean, error, 0)
    assert float(loss_of(recipe, restored, clean, error, 0) - without) == pytest.approx(0.5 * 2)
    moving = clean.clone()
    moving[1, :, :8] = 4 / 128  # as the clean one does
    assert float(loss_of(recipe, restored, moving, error, 0)) == 0.0
    moving[1, :, :8] = 40 / 128  # motion, however it is restored, is no flicker
    without = loss_of(replace(recipe, flicker=0.0), restored, moving, error, 0)
    assert float(loss_of(recipe, restored, moving, error, 0)) == float(without)


def test_training_gains_on_what_it_was_trained_with(pairs: Pairs, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = new_state(SMALL, CPU)
    assert train(pairs, tmp_path / "a.pt", SMALL, Budget(steps=100), state)
    model = load_weights(tmp_path / "a.pt")
    gain = {s.crf: s.psnr_gain for s in score_network(model.network, pairs)}
    assert gain[44] > 0.5
    assert gain[30] > -0.02
    assert model.training["steps"] == 100


def test_resumed_training_ends_bit_equal_to_an_uninterrupted_one(
    packs: Path, tmp_path: Path
) -> None:
    common = ("--batch", 4, "--crop", 32, "--late-crop", 48, "--warmup", 3)
    whole = tmp_path / "whole.pt"
    assert invoke(packs, whole, "--steps", 12, *common) == (0, f"wrote {whole}\n")
    # A run that is cut off in step 7 of the same budget, and goes on.
    recipe = Recipe(batch=4, crop=32, late_crop=48, warmup=3)
    pairs, state = load_pairs(packs), new_state(recipe, CPU)

    def after_seven() -> bool:
        return state.step == 7

    out = tmp_path / "parts.pt"
    assert not train(pairs, out, recipe, Budget(steps=12), state, Hooks(stop=after_seven))
    assert load_state(tmp_path / "parts.state.pt", recipe, CPU).step == 7
    assert invoke(packs, out, "--steps", 12, *common, "--resume") == (0, f"wrote {out}\n")
    assert_same(tmp_path / "whole.pt", out)
    whole, parts = (
        torch.load(tmp_path / f"{name}.state.pt", weights_only=True) for name in ("whole", "parts")
    )
    for key in ("network", "average"):
        for name in whole[key]:
            assert torch.equal(whole[key][name], parts[key][name])


def test_a_resume_with_another_recipe_is_refused(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    common = (packs, out, "--batch", 2, "--crop", 32, "--late-crop", 0)
    assert invoke(*common, "--steps", 1)[0] == 0
    code, message = invoke(*common, "--steps", 2, "--resume", "--lr", 0.1)
    assert code == 1
    assert re.match(r"carfilter-train: error: .*a\.state\.pt: trained with another lr;", message)


def test_damaged_and_missing_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.state.pt"
    with pytest.raises(WeightsError, match="no training state"):
        load_state(path, SMALL, CPU)
    path.write_bytes(b"nothing of ours")
    with pytest.raises(WeightsError, match="damaged or not a training state"):
        load_state(path, SMALL, CPU)


def test_existing_models_are_not_overwritten_without_being_asked(
    packs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.pt"
    save_weights(out, build_network("fast"))
    code, message = invoke(packs, out, "--steps", 1)
    assert code == 1
    assert "give --resume" in message


@pytest.mark.parametrize("ending", ["csv", "scores.csv", "state.pt", "png"])
def test_a_file_that_is_no_earlier_runs_is_not_replaced_without_being_asked(
    packs: Path, tmp_path: Path, ending: str
) -> None:
    foreign, out = tmp_path / f"a.{ending}", tmp_path / "a.pt"
    foreign.write_text("step,my\n1,precious\n")
    small = ("--steps", 1, "--batch", 2, "--crop", 16, "--late-crop", 0)
    code, message = invoke(packs, out, *small)
    assert code == 1
    assert message == (
        f"carfilter-train: error: {foreign}: exists, and training a.pt would replace it; give OUT"
        " another name, or -y to replace it\n"
    )
    assert foreign.read_text() == "step,my\n1,precious\n"
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]
    assert invoke(packs, out, *small, "-y") == (0, f"wrote {out}\n")


@pytest.mark.parametrize(
    "content", ["camera,place\n1,gate\n", "step,my\n1,precious\n", "camera,place\n", "\0"]
)
def test_a_foreign_course_is_neither_continued_nor_lost(
    packs: Path, tmp_path: Path, content: str
) -> None:
    foreign, out = tmp_path / "a.csv", tmp_path / "a.pt"
    small = ("--batch", 2, "--crop", 16, "--late-crop", 0)
    assert invoke(packs, out, "--steps", 1, *small)[0] == 0
    curve = (tmp_path / "a.png").read_bytes()
    foreign.write_text(content)
    code, message = invoke(packs, out, "--steps", 2, *small, "--resume")
    assert code == 1
    assert message.endswith("a.csv: is not the course of this training; move it away to go on\n")
    assert message.count("\n") == 1
    assert foreign.read_text() == content
    assert (tmp_path / "a.png").read_bytes() == curve
    foreign.rename(tmp_path / "cams.csv")
    assert invoke(packs, out, "--steps", 2, *small, "--resume") == (0, f"wrote {out}\n")


def test_a_course_with_rows_longer_than_its_header_goes_on(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    assert invoke(packs, out, *BRIEF, "--steps", 1)[0] == 0
    course = out.with_suffix(".csv")
    course.write_text(course.read_text().rstrip() + ",a note\n")
    assert invoke(packs, out, *BRIEF, "--steps", 2, "--resume") == (0, f"wrote {out}\n")


def test_a_pipe_holds_no_model_and_stays_a_pipe(packs: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    code, message = invoke(packs, tmp_path / "a.pt", "--steps", 1, "-y")
    assert code == 1
    assert "a.pt: is no file, and a training reads OUT again; name a file" in message
    assert stat.S_ISFIFO((tmp_path / "a.pt").stat().st_mode)


def test_stdout_holds_no_model(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = invoke(packs, "-", "--steps", 1)
    assert code == 1
    assert "-: is no file, and a training reads OUT again; name a file" in message
    assert not [*tmp_path.glob("-*")]


def test_fine_tuning_starts_from_the_given_weights(packs: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    save_weights(tmp_path / "start.pt", build_network("fast"))
    out = tmp_path / "tuned.pt"
    small = ("--batch", 2, "--crop", 32, "--late-crop", 0)
    options = ("--init", tmp_path / "start.pt", "--lr", 1e-9, *small)
    assert invoke(packs, out, "--steps", 1, *options) == (0, f"wrote {out}\n")
    # Channels are scaled for int8 at the end, which leaves what the network computes.
    start, tuned = load_weights(tmp_path / "start.pt").network, load_weights(out).network
    luma = torch.rand(1, 1, 64, 64) * 2 - 1
    assert (tuned(luma) - start(luma)).abs().max() < 0.01 * start(luma).abs().max()


def test_clean_footage_becomes_pairs_and_fine_tunes_in_one_command(
    packs: Path, tmp_path: Path
) -> None:
    footage, out = tmp_path / "footage", tmp_path / "mine.pt"
    footage.mkdir()
    shutil.copy(packs.parent.parent / "texture.mkv", footage)
    torch.manual_seed(0)
    save_weights(tmp_path / "start.pt", build_network("fast"))
    options = ("--init", tmp_path / "start.pt", "--batch", 2, "--crop", 16, "--late-crop", 0)
    assert invoke(footage, out, "--steps", 1, *options)[0] == 0
    assert load_weights(out).training["steps"] == 1
    made = tmp_path / "mine.pairs" / "packs"
    assert len(list(made.glob("*.npz"))) == 9
    first = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert invoke(footage, out, "--steps", 2, "--resume", *options)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == first
    shutil.copy(packs.parent.parent / "texture.mkv", footage / "another.mkv")
    assert invoke(footage, out, "--steps", 3, "--resume", *options)[0] == 0
    assert len(list(made.glob("*.npz"))) == 18


def test_pairs_of_the_users_own_are_not_replaced(packs: Path, tmp_path: Path) -> None:
    footage, own, out = tmp_path / "footage", tmp_path / "mine.pairs", tmp_path / "mine.pt"
    footage.mkdir()
    shutil.copy(packs.parent.parent / "texture.mkv", footage)
    arguments = [str(footage), str(own), "--variants", "plain", "-crf", "35"]
    assert CliRunner().invoke(degrade_main, arguments).exit_code == 0
    options = ("--steps", 1, "--batch", 2, "--crop", 16, "--late-crop", 0)
    code, message = invoke(footage, out, *options)
    assert code == 1
    assert "mine.pairs: holds pairs that were made otherwise; give OUT another name" in message
    assert (own / "packs/texture.crf35.npz").exists()
    assert invoke(own, out, *options)[0] == 0


def test_pairs_are_made_again_of_clips_that_were_replaced_or_removed(
    packs: Path, tmp_path: Path
) -> None:
    footage = tmp_path / "footage"
    out = footage / "mine.pt"  # so that the pairs lie in the folder of the clips
    made = footage / "mine.pairs" / "packs"
    footage.mkdir()
    texture = packs.parent.parent / "texture.mkv"
    shutil.copy(texture, footage / "a.mkv")
    shutil.copy(texture, footage / "b.mkv")
    options = ("--steps", 1, "--batch", 2, "--crop", 16, "--late-crop", 0)
    assert invoke(footage, out, *options)[0] == 0
    assert {path.name[0] for path in made.iterdir()} == {"a", "b"}
    luma = np.full((3, 48, 48), 90, np.uint8)
    gray = np.full((3, 2, 24, 24), 128, np.uint8)
    write_clip(footage / "a.mkv", Clip(luma, gray, Fraction(25)), {"qp": "0"})
    (footage / "b.mkv").unlink()
    assert invoke(footage, out, *options, "-y")[0] == 0
    assert {path.name[0] for path in made.iterdir()} == {"a"}
    assert np.array_equal(load_clean(made / "a.clean.npz")[0], luma)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no budget"),
        (("--steps", 1, "--minutes", 1), "two budgets"),
        (("--steps", 1, "--crop", 40), "not a multiple of 16"),
        (
            ("--steps", 9),
            "--late-crop 96: no clip is as large as a crop of 96x96; give --late-crop 64 or less",
        ),
        (
            ("--steps", 9, "--crop", 80),
            "--crop 80: no clip is as large as a crop of 80x80; give --crop and --late-crop 64 or"
            " less",
        ),
        (("--steps", 1, "--device", "gpu"), "--device gpu: unknown; give auto"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(
    packs: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, said = invoke(packs, tmp_path / "a.pt", *options)
    assert code == 1
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--score-only", "--every", 0), "'--every': 0 is not in the range x>=1"),
        (("--score-only", "--every", -2), "'--every': -2 is not in the range x>=1"),
        (("--steps", 1, "--lr", "nan"), "'--lr': 'nan' is no finite number"),
        (("--minutes", "nan"), "'--minutes': 'nan' is no finite number"),
        (("--minutes", "inf"), "'--minutes': 'inf' is no finite number"),
        (("--steps", 1, "--save-minutes", -1), "'--save-minutes': -1.0 is not in the range x>=0"),
    ],
)
def test_numbers_that_no_training_has_are_refused_by_the_name_of_the_option(
    packs: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    code, message = invoke(packs, tmp_path / "a.pt", *options)
    assert code == 2
    assert said in message


def test_a_time_budget_ends_and_leaves_model_log_and_curve(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    options = ("--minutes", 0.1, "--batch", 2, "--crop", 16, "--late-crop", 0, "--threads", 1)
    began = time.monotonic()
    assert invoke(packs, out, *options)[0] == 0
    assert time.monotonic() - began < 18
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert steps[:-1] == [100 * (n + 1) for n in range(len(rows) - 1)]
    assert steps[-1] == load_weights(out).training["steps"]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_run_keeps_its_validation_scores_in_the_model(
    packs: Path, valid: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.pt"
    options = ("--steps", 2, "--batch", 2, "--crop", 16, "--late-crop", 0, "--valid", valid)
    code, said = invoke(packs, out, *options)
    assert code == 0
    assert "qp_44" in said
    scores = load_weights(out).scores
    assert {"step", "qp_30", "qp_44", "blind_30_min"} <= set(scores)
    assert len(load_weights(out).int8_ranges or []) == 7  # one to each ReLU layer of fast
    result = CliRunner().invoke(train_main, [str(packs), str(out), "--score-only"])
    assert result.exit_code == 0
    assert "QP known" in result.stdout
    assert "QP unknown" in result.stdout


def test_clips_that_are_trained_on_are_no_validation(packs: Path, tmp_path: Path) -> None:
    """Pictures count, and not names: a copy elsewhere, and a folder within the other."""
    copy = shutil.copytree(packs, tmp_path / "copy")
    for valid in (packs, copy):
        code, message = invoke(packs, tmp_path / "a.pt", *BRIEF, "--steps", 1, "--valid", valid)
        assert code == 1
        assert f"{valid}: texture is trained on as well" in message
        assert not (tmp_path / "a.pt").exists()


def test_a_resumed_run_may_be_scored_on_other_clips(
    packs: Path, valid: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "a.pt", texture_packs(tmp_path, seed=5, crfs="36")
    assert invoke(packs, out, *BRIEF, "--steps", 2, "--valid", valid)[0] == 0
    assert invoke(packs, out, *BRIEF, "--steps", 4, "--valid", other, "--resume")[0] == 0
    with out.with_suffix(".scores.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["qp_36"], second["qp_30"]) == ("", "")
    assert first["qp_30"]
    assert second["qp_36"]
    assert out.with_suffix(".png").exists()


def test_a_run_that_diverges_costs_nothing_that_was_saved(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    assert invoke(packs, out, *BRIEF, "--steps", 2)[0] == 0
    good = weights_of(out)
    wild = ("--steps", 90, "--lr", 2e4, "--warmup", 0, "--save-minutes", 0, "--init", out)
    code, message = invoke(packs, tmp_path / "b.pt", *BRIEF, *wild)
    assert code == 1
    assert "the loss is no number any more; give a lower --lr, anew or to --init" in message
    for name in ("a.pt", "b.pt"):
        assert all(bool(w.isfinite().all()) for w in weights_of(tmp_path / name).values())
    again = ("--steps", 2, "--init", tmp_path / "b.pt", "--lr", 1e-5)
    assert invoke(packs, tmp_path / "c.pt", *BRIEF, *again)[0] == 0
    assert good.keys() == weights_of(tmp_path / "c.pt").keys()


def test_starting_over_leaves_no_state_of_the_run_before(packs: Path, tmp_path: Path) -> None:
    """A kill before the first save would let --resume go on with that run."""
    out = tmp_path / "a.pt"
    assert invoke(packs, out, *BRIEF, "--steps", 2)[0] == 0
    wild = ("--steps", 9, "--lr", 1e38, "--warmup", 0)
    assert invoke(packs, out, *BRIEF, *wild, "-y")[0] == 1
    code, message = invoke(packs, out, *BRIEF, "--steps", 4, "--resume")
    assert code == 1
    assert "no training state; start without --resume" in message


@pytest.mark.parametrize("ending", [".png", ".csv"])
def test_a_model_is_not_called_as_its_course_is(packs: Path, tmp_path: Path, ending: str) -> None:
    code, message = invoke(packs, tmp_path / f"a{ending}", *BRIEF, "--steps", 1)
    assert code == 1
    assert "its course would be called so; name it OUT.pt" in message
    assert not list(tmp_path.iterdir())


def test_scores_of_codecs_on_other_scales_are_not_averaged(packs: Path, tmp_path: Path) -> None:
    clip, other = packs.parent.parent / "texture.mkv", tmp_path / "hevc"
    options = ["--variants", "plain", "--codec", "h264,hevc", "-crf", "30"]
    assert CliRunner().invoke(degrade_main, [str(clip), str(other), *options]).exit_code == 0
    save_weights(tmp_path / "a.pt", build_network("fast", {"channels": 4, "body": 1}))
    command = [str(other), str(tmp_path / "a.pt"), "--score-only", "--every", "4"]
    result = CliRunner().invoke(train_main, command)
    assert result.exit_code == 0, result.stderr
    shown = re.findall(r"^\W+((?:hevc )?30)\W", result.stdout, re.MULTILINE)
    assert shown == ["30", "hevc 30"] * 2  # with and without QP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_saves_and_says_by_what(
    packs: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "a.pt"
    code = "from carfilter.commands.train import main; main()"
    small = ("--batch", "2", "--crop", "16", "--late-crop", "0")
    options = ("--steps", "1000000", *small, "--threads", "1")
    command = [sys.executable, "-c", code, str(packs), str(out), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "a.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted" in message
    assert load_weights(out).training["steps"] >= 100
    assert (tmp_path / "a.state.pt").exists()


@pytest.mark.parametrize("command", ["degrade", "train"])
def test_help_starts_without_torch_and_av(command: str) -> None:
    code = (
        f"import sys; from carfilter.commands.{command} import main\n"
        f"try: main(['--help'])\n"
        "finally: print('loaded', {'torch', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout
    assert "loaded set()" in done.stdout


@pytest.mark.slow
def test_two_processes_train_one_model(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    code = tmp_path / "run.py"
    code.write_text("from carfilter.commands.train import main\nmain()\n")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ("--steps", "110", "--batch", "4", "--crop", "16", "--late-crop", "0")
    command = [sys.executable, *launcher, str(code), str(packs), str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert load_weights(out).training["steps"] == 110
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["100", "110"]


def test_the_model_table_names_the_committed_files() -> None:
    models = Path(__file__).parents[2] / "models"
    table = (models / "README.md").read_text()
    for path in models.glob("*.pt"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{path.name}`"))
        network = load_weights(path).network
        assert hashlib.sha256(path.read_bytes()).hexdigest() in row
        assert f"{count_parameters(network):,}" in row
        assert f"{mac_per_pixel(network) / 1000:.1f}" in row


def test_a_wider_network_is_one_option_away(packs: Path, tmp_path: Path) -> None:
    out = tmp_path / "wide.pt"
    model = ("--model", "best", "--channels", 8, "--device", "cpu")
    common = (*model, "--steps", 2, "--crop", 32, "--late-crop", 0, "--batch", 2)
    code, text = invoke(packs, out, *common)
    assert code == 0, text
    network = load_weights(out).network
    assert (network.name, network.config.channels) == ("best", 8)
    code, text = invoke(packs, out, "-y", "--init", out, *common, "--channels", 16)
    assert code == 1
    assert "has 8 channels, which --channels only makes fewer" in text


def test_car_grows_deeper_from_weights_that_it_keeps(packs: Path, tmp_path: Path) -> None:
    shallow, deep = tmp_path / "shallow.pt", tmp_path / "deep.pt"
    common = ("--model", "car", "--crop", 32, "--late-crop", 0, "--batch", 2, "--device", "cpu")
    code, text = invoke(packs, shallow, *common, "--blocks", 1, "--steps", 3)
    assert code == 0, text
    code, text = invoke(packs, deep, *common, "--blocks", 3, "--steps", 1, "--lr", 1e-9,
                        "--init", shallow)  # fmt: skip
    assert code == 0, text
    before, after = load_weights(shallow).network, load_weights(deep).network
    assert isinstance(before, Car)
    assert isinstance(after, Car)
    assert (before.config.blocks, after.config.blocks) == (1, 3)
    luma = torch.rand(1, 1, 40, 48) * 2 - 1
    torch.testing.assert_close(after(luma), before(luma))
    assert deepen(before, 2).blocks[1].second.weight.count_nonzero() == 0
    for wrong, said in (
        (("--model", "car", "--blocks", 2, "--init", deep), "3 blocks cannot become 2"),
        (("--model", "fast", "--blocks", 2), "--blocks is for car"),
        (("--model", "fast", "--window", "past"), "--window is for best"),
    ):
        code, text = invoke(packs, tmp_path / "wrong.pt", *wrong, "--steps", 1, "--device", "cpu")
        assert code == 1
        assert said in text
