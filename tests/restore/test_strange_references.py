"""References that show something else, as after a cut that nobody noticed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from carfilter.commands.degrade import main as degrade_main
from carfilter.media.clips import read_clip
from carfilter.restore.weights import load_weights
from carfilter.restore.window import PAST_SLOTS, REFERENCES
from carfilter.training.dataset import Sampling, draw_crops, load_pairs

SAMPLE = next((Path(__file__).parents[2] / "samples").glob("*.mp4"))
SIZE = 96


def _pieces(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Cut squares from anywhere in the sample, float [count, SIZE, SIZE] in -1..1."""
    luma = read_clip(SAMPLE, 10).luma
    frames, height, width = luma.shape
    pieces = []
    for _ in range(count):
        at, top, left = (int(rng.integers(n)) for n in (frames, height - SIZE, width - SIZE))
        pieces.append(luma[at, top : top + SIZE, left : left + SIZE])
    return (torch.from_numpy(np.stack(pieces)).float() - 128) / 128


@pytest.mark.parametrize("kind", ["elsewhere", "negative", "noise", "white"])
def test_shipped_best_does_not_blow_up_what_its_references_do_not_show(
    kind: str, rng: np.random.Generator
) -> None:
    """A network that met none in training answered with up to 70,000 grey levels."""
    count = 24
    luma = _pieces(rng, count)[:, None]
    others = _pieces(rng, count * REFERENCES).unflatten(0, (count, REFERENCES))
    if kind == "negative":
        others = -luma.expand_as(others)
    elif kind == "noise":
        others = torch.from_numpy(rng.uniform(-1, 1, others.shape)).float()
    elif kind == "white":
        others = torch.ones_like(others)
    qp = torch.from_numpy(rng.uniform(18, 48, (count, 1 + REFERENCES, 1, 1))).float() / 51
    maps = qp.expand(-1, -1, SIZE, SIZE)
    model = load_weights("best")
    for one in (model, *model.others.values()):
        seen = others.clone()
        if one.suits == "past":  # later ones are never there, and the picture stands for them
            later = [slot for slot in range(REFERENCES) if slot not in PAST_SLOTS]
            seen[:, later] = luma
        with torch.inference_mode():
            correction = one.network(luma, maps[:, :1], seen, maps[:, 1:]) * 128
        assert float(correction.abs().max()) < 64, one.suits


def test_some_crops_are_trained_with_references_that_show_something_else(tmp_path: Path) -> None:
    arguments = [str(SAMPLE), str(tmp_path), "--variants", "plain", "-crf", "35"]
    assert CliRunner().invoke(degrade_main, arguments).exit_code == 0
    pairs = load_pairs(tmp_path / "packs")
    # Every sample is its frame's time, so that a reference too tells which frame it shows.
    shot = pairs.shots[0]
    size, frames = int(shot["height"] * shot["width"]), int(shot["frames"])
    start = int(shot["degraded"])
    luma = pairs.luma.clone()
    luma[start : start + size * frames] = torch.arange(frames).repeat_interleave(size)
    marked = replace(pairs, luma=luma)
    sampling = Sampling(SIZE, references=True, whole=1.0, strange=0.25)

    def others(sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        crops = draw_crops(marked, 200, sampling, np.random.default_rng(1))
        assert crops.references is not None
        levels = crops.references[:, :, 0, 0] * 128 + 128
        own = crops.degraded[:, 0, 0, 0] * 128 + 128
        expected = torch.from_numpy(pairs.references[own.long().numpy()])
        return levels, expected

    levels, expected = others(sampling)
    strange = (levels != expected).any(1).float().mean()
    assert 0.15 < float(strange) < 0.35
    levels, expected = others(replace(sampling, strange=0.0))
    assert torch.equal(levels, expected.float())
