"""A checkpoint with several networks: the one that suits a video best restores it."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carfilter.errors import CarfilterError, WeightsError
from carfilter.restore.network import Best, BestConfig, Fast, FastConfig, config_of
from carfilter.restore.restorer import RestoreOptions
from carfilter.restore.weights import SUITS, load_weights, save_weights
from carfilter.run.options import FilterOptions
from carfilter.run.pipeline import filter_video
from carfilter.training import join
from tests.clips import ClipOptions, make_clip, read_content

RISES = {"": 0, "past": 6, "hevc": 12, "mjpeg": 18}  # grey levels that each network adds


def adding(levels: int) -> Best:
    """A network that makes every picture so much brighter, whatever its QP."""
    network = Best(BestConfig(channels=48, body=1, quiet_qp=0.0, full_qp=1.0))
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.fill_(levels / 128)
    return network


def as_saved(network: Fast) -> dict[str, object]:
    about = {"network": network.name, "config": config_of(network)}
    return {**about, "weights": {k: v.half() for k, v in network.state_dict().items()}}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four networks that can be told apart, joined by the command."""
    folder = tmp_path_factory.mktemp("several")
    for name, levels in RISES.items():
        save_weights(folder / f"{name or 'own'}.pt", adding(levels), int8_ranges=[1.0, 1.0])
    own, *others = (folder / f"{name or 'own'}.pt" for name in RISES)
    join.join(folder / "all.pt", str(own), {path.stem: str(path) for path in others})
    return folder / "all.pt"


def rise(source: Path, target: Path, weights: Path, options: RestoreOptions) -> int:
    filter_video(source, target, weights, FilterOptions(restore=options))
    before, after = (np.mean(read_content(path).luma) for path in (source, target))
    return round(float(after - before))


@pytest.mark.parametrize(
    ("codec", "lookahead", "name"),
    [
        ("libx264", 64, ""),
        ("libx264", 0, "past"),
        ("libx265", 64, "hevc"),
        ("libx265", 0, "hevc"),
        ("mjpeg", 64, "mjpeg"),
        ("mjpeg", 0, "mjpeg"),
        ("mpeg4", 64, "mjpeg"),
        ("mpeg2video", 64, "mjpeg"),
        ("libvpx-vp9", 64, "hevc"),
        ("libsvtav1", 64, "hevc"),
        ("libvpx", 64, ""),
        ("libvpx", 0, "past"),
    ],
)
def test_the_network_that_was_trained_for_a_video_restores_it(
    tmp_path: Path,
    several: Path,
    caplog: pytest.LogCaptureFixture,
    codec: str,
    lookahead: int,
    name: str,
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = ClipOptions(codec=codec, frames=6, size=(96, 64), pix_fmt=pix_fmt)
    source = make_clip(tmp_path / "in.mkv", clip)
    options = RestoreOptions(device="cpu", lookahead=lookahead)
    with caplog.at_level(logging.INFO, "carfilter"):
        risen = rise(source, tmp_path / "out.mkv", several, options)
    assert abs(risen - RISES[name]) <= 1
    said = next(m for m in caplog.messages if m.startswith("model "))
    suits = f", for {SUITS[name]}" if name else ""
    assert said.startswith(f"model all{suits} (sha256 ")


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_all_networks_of_a_checkpoint_come_back_as_they_were_saved(
    tmp_path: Path, several: Path, ending: str
) -> None:
    model, path = load_weights(several), tmp_path / f"copy{ending}"
    others = model.others
    save_weights(path, model.network, {"steps": 3}, None, model.int8_ranges, others)
    copy = load_weights(path)
    assert list(copy.others) == ["past", "hevc", "mjpeg"]
    assert copy.training == {"steps": 3}
    assert copy.is_ready == (ending == ".pt")
    for name, other in copy.others.items():
        assert other.sha256 == copy.sha256
        assert other.int8_ranges == [1.0, 1.0]
        assert torch.equal(other.network.tail.bias, others[name].network.tail.bias)


def test_where_one_network_has_no_int8_form_none_is_taken_from_the_file(
    tmp_path: Path, several: Path
) -> None:
    model, path = load_weights(several), tmp_path / "mixed.pt"
    bare = tmp_path / "bare.pt"
    save_weights(bare, adding(6))
    others = {"past": load_weights(bare)}
    save_weights(path, model.network, int8_ranges=model.int8_ranges, others=others)
    mixed = load_weights(path)
    assert not mixed.is_ready
    assert list(mixed.others) == ["past"]
    assert mixed.others["past"].int8 is None


def test_networks_of_two_kinds_are_not_joined(tmp_path: Path, several: Path) -> None:
    fast = tmp_path / "fast.pt"
    save_weights(fast, Fast(FastConfig(channels=16, body=1)))
    with pytest.raises(CarfilterError, match="a fast network, which cannot stand in for a best"):
        join.join(tmp_path / "out.pt", str(several), {"past": str(fast)})
    with pytest.raises(CarfilterError, match="future: is none of past, hevc, mjpeg"):
        join.join(tmp_path / "out.pt", str(several), {"future": str(several)})
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about["others"].update(future=about["others"]["past"]), "update carfilter"),
        (lambda about: about["others"].update(past=3), "update carfilter"),
        (lambda about: about.update(others=[1]), "damaged"),
        (lambda about: about["others"]["past"].pop("weights"), "weights are missing"),
        (lambda about: about["others"]["past"].update(network="fast"), "update carfilter"),
        (lambda about: about["others"].update(past=as_saved(Fast(FastConfig()))), "damaged"),
    ],
)
def test_other_networks_that_cannot_be_used_are_refused(
    tmp_path: Path, several: Path, change: Callable[[dict[str, object]], object], said: str
) -> None:
    about = torch.load(several, weights_only=True)
    change(about)
    path = tmp_path / "strange.pt"
    torch.save(about, path)
    with pytest.raises(WeightsError, match=said):
        load_weights(path)


def test_a_checkpoint_of_one_network_serves_everything(tmp_path: Path) -> None:
    path = tmp_path / "one.pt"
    save_weights(path, adding(6), int8_ranges=[1.0, 1.0])
    model = load_weights(path)
    assert {model.suited(codec, past=past) for codec in ("", "hevc") for past in (0, 1)} == {model}
    source = make_clip(tmp_path / "in.mkv", ClipOptions(codec="libx265", frames=4, size=(96, 64)))
    options = replace(RestoreOptions(device="cpu"), lookahead=0)
    assert abs(rise(source, tmp_path / "out.mkv", path, options) - 6) <= 1
