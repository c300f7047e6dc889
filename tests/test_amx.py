"""int8 on Intel's matrix units: the very bits of torch's convolutions, or torch's convolutions."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from carfilter import amx
from carfilter.amx import AmxTwin, with_matrix_units
from carfilter.devices import has_amx
from carfilter.int8 import Int8Fast, int8_twin
from carfilter.network import Fast
from carfilter.pictures import Picture
from carfilter.restore import RestoreOptions, Restorer
from carfilter.slots import Inputs
from carfilter.weights import load_weights

REPOSITORY = Path(__file__).parent.parent
COMPILER = shutil.which(os.environ.get("CC", "cc"))
needs_amx = pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def twin_of(name: str) -> Int8Fast:
    model = load_weights(name)
    assert isinstance(model.network, Fast)
    assert model.int8_ranges is not None
    return int8_twin(model.network, model.int8_ranges)


def footage(size: tuple[int, int], references: int, count: int = 2) -> Inputs:
    """Smooth pictures with noise, every macroblock of another QP, unknown ones among them."""
    height, width = size
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    smooth = 128 + 70 * torch.sin(rows / 23) + 55 * torch.cos(columns / 31)

    def noisy(*shape: int) -> torch.Tensor:
        return (smooth + torch.randn(*shape, height, width) * 6).clamp(0, 255).to(torch.uint8)

    blocks = (-(-height // 16), -(-width // 16))
    qp = torch.randint(-1, 52, (count, *blocks), dtype=torch.int8)
    if not references:
        return Inputs(noisy(count), qp)
    maps = torch.randint(-1, 52, (count, references, *blocks), dtype=torch.int8)
    return Inputs(noisy(count), qp, noisy(count, references), maps)


def ways(inputs: Inputs) -> list[Inputs]:
    """With all that is known, without the QP, and without references."""
    return [
        inputs,
        Inputs(inputs.luma, references=inputs.references),
        Inputs(inputs.luma, inputs.qp),
    ]


@needs_amx
@needs_compiler
@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("size", [(16, 16), (51, 77), (96, 176), (64, 1400), (272, 480)])
@pytest.mark.parametrize("name", ["fast", "best"])
def test_it_restores_bit_by_bit_as_torch_does(
    name: str, size: tuple[int, int], strength: float
) -> None:
    twin = twin_of(name)
    # oneDNN rounds otherwise in rows that are wider than its strips.
    twin.strips = True
    quick = with_matrix_units(twin)
    assert isinstance(quick, AmxTwin)
    for given in ways(footage(size, twin.references)):
        wanted = twin.restored(given, 128 * strength)
        assert torch.equal(quick.restored(given, 128 * strength), wanted)
        assert (wanted.int() - given.luma).abs().float().mean() > 0.03


@needs_amx
@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["fast", "best"])
def test_parts_and_threads_leave_no_seam(name: str) -> None:
    quick = with_matrix_units(twin_of(name))
    inputs = footage((400, 352), 6 if name == "best" else 0, 1)
    torch.set_num_threads(1)
    whole = quick.restored(inputs, 128.0)
    part = quick.restored(inputs.crop((64, 96, 320, 320)), 128.0)
    assert torch.equal(part[:, 32:-32, 32:-32], whole[:, 96:288, 128:288])
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        assert torch.equal(quick.restored(inputs, 128.0), whole)


@needs_amx
@needs_compiler
def test_rows_of_a_picture_may_lie_apart() -> None:
    quick = with_matrix_units(twin_of("best"))
    inputs = footage((64, 96), 6)
    wide = torch.zeros(2, 7, 80, 130, dtype=torch.uint8)
    wide[:, 0, 8:72, 10:106], wide[:, 1:, 8:72, 10:106] = inputs.luma, inputs.references
    apart = Inputs(
        wide[:, 0, 8:72, 10:106], inputs.qp, wide[:, 1:, 8:72, 10:106], inputs.reference_qp
    )
    assert torch.equal(quick.restored(apart, 128.0), quick.restored(inputs, 128.0))


@needs_amx
@needs_compiler
def test_what_it_computes_wrongly_is_left_to_torch() -> None:
    twin = twin_of("fast")
    assert isinstance(with_matrix_units(twin), AmxTwin)
    twin.body[2].weight = twin.body[2].weight.roll(1, 0)  # torch has packed its own copy
    assert with_matrix_units(twin) is twin


def test_a_network_of_another_shape_is_left_to_torch() -> None:
    twin = int8_twin(Fast(), [1.0] * 7)
    twin.head.weight = twin.head.weight[:32]
    assert with_matrix_units(twin) is twin


def test_without_what_is_compiled_torch_computes(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_weights("fast")
    luma = rng.integers(0, 256, (64, 64), dtype=np.uint8)

    def run() -> tuple[str, np.ndarray]:
        amx._library.cache_clear()
        options = RestoreOptions("cpu", "int8")
        restorer = Restorer(model.network, options, (64, 64), model.int8_ranges)
        return restorer.describe(), next(restorer.restore([Picture(luma)]))

    said, with_it = run()
    assert (", int8 on AMX, batch" in said) == (has_amx() and COMPILER is not None)
    for content in (None, b"built for another system"):
        library = tmp_path / "int8_amx.so"
        if content is not None:
            library.write_bytes(content)
        monkeypatch.setattr(amx, "_LIBRARY", library)
        said, without = run()
        assert ", int8, batch" in said
        assert np.array_equal(with_it, without)
    monkeypatch.undo()
    amx._library.cache_clear()


@pytest.mark.parametrize("compiler", ["cc", "no-such-compiler", "false"])
@pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux alone")
def test_the_wheel_can_be_built_with_and_without_a_compiler(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None and compiler == "cc":
        pytest.skip("there is no C compiler")
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "carfilter").mkdir()
    for path in (REPOSITORY / "carfilter").glob("*.[pc]*"):
        if path.is_file():
            shutil.copy(path, tmp_path / "carfilter")
    (tmp_path / "carfilter" / "int8_amx.so").write_bytes(b"of an older source")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "made"],
        cwd=tmp_path, env={**os.environ, "CC": compiler}, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "made").glob("*.whl")
    inside = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True
    ).stdout
    compiled = compiler == "cc" and os.uname().machine == "x86_64"
    assert ("int8_amx.so" in inside) == compiled
    assert wheel.name.endswith("py3-none-linux_x86_64.whl" if compiled else "py3-none-any.whl")
