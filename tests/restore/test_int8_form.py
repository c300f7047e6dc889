"""A checkpoint's int8 form: taken by numpy alone where it was made of those very weights."""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carfilter.pictures import Picture
from carfilter.restore.int8.quantised import ENTRY, drawn, read_quantised
from carfilter.restore.int8.rows import open_rows
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import find_weights, load_weights, save_weights

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import fails
from carfilter.commands.restore import main
main()
"""


def repacked(path: Path, source: Path, entry: bytes | None) -> Path:
    """Copy a checkpoint with another int8 form, or none."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(ENTRY):
                if entry is None:
                    continue
                content = entry
            new.writestr(name, content)
    return path


def entry_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ENTRY))
        return archive.read(name)


@pytest.mark.parametrize("name", ["best", "fast"])
def test_the_models_for_cpus_are_shipped_with_their_int8_form(name: str) -> None:
    assert load_weights(name).is_ready, f"python -m carfilter.restore.int8 models/{name}.pt"


@pytest.mark.parametrize("more", [["--weights", "best"], ["--strength", "0"]])
def test_int8_on_a_cpu_and_passing_through_need_no_torch(tmp_path: Path, more: list[str]) -> None:
    form = load_weights("best").int8
    if form is None or open_rows(form) is None:
        pytest.skip("rows.c is not compiled for this CPU")
    sample = Path(__file__).parents[2] / "samples" / "plaza.mp4"
    out = tmp_path / "out.mkv"
    given = [str(sample), str(out), "--device", "cpu", "-t", "0.5", *more]
    command = [sys.executable, "-c", WITHOUT_TORCH, *given]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert out.exists()


def test_the_form_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model, path = load_weights("fast"), tmp_path / "mine.pt"
    save_weights(path, model.network, model.training, model.scores, model.int8_ranges)
    mine = load_weights(path)
    assert mine.is_ready
    assert mine.scores == model.scores
    shipped, saved = model.int8, mine.int8
    assert shipped is not None
    assert saved is not None
    for before, after in zip(shipped.layers, saved.layers, strict=True):
        assert np.array_equal(before.weight, after.weight)
    assert torch.equal(mine.network.head.weight, model.network.head.weight)


def foreign(content: bytes) -> bytes:
    """Of other weights: its SHA-256 is that of another file."""
    at = content.index(b'\\"of\\": \\"') + 11
    return content[:at] + (b"0" if content[at : at + 1] != b"0" else b"1") + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: None,
        foreign,
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'"I8"', b'"F32"'),
        lambda content: content.replace(b"[48, 5, 3, 3]", b"[48, 3, 5, 3]"),
        lambda content: content.replace(b"carfilter-int8-1", b"carfilter-int8-2"),
        lambda _: b"",
    ],
)
def test_a_form_that_does_not_fit_is_made_anew_by_torch(tmp_path: Path, damage: object) -> None:
    source = find_weights("fast")
    path = repacked(tmp_path / "mine.pt", source, damage(entry_of(source)))  # type: ignore[operator]
    assert not read_quantised(path)
    assert torch.equal(
        load_weights(path).network.head.weight, load_weights("fast").network.head.weight
    )


def test_other_weights_with_a_form_of_these_are_not_mixed(tmp_path: Path) -> None:
    network = load_weights("fast").network
    with torch.no_grad():
        network.tail.bias += 0.01
    plain = tmp_path / "plain.pt"
    save_weights(plain, network)
    with zipfile.ZipFile(plain, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{ENTRY}", entry_of(find_weights("fast")))
    assert not load_weights(plain).is_ready


def test_what_a_drawn_picture_gives_is_compared_before_footage_is_touched() -> None:
    form = load_weights("fast").int8
    assert form is not None
    assert open_rows(replace(form, drawn="0" * 64)) is None


@pytest.mark.parametrize("references", [0, 6])
def test_the_drawn_picture_asks_for_all_that_a_network_takes(references: int) -> None:
    picture = drawn(references)
    assert picture.qp is not None
    assert {-1, 51} <= set(picture.qp.ravel().tolist())
    assert len(picture.references) == references
    assert picture.luma.std() > 10


def test_checkpoints_of_earlier_versions_go_through_torch(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    path = repacked(tmp_path / "old.pt", find_weights("fast"), None)
    luma = rng.integers(0, 256, (48, 64), dtype=np.uint8)
    cpu = RestoreOptions("cpu")
    old, new = (Restorer(load_weights(name), cpu, (48, 64)) for name in (path, "fast"))
    assert old.describe() == new.describe()
    before, after = (next(each.restore([Picture(luma)])).astype(int) for each in (old, new))
    assert np.abs(before - after).max() <= 1


def test_a_folder_of_models_is_packed_by_one_line(tmp_path: Path) -> None:
    path = repacked(tmp_path / "mine.pt", find_weights("fast"), None)
    car = shutil.copy(find_weights("car"), tmp_path)
    command = [sys.executable, "-m", "carfilter.restore.int8", str(path), str(car)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "mine.pt: has its int8 form" in said
    assert "car.pt: has no int8 form" in said
    assert load_weights(path).is_ready
