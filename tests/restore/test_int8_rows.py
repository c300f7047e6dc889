"""int8 through code of our own: exact on each kind of CPU, and torch's own close to that."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from carfilter.pictures import Luma, Picture, cropped, uniform_qp
from carfilter.process import cpu_flags
from carfilter.restore.int8 import library, rows
from carfilter.restore.int8.convolutions import torch_is_exact
from carfilter.restore.int8.kinds import KINDS, Kind, usable_kinds
from carfilter.restore.int8.quantised import Layer, Quantised
from carfilter.restore.int8.rows import Rows, channels_of, compiled_rows, open_rows
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.samples import add
from carfilter.restore.slots import Inputs
from carfilter.restore.weights import load_weights
from emulation import CPUS, Emulated, can_emulate
from exact_int8 import exact

REPOSITORY = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CC", "cc"))
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def tried(kind: Kind) -> object:
    emulated = kind.name in CPUS and kind not in usable_kinds()
    return pytest.param(kind, id=kind.name, marks=pytest.mark.slow if emulated else ())


@pytest.fixture(params=map(tried, KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of CPU that rows.c is compiled for; those of ARM64 are emulated elsewhere."""
    kind = request.param
    if kind not in usable_kinds() and not (kind.name in CPUS and can_emulate()):
        pytest.skip(f"this CPU has no {kind.label}, or no emulator of it")
    return kind


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Emulated]:
    """Compile for a kind of CPU that is emulated, once."""
    folder = tmp_path_factory.mktemp("emulated")
    return cache(lambda name, channels: Emulated(name, channels, folder))


@pytest.fixture
def through(kind: Kind, emulated: Callable[[str, int], Emulated]) -> Callable[[Quantised], Rows]:
    """Return what lets rows.c compute a network on that kind of CPU."""

    def opened(network: Quantised) -> Rows:
        channels = channels_of(network, kind)
        here = kind in usable_kinds()
        compiled = compiled_rows(kind, channels) if here else emulated(kind.name, channels)
        assert compiled is not None, f"not compiled for {kind.label}"
        return Rows(network, kind, compiled)

    return opened


def quantised(name: str) -> Quantised:
    """Return a shipped model, or "fast of 32" and the like: it with fewer channels."""
    name, _, channels = name.partition(" of ")
    model = load_weights(name)
    assert model.int8 is not None
    return narrowed(model.int8, int(channels)) if channels else model.int8


def narrowed(network: Quantised, channels: int) -> Quantised:
    def cut(layer: Layer, *, first: bool = False, last: bool = False) -> Layer:
        out, own = (None if last else channels), (None if first else channels)
        scale = layer.weight_scale[:out]
        return replace(
            layer, weight=layer.weight[:out, :own], weight_scale=scale, bias=layer.bias[:out]
        )

    head, *body, tail = network.layers
    return replace(network, layers=(cut(head, first=True), *map(cut, body), cut(tail, last=True)))


