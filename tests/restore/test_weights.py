"""Checkpoints survive the round trip; whatever is none of ours gets one clear sentence."""

import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from carfilter.errors import WeightsError
from carfilter.restore.network import Fast, FastConfig, build_network
from carfilter.restore.weights import find_weights, load_weights, save_weights, shipped_models
from carfilter.training.recipe import Recipe
from carfilter.training.state import load_state, new_state, save_state


class Bomb:
    """A pickle that runs code when it is loaded by a careless program."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def small() -> Fast:
    return Fast(FastConfig(channels=16, body=2))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path, ending: str) -> None:
    network, path = small().half().float(), tmp_path / f"mine{ending}"  # as they are stored
    save_weights(path, network, {"steps": 3, "loss": "mse"}, {"35": 0.31})
    model = load_weights(path)
    assert model.name == "mine"
    assert model.training == {"steps": 3, "loss": "mse"}
    assert model.scores == {"35": 0.31}
    picture = torch.rand(1, 1, 8, 8)
    assert torch.equal(model.network(picture), network(picture))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weights_take_two_bytes_each_and_are_read_in_full_precision(
    tmp_path: Path, ending: str
) -> None:
    network, path = Fast(FastConfig()), tmp_path / f"mine{ending}"
    save_weights(path, network)
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters())
    read = load_weights(path).network
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert torch.allclose(read.head.weight, network.head.weight, rtol=1e-3, atol=1e-6)
    assert network.head.weight.dtype == torch.float32  # the one that was saved stays as it is


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_hostile_pickle_is_refused_and_never_runs(tmp_path: Path, in_zip: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    if in_zip:
        torch.save({"format": "carfilter-1", "weights": Bomb(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(WeightsError, match="pickled code"):
        load_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"cut{ending}"
    save_weights(path, small())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=r"damaged|not a"):
        load_weights(path)


def test_a_foreign_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(WeightsError, match="not a carfilter checkpoint"):
        load_weights(path)


def test_weights_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.pt"
    save_weights(path, small())
    about = torch.load(path, weights_only=True)
    about["config"]["channels"] = 32
    torch.save(about, path)
    with pytest.raises(WeightsError, match="do not fit"):
        load_weights(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network": "transformer"}, "does not know"),
        ({"config": {"depth": 3}}, "does not know"),
        ({"weights": {"head.weight": "text"}}, "missing"),
    ],
)
def test_an_unknown_network_or_damaged_field_is_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    path = tmp_path / "new.pt"
    save_weights(path, small())
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(WeightsError, match=sentence):
        load_weights(path)


@pytest.mark.parametrize(
    "config",
    [
        {"channels": 1 << 40},
        {"body": 1 << 40},
        {"body": 0},
        {"factor": -1},
        {"quiet_qp": float("nan")},
        {"quiet_qp": 40.0, "full_qp": 40.0},
    ],
)
def test_a_config_without_bounds_is_refused_at_once(
    tmp_path: Path, config: dict[str, float]
) -> None:
    path = tmp_path / "vast.pt"
    save_weights(path, small())
    content = torch.load(path, weights_only=True)
    torch.save({**content, "config": {**content["config"], **config}}, path)
    with pytest.raises(WeightsError, match="does not know"):
        load_weights(path)


def _with_pickle(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Exchange the pickle inside a checkpoint, as torch would have packed it."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records:
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return path


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.pt"
    save_weights(path, small())
    count = struct.pack("<BH", ord("M"), 16 * 4 * 9)  # of the last layer, in BININT2
    shape = b"(K\x04K\x10K\x03K\x03"  # [4, 16, 3, 3]
    huge = struct.pack("<Bi", ord("J"), 2**31 - 1)

    def claim(content: bytes) -> bytes:
        assert content.count(count) == content.count(shape) == 1
        return content.replace(count, huge).replace(shape, b"(" + huge + shape[3:])

    with pytest.raises(WeightsError, match=r"damaged|do not fit"):
        load_weights(_with_pickle(path, claim))


@pytest.mark.parametrize(
    "code", [b"cbuiltins\nbytearray\n", b"ctorch\nTensor\n", b"c_codecs\nencode\n"]
)
def test_a_pickle_that_asks_for_memory_is_refused_before_it_gets_any(
    tmp_path: Path, code: bytes
) -> None:
    """These names pass torch's own loader, which would call them with any number."""
    path = tmp_path / "greedy.pt"
    save_weights(path, small())
    call = b"\x80\x02" + code + b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R."
    with pytest.raises(WeightsError, match="pickled code"):
        load_weights(_with_pickle(path, lambda _: call))


def test_a_compressed_checkpoint_is_refused_whatever_it_would_unpack_to(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(1 << 26))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match="packed unlike"):
        load_weights(path)


def test_a_flipped_bit_among_the_weights_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "flipped.pt"
    save_weights(path, small())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("/data/0"))
        start = content.index(archive.read(entry)[:64])
    content[start + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(path)


def _greedy(path: Path) -> None:
    _with_pickle(path, lambda _: b"\x80\x02ctorch\nTensor\n(K\x04tR.")  # passes torch's loader


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records:
            archive.writestr(name, content)


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        start = content.index(archive.read(largest)[:64])
    content[start + 40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_greedy, _compressed, _flipped])
def test_a_training_state_is_checked_like_a_checkpoint(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path, recipe, cpu = tmp_path / "a.state.pt", Recipe(channels=8), torch.device("cpu")
    save_state(path, new_state(recipe, cpu), recipe)
    assert load_state(path, recipe, cpu).step == 0
    damage(path)
    with pytest.raises(WeightsError, match="damaged or not a training state"):
        load_state(path, recipe, cpu)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = small()
    with torch.no_grad():
        network.tail.weight[0, 0, 0, 0] = float("nan")
    save_weights(tmp_path / "nan.pt", network)
    with pytest.raises(WeightsError, match="no finite numbers"):
        load_weights(tmp_path / "nan.pt")


@pytest.mark.parametrize("name", ["/dev/zero", "."])
def test_what_is_no_file_is_no_checkpoint(name: str) -> None:
    with pytest.raises(WeightsError, match="not a file"):
        load_weights(name)


def test_a_video_given_as_weights_is_named_as_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    path.write_bytes(b"\0\0\0\x1cftypisom" + bytes(200))
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_weights(path)


def test_a_missing_file_is_told_from_a_shipped_name() -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        find_weights("nowhere/car.pt")
    with pytest.raises(WeightsError, match="no such weights file"):
        find_weights("nonsense")


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_loads_by_its_name_with_and_without_ending(name: str) -> None:
    assert find_weights(name) == find_weights(f"{name}.pt")
    model = load_weights(name)
    assert model.training
    assert build_network(model.network.name)


def test_a_file_in_the_way_wins_over_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path / "fast.pt", small())
    monkeypatch.chdir(tmp_path)
    assert load_weights("fast.pt").network.config.channels == 16


def test_loading_a_model_does_not_load_torchs_compiler() -> None:
    """It takes seconds, at every start."""
    script = "import sys; from carfilter.restore.weights import load_weights; load_weights()\n"
    script += "sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_what_lies_in_the_working_directory_does_not_hide_a_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = find_weights(), find_weights("fast")
    (tmp_path / "best").mkdir()
    (tmp_path / "fast").mkdir()
    assert (find_weights(), find_weights("fast")) == wanted
    (tmp_path / "best").rmdir()
    (tmp_path / "best").write_text("of another program")
    assert find_weights() == wanted[0]
