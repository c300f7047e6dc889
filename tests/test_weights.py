"""Checkpoints survive the round trip; whatever is none of ours gets one clear sentence."""

import pickle
from pathlib import Path

import pytest
import torch

from carfilter.errors import WeightsError
from carfilter.network import Fast, FastConfig, build_network
from carfilter.weights import find_weights, load_weights, save_weights, shipped_models


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
    network, path = small(), tmp_path / f"mine{ending}"
    save_weights(path, network, {"steps": 3, "loss": "mse"}, {"35": 0.31})
    model = load_weights(path)
    assert model.name == "mine"
    assert model.training == {"steps": 3, "loss": "mse"}
    assert model.scores == {"35": 0.31}
    picture = torch.rand(1, 1, 8, 8)
    assert torch.equal(model.network(picture), network(picture))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


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