def footage(size: tuple[int, int], references: int) -> Picture:
    """Smooth pictures with noise, every macroblock of another QP, unknown ones among them."""
    height, width = size
    rng = np.random.default_rng(5)
    smooth = 128 + 70 * np.sin(np.arange(height) / 23)[:, None] + 55 * np.cos(np.arange(width) / 31)

    def noisy() -> Picture:
        luma = (smooth + rng.normal(0, 6, size)).clip(0, 255).astype(np.uint8)
        qp = rng.integers(-1, 52, (-(-height // 16), -(-width // 16)), dtype=np.int16)
        qp[0, 0] = 40  # so coarse that there is something to correct
        return Picture(luma, qp=qp)

    return replace(noisy(), references=tuple(noisy() for _ in range(references)))


def unchanged(given: Picture) -> Picture:
    """As of a fixed camera: references differ here and there, in blocks and in single pixels."""
    rng, size = np.random.default_rng(6), given.luma.shape

    def like(one: Picture, share: float) -> Picture:
        blocks = rng.random([-(-side // 16) for side in size]) < share
        differs = blocks.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
        differs |= rng.random(size) < share / 256
        return replace(one, luma=np.where(differs, one.luma, given.luma))

    shares = (0.0, 0.05, 0.1, 0.3, 0.6, 0.9)
    seen = [like(one, share) for one, share in zip(given.references, shares, strict=False) if one]
    return replace(given, references=tuple(seen))


def ways(given: Picture) -> list[Picture]:
    """With all that is known, without the QPs, without some references, and without all.

    And with references that are as the picture is in most places.
    """
    blind = (replace(one, qp=None) for one in given.references if one is not None)
    some = (one if i % 2 else None for i, one in enumerate(given.references))
    return [
        given,
        replace(given, qp=None, references=tuple(blind)),
        replace(given, references=tuple(some)),
        replace(given, references=()),
        unchanged(given),
    ]


def restored(by: Rows, picture: Picture, amount: float = 128.0, bands: int = 1) -> Luma:
    restoring = by.begin(picture, amount)
    for band in restoring.bands(bands):
        restoring.rows(*band)
    return restoring.luma


SIZES = [(16, 16), (51, 77), (96, 176), (64, 1400), (272, 480)]
STRENGTHS = (1.0, 0.3)


@cache
def wanted(name: str, size: tuple[int, int]) -> list[tuple[Picture, list[Luma]]]:
    """Each way of giving some footage, and what is exact of it, by strength."""
    network = quantised(name)
    twin, made = exact(network), []
    given = ways(footage(size, network.references))
    for picture in given[:1] if size == SIZES[-1] else given:
        inputs = Inputs.of([picture], network.references)
        correction = twin(inputs)
        by_strength = [add(inputs.luma, correction, 128 * s, 255.0) for s in STRENGTHS]
        made.append((picture, [luma[0].numpy() for luma in by_strength]))
    return made


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["fast", "best", "fast of 32", "best of 20"])
def test_it_restores_exactly(
    through: Callable[[Quantised], Rows], name: str, size: tuple[int, int]
) -> None:
    quick = through(quantised(name))
    for given, by_strength in wanted(name, size):
        for strength, exactly in zip(STRENGTHS, by_strength, strict=True):
            assert np.array_equal(restored(quick, given, 128 * strength), exactly)
            assert np.abs(exactly.astype(int) - given.luma).mean() > 0.03


BY_TORCH = """
import pickle, sys
from pathlib import Path
from carfilter.restore.int8.convolutions import Int8Fast, torch_is_exact
from carfilter.restore.slots import Inputs
from carfilter.restore.weights import load_weights

path = Path(sys.argv[1])
made = []
for name, picture in pickle.loads(path.read_bytes()):
    network = load_weights(name).int8
    by_torch = Int8Fast(network)
    made.append(by_torch.restored(Inputs.of([picture], network.references), 128.0)[0].numpy())
path.write_bytes(pickle.dumps(made))
print(torch_is_exact())
"""
# Values of oneDNN's own variable, and what a CPU has to have to be more than that or just that.
LESSER = {"AVX512_CORE_VNNI": "avx512_vnni", "AVX512_CORE": "avx512bw", "AVX2_VNNI": "avx_vnni"}


@pytest.mark.parametrize("most", ["", *LESSER, "AVX2"])
def test_torch_restores_the_same_but_for_some_halves(tmp_path: Path, most: str) -> None:
    """oneDNN rounds some halves otherwise; which ones depends on the CPU and the size."""
    if most and LESSER.get(most, "avx512bw") not in cpu_flags():
        pytest.skip("this CPU is a lesser one itself")
    cases = [(name, *wanted(name, size)[0]) for name in ("fast", "best") for size in SIZES[2::2]]
    path = tmp_path / "pictures"
    path.write_bytes(pickle.dumps([(name, picture) for name, picture, _ in cases]))
    said = subprocess.run(
        [sys.executable, "-c", BY_TORCH, str(path)],
        env={**os.environ, **({"ONEDNN_MAX_CPU_ISA": most} if most else {})},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for (_, _, by_strength), luma in zip(cases, pickle.loads(path.read_bytes()), strict=True):
        apart = np.abs(luma.astype(int) - by_strength[0])
        assert apart.max() <= (1 if said == "True\n" else 0)
        assert apart.mean() <= 0.001  # one sample of a thousand


@needs_compiler
@pytest.mark.parametrize("name", ["fast", "best"])
def test_parts_and_threads_leave_no_seam(through: Callable[[Quantised], Rows], name: str) -> None:
    quick = through(quantised(name))
    given = footage((400, 352), quick.references)
    whole = restored(quick, given)
    part = restored(quick, cropped(given, (64, 96, 320, 320)))  # whose rows lie apart
    assert np.array_equal(part[32:-32, 32:-32], whole[96:288, 128:288])
    for count in (2, 3, 7):
        assert np.array_equal(restored(quick, given, bands=count), whole)


ON_A_LESSER_CPU = """
import sys
from pathlib import Path
import numpy as np
from carfilter.restore.int8 import library
from carfilter.pictures import Picture, uniform_qp
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import load_weights

model, luma = load_weights("best"), np.load(sys.argv[1])
if len(sys.argv) > 3:
    library._FOLDER = Path(sys.argv[3])  # where nothing was compiled
restorer = Restorer(model, RestoreOptions("cpu"), luma.shape)
np.save(sys.argv[2], next(restorer.restore([Picture(luma, qp=uniform_qp(luma.shape, 38))])))
print(restorer.describe())
"""


@needs_compiler
@pytest.mark.parametrize(
    ("most", "named", "by_torch"),
    [
        ("AVX512_CORE_VNNI", "avx512vnni", "int8"),
        ("AVX2_VNNI", "avxvnni", "int8"),
        ("AVX2", "avx2", "fp32"),
    ],
)
def test_a_lesser_cpu_restores_the_same_in_int8(
    tmp_path: Path, most: str, named: str, by_torch: str
) -> None:
    """Also where torch's own products saturate, for which it is left to fp32 without ours."""
    usable = {kind.name: kind.label for kind in usable_kinds()}
    if named not in usable:
        pytest.skip("this CPU is a lesser one itself")
    luma = footage((96, 144), 0).luma
    model, options = load_weights("best"), RestoreOptions("cpu", "int8")
    picture = Picture(luma, qp=uniform_qp(luma.shape, 38))
    restorer = Restorer(model, options, luma.shape)
    wanted = next(restorer.restore([picture])).astype(int)
    assert np.abs(wanted - luma).mean() > 0.3
    np.save(tmp_path / "luma.npy", luma)

    def run(*folder: str) -> tuple[str, np.ndarray]:
        given = [str(tmp_path / "luma.npy"), str(tmp_path / "out.npy"), *folder]
        said = subprocess.run(
            [sys.executable, "-c", ON_A_LESSER_CPU, *given],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": most},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return said.stdout, np.abs(np.load(tmp_path / "out.npy") - wanted)

    said, apart = run()
    assert f", int8 on {usable[named]}, " in said
    assert not apart.any()
    said, apart = run(str(tmp_path))
    assert f", {by_torch}, " in said
    assert apart.mean() < 0.5


@needs_compiler
def test_what_computes_wrongly_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = quantised("fast")
    assert open_rows(network) is not None
    head, first, *others = network.layers
    wrong = replace(first, weight=np.roll(first.weight, 1, 0))
    assert open_rows(replace(network, layers=(head, wrong, *others))) is None
    # What restores nothing, and says that all is well.
    monkeypatch.setattr(rows, "compiled_rows", lambda *_: lambda *_: 0)
    assert open_rows(network) is None


def test_a_network_of_another_shape_is_left_to_torch() -> None:
    network = quantised("fast")
    head, *others = network.layers
    wide = replace(head, weight=np.tile(head.weight, (2, 1, 1, 1)))
    assert open_rows(replace(network, layers=(wide, *others))) is None


@pytest.mark.skipif(not torch_is_exact(), reason="this CPU's int8 products saturate in torch")
def test_without_what_is_compiled_torch_computes(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_weights("fast")
    luma = rng.integers(0, 256, (64, 64), dtype=np.uint8)

    def run() -> tuple[str, np.ndarray]:
        rows.compiled_rows.cache_clear()
        library.load_library.cache_clear()
        options = RestoreOptions("cpu", "int8")
        restorer = Restorer(model, options, (64, 64))
        return restorer.describe(), next(restorer.restore([Picture(luma)]))

    said, with_it = run()
    best = next(iter(usable_kinds()), None)
    assert best is None or COMPILER is None or f", int8 on {best.label}, batch" in said
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    for content in (None, b"built for another system"):
        for each in KINDS if content is not None else ():
            (tmp_path / f"{each.name}.so").write_bytes(content)
        said, without = run()
        assert ", int8, batch" in said
        assert np.abs(with_it.astype(int) - without).max() <= 1
    monkeypatch.undo()
    rows.compiled_rows.cache_clear()
    library.load_library.cache_clear()


@pytest.mark.parametrize("compiler", ["cc", "no-such-compiler", "false"])
@pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux alone")
def test_the_wheel_can_be_built_with_and_without_a_compiler(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None and compiler == "cc":
        pytest.skip("there is no C compiler")
    for name in ("pyproject.toml", "hatch_build.py", "hatch_manuals.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "models").mkdir()
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(REPOSITORY / "carfilter", tmp_path / "carfilter", ignore=built)
    (tmp_path / "carfilter/restore/int8/avx2.so").write_bytes(b"of an older source")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "made"],
        cwd=tmp_path, env={**os.environ, "CC": compiler}, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "made").glob("*.whl")
    inside = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True
    ).stdout
    for place in ("man/man1/carfilter.1", "bash-completion/completions/carfilter"):
        assert f"data/share/{place}" in inside
    compiled = compiler == "cc" and os.uname().machine == "x86_64"
    for each in KINDS:
        assert (f"int8/{each.name}.so" in inside) == (compiled and each.name not in CPUS)
    # By the versions of glibc's symbols that it needs.
    assert wheel.name.endswith("py3-none-manylinux_2_17_x86_64.whl" if compiled else "-any.whl")
