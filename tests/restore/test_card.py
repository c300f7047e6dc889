"""The CUDA path without a card: a torch.cuda of ours, see card/fake.py."""

import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from card.fake import Card, fake_card
from carfilter.errors import DeviceError
from carfilter.pictures import Luma, Picture, uniform_qp
from carfilter.restore import slots
from carfilter.restore.batches import default_batch, fastest_batch
from carfilter.restore.card_planes import CardPlanes
from carfilter.restore.devices import choose_device, choose_precision, training_precision
from carfilter.restore.network import Network, build_network
from carfilter.restore.planes import CpuPlanes
from carfilter.restore.references import with_references
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.steady import Noted, Restored, keep_unchanged, steadied
from carfilter.restore.weights import load_weights, shipped_models
from moving import pan

NEVER = float("inf")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with fake_card(monkeypatch) as one:
        yield one


def awake(name: str) -> Network:
    torch.manual_seed(1)
    sizes = {"channels": 16} | ({"blocks": 2} if name == "car" else {"body": 2})
    network = build_network(name, sizes).eval()
    with torch.no_grad():
        network.tail.weight.mul_(30)
    return network


def clip(count: int, size: tuple[int, int] = (50, 70), depth: int = 8) -> list[Picture]:
    """A still noise that a square crosses, with equal pictures in between."""
    rng = np.random.default_rng(2)
    kind = np.uint8 if depth == 8 else np.uint16
    still = rng.integers(0, 1 << depth, size).astype(kind)
    blocks = (-(-size[0] // 16), -(-size[1] // 16))
    pictures = []
    for i in range(count):
        luma = still.copy()
        luma[16:32, 16 : 20 + 8 * (i // 2 % 4)] = 9 * i // 2
        qp = rng.integers(30, 52, blocks).astype(np.int16)
        pictures.append(Picture(luma, depth, qp, frame_type=1 if i % 5 == 0 else 2))
    return pictures


def restored(device: str, network: Network, pictures: list[Picture], **options: Any) -> list[Any]:
    chosen = RestoreOptions(device, "fp32", compile_after=NEVER, **options)
    return list(Restorer(network, chosen, pictures[0].luma.shape).restore(pictures))


def equal(first: list[Any], second: list[Any]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.abs(a.astype(int) - b).max() <= 1 for a, b in pairs)


@pytest.mark.parametrize("name", ["fast", "best", "car"])
@pytest.mark.parametrize(("seed", "depth"), [(0, 8), (1, 8), (2, 10)])
def test_in_whatever_order_streams_go_on_the_pictures_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, name: str, seed: int, depth: int
) -> None:
    pictures, network = clip(13, depth=depth), awake(name)
    wanted = restored("cpu", network, pictures, batch_size=3)
    with fake_card(monkeypatch, seed) as card:
        assert equal(restored("cuda", network, pictures, batch_size=3), wanted)
        assert not card.left


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("lookahead", [0, 6, 64])
def test_pictures_are_averaged_over_time_on_the_card_as_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, depth: int, lookahead: int
) -> None:
    rng, size = np.random.default_rng(3), (50, 70)
    kind = np.uint8 if depth == 8 else np.uint16
    scene = rng.integers(40, 200, size) << (depth - 8)
    seen = []
    for i in range(30):
        luma = scene + rng.integers(-2 << (depth - 8), 3 << (depth - 8), size)
        luma[16:32, 2 * i : 2 * i + 16] = 3 * i
        qp = 30.0 if i > 6 else 10.0  # good video at first: averaged is only what follows
        seen.append(Restored(luma.astype(kind), depth, 0.9, qp))
    wanted = list(steadied(seen, lookahead))
    assert not all(np.array_equal(a, b.luma) for a, b in zip(wanted, seen, strict=True))
    with fake_card(monkeypatch, depth) as card:
        there = [replace(one, luma=uploaded(one.luma)) for one in seen]
        given = steadied(there, lookahead, planes=CardPlanes(torch.device("cuda")))
        assert equal(list(given), wanted)
        assert not card.left


def uploaded(luma: Luma) -> torch.Tensor:
    plane: Any = luma
    return torch.from_numpy(plane.view(np.uint8 if plane.itemsize == 1 else np.int16).copy())


def still_clip(count: int) -> list[Picture]:
    """A fixed camera whose blocks are coded anew here and there."""
    rng, luma, pictures = np.random.default_rng(5), clip(1)[0].luma, []
    for i in range(count):
        luma = luma.copy()
        luma[16 * (i % 3) : 16 * (i % 3) + 16, :32] ^= 1
        qp = rng.integers(34, 36, (4, 5)).astype(np.int16)
        pictures.append(Picture(luma, qp=qp, frame_type=1 if i % 10 == 0 else 2))
    return pictures


def test_a_picture_crosses_the_bus_once_in_each_direction_however_many_it_helps(card: Card) -> None:
    pictures, network = still_clip(30), awake("best")
    wanted = restored("cpu", network, pictures, batch_size=3)
    assert equal(restored("cuda", network, pictures, batch_size=3), wanted)
    up = slots.streams(torch.device("cuda"))[0]
    luma_bytes = sum(one.luma.nbytes for one in pictures)
    # QP maps, of the references too, where planes lie, and which blocks changed go along.
    assert luma_bytes <= up.copied <= 1.1 * luma_bytes
    assert 2 * luma_bytes <= card.copied <= 2.2 * luma_bytes
    assert not card.left


@pytest.mark.parametrize("depth", [8, 10])
def test_unchanged_macroblocks_keep_their_result_on_the_card(card: Card, depth: int) -> None:
    rng, kind = np.random.default_rng(6), np.uint8 if depth == 8 else np.uint16
    planes = [rng.integers(0, 1 << depth, (50, 70)).astype(kind) for _ in range(8)]
    changed = [rng.random((4, 5)) < share for share in (0.5, 0, 0.3, 1, 0.1, 0.5)]
    notes = [Noted(depth, blocks, 30.0, (None, None)) for blocks in (None, *changed, None)]
    wanted = keep_unchanged([one.copy() for one in planes], deque(notes), CpuPlanes())
    there = CardPlanes(torch.device("cuda"))
    given = keep_unchanged([uploaded(one) for one in planes], deque(notes), there)
    results = there.fetched([one.luma for one in given])
    for a, b in zip(wanted, results, strict=True):
        assert np.array_equal(a.luma, b)
    assert not card.left


@pytest.mark.parametrize(("seed", "depth", "lookahead"), [(0, 8, 64), (1, 8, 0), (2, 10, 64)])
def test_what_moves_is_moved_on_the_card_by_fields_alone(
    monkeypatch: pytest.MonkeyPatch, seed: int, depth: int, lookahead: int
) -> None:
    network, size = awake("best"), (96, 160)
    lumas = pan(9, size, (2.3, 1.1), depth)
    pictures = [
        Picture(luma, depth, uniform_qp(size, 38), frame_type=1 if i % 5 == 0 else 2)
        for i, luma in enumerate(lumas)
    ]
    given = list(with_references(pictures, lookahead, moves=False))
    fields = sum(r is not None and r.along is not None for one in given for r in one.references)
    beside = sum(field is not None for one in given for field in one.motion)
    assert fields > 10
    wanted = restored("cpu", network, pictures, batch_size=3, lookahead=lookahead)
    with fake_card(monkeypatch, seed) as card:
        made = restored("cuda", network, pictures, batch_size=3, lookahead=lookahead)
        assert equal(made, wanted)
        assert not card.left
    # A vector for each 4x4 pixels of a reference, instead of the pixels.
    crossed = (
        2 * sum(luma.nbytes for luma in lumas) + (fields + beside) * 4 * size[0] * size[1] // 16
    )
    assert card.copied <= 1.1 * crossed


@pytest.mark.parametrize("name", ["fast", "best", "car"])
def test_after_the_first_pictures_nothing_but_events_is_waited_for(card: Card, name: str) -> None:
    options = RestoreOptions("cuda", "fp32", batch_size=2, compile_after=NEVER)
    restorer = Restorer(awake(name), options, (50, 70))
    list(restorer.restore(clip(4)))
    card.waits.clear()
    list(restorer.restore(clip(12)))
    assert not card.waits


def test_leaving_early_waits_for_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    was_left = 0
    for seed in range(3):
        with fake_card(monkeypatch, seed) as card:
            options = RestoreOptions("cuda", "fp32", batch_size=2, compile_after=NEVER)
            results = Restorer(awake("fast"), options, (50, 70)).restore(clip(9))
            next(results)
            was_left += card.left
            results.close()
            assert not card.left  # else the allocator would give its memory to others
    assert was_left


@pytest.mark.usefixtures("card")
def test_pictures_that_repeat_do_not_stop_those_on_their_way() -> None:
    pictures, network = clip(24), awake("fast")
    wanted = restored("cpu", network, pictures)
    options = RestoreOptions("cuda", "fp32", batch_size=2, compile_after=NEVER)
    restorer, times = Restorer(network, options, (50, 70)), []
    whole = restorer._reuse._whole
    restorer._reuse._whole = lambda given: times.append(1) or whole(given)
    still = [pictures[0]] * 40
    assert equal(list(restorer.restore([*pictures, *still])), [*wanted, *wanted[:1] * 40])
    assert len(times) == 1 + 0
    assert restorer.saved > 0.5


def test_one_thread_computes_for_all_files(card: Card) -> None:
    network = awake("best")
    for _ in range(2):
        restored("cuda", network, clip(4), batch_size=2)
    assert len(set(card.convolutions[1:])) == 1  # the first one tried the card


@pytest.mark.usefixtures("card")
def test_the_callers_network_stays_as_it_is() -> None:
    network = awake("fast")
    Restorer(network, RestoreOptions("cuda", "fp32"), (50, 70))
    assert not network.head.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("compile_after", [60.0, NEVER])
def test_live_tries_no_convolutions_for_new_shapes(
    monkeypatch: pytest.MonkeyPatch, compile_after: float
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", compile_after == NEVER)
    Restorer(awake("fast"), RestoreOptions("cuda", compile_after=compile_after), (50, 70))
    assert torch.backends.cudnn.benchmark == (compile_after != NEVER)


def test_a_network_is_there_before_another_stream_reads_it(card: Card) -> None:
    choose_device("cuda")
    card.waits.clear()
    Restorer(awake("fast"), RestoreOptions("cuda", "fp32"), (50, 70))
    assert card.waits[-1] == "synchronize"


def test_at_1080p_batches_down_to_one_are_measured() -> None:
    tried: list[int] = []
    fastest_batch(tried.append, default_batch("cuda", (1080, 1920)))
    assert min(tried) == 1 < max(tried)


class Full:
    """Memory for so many values in a convolution."""

    def __init__(self, most: int, error: type[Exception], words: str) -> None:
        self.most, self.error, self.words = most, error, words

    def __call__(self, func: Any, args: tuple[Any, ...]) -> None:
        if func is torch.conv2d and args[0].numel() > self.most:
            raise self.error(self.words)


FULL = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 1 GiB."),
    (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    (RuntimeError, "GET was unable to find an engine to execute this computation"),
    (torch.AcceleratorError, "CUDA error: out of memory"),
]


@pytest.mark.parametrize(("error", "words"), FULL)
def test_a_full_card_ends_in_smaller_batches_and_tiles(
    card: Card, error: type[Exception], words: str
) -> None:
    pictures, network = clip(3, (64, 140)), awake("car")
    wanted = restored("cpu", network, pictures)
    card.fail = Full(16 * 64 * 130, error, words)
    options = RestoreOptions("cuda", "fp32", batch_size=4, compile_after=NEVER)
    restorer = Restorer(network, options, (64, 140))
    assert equal(list(restorer.restore(pictures)), wanted)
    assert (restorer.batch_size, restorer.tile) == (1, 64)


def test_memory_is_released_when_no_error_holds_it_any_more(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[object] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: handled.append(sys.exc_info()[1]))
    card.fail = Full(16 * 50 * 80, torch.OutOfMemoryError, "CUDA out of memory")
    restored("cuda", awake("car"), clip(4), batch_size=4)
    assert handled == [None, None]


@pytest.mark.parametrize("most", [8, 3, 0])
def test_no_room_for_buffers_or_the_network_is_told(card: Card, most: int) -> None:
    """Buffers of a batch of 4, then of 2, then none at all."""

    def fail(func: Any, args: tuple[Any, ...]) -> None:
        if func is torch.empty and len(args[0]) >= 3 and args[0][0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pictures, network = clip(9), awake("fast")
    wanted = restored("cpu", network, pictures)
    card.fail = fail
    options = RestoreOptions("cuda", "fp32", batch_size=4, compile_after=NEVER, reuse=False)
    restorer = Restorer(network, options, (50, 70))
    if most:
        assert equal(list(restorer.restore(pictures)), wanted)
        assert restorer.batch_size == (4 if most == 8 else 2)
        return
    with pytest.raises(DeviceError, match="out of memory on cuda even for one frame of 70x50"):
        list(restorer.restore(pictures))


def test_a_network_that_does_not_fit_is_told(card: Card) -> None:
    def fail(func: Any, _: tuple[Any, ...]) -> None:
        if func is torch.Tensor.to:
            raise torch.OutOfMemoryError("CUDA out of memory")

    choose_device("cuda")
    card.fail = fail
    with pytest.raises(DeviceError, match="out of memory on cuda even for the network"):
        Restorer(awake("fast"), RestoreOptions("cuda", "fp32"), (50, 70))


def test_no_room_to_move_a_reference_is_told(card: Card) -> None:
    def fail(func: Any, _: tuple[Any, ...]) -> None:
        if func is torch.Tensor.index_select:
            raise torch.OutOfMemoryError("CUDA out of memory")

    card.fail = fail
    pictures = [Picture(luma) for luma in pan(3, (96, 160), (2.3, 1.1))]
    with pytest.raises(DeviceError, match="out of memory on cuda even for a reference that is mov"):
        restored("cuda", awake("best"), pictures)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.AcceleratorError, "CUDA error: uncorrectable ECC error encountered\nCUDA kernel"),
        (torch.AcceleratorError, "CUDA error: unspecified launch failure"),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
@pytest.mark.parametrize("name", ["fast", "best"])
def test_a_device_that_fails_is_told_in_a_sentence(
    card: Card, name: str, error: type[Exception], words: str
) -> None:
    options = RestoreOptions("cuda", "fp32", batch_size=2, compile_after=NEVER)
    restorer = Restorer(awake(name), options, (50, 70))
    card.fail = Full(0, error, words)
    sentence = f"cuda has failed \\({words.splitlines()[0]}\\)"
    with pytest.raises(DeviceError, match=sentence):
        list(restorer.restore(clip(6)))


def test_a_card_that_computes_nothing_is_left_alone(
    card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    words = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel"
    card.fail = Full(0, torch.AcceleratorError, words)
    assert choose_device("auto") == choose_device("auto") == torch.device("cpu")
    (told,) = caplog.records
    assert "the GPU cannot be used (CUDA error: no kernel image is available" in told.getMessage()
    with pytest.raises(DeviceError, match=r"--device cuda: cannot be used .*no kernel image"):
        choose_device("cuda")


@pytest.mark.usefixtures("card")
def test_a_driver_that_is_too_old_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def is_available() -> bool:

        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    assert choose_device("auto") == torch.device("cpu")
    assert "driver on your system is too old); restoring on the CPU" in caplog.text


def test_bfloat_is_for_ampere_and_newer(card: Card) -> None:
    cuda = torch.device("cuda")

    def chosen(name: str) -> str:
        return choose_precision(cuda, name, has_int8=False, is_large=True)

    assert (chosen("bf16"), training_precision(cuda)) == ("bf16", torch.bfloat16)
    card.capability = (7, 5)
    assert (chosen("auto"), training_precision(cuda)) == ("fp16", torch.float16)
    with pytest.raises(DeviceError, match="--precision bf16: cuda is older than Ampere; use fp16"):
        chosen("bf16")


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_stays_within_a_grey_level_in_half_precision(name: str) -> None:
    rng = np.random.default_rng(4)
    noise, flat = rng.integers(0, 256, (24, 32)), np.full((24, 32), 255)
    blocks = rng.integers(0, 256, (3, 4)).repeat(8, 0).repeat(8, 1)
    pictures = [
        Picture(luma.astype(np.uint8), qp=np.full((2, 2), qp, np.int16))
        for luma, qp in ((noise, 51), (blocks, 38), (flat, 51), (0 * flat, 22))
    ]
    network, results = load_weights(name).network, []
    for dtype in (torch.float32, torch.float16):
        restorer = Restorer(network, RestoreOptions("cpu", "fp32", reuse=False), (24, 32))
        engine: Any = restorer.engine
        engine._dtype = dtype
        engine._network = engine._run = engine._moved(network)
        results.append(list(restorer.restore(pictures)))
        network = network.float()
    assert equal(*results)
