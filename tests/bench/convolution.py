"""One of car's convolutions alone, with its bias, LeakyReLU and skip: what fusing them is worth."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import Row, size_name
from .timing import median_ms, take_times

_CHANNELS, _SLOPE = 64, 0.2
_TIMES = 20  # in a run on a card, where one is too short to be timed


def measure(device: torch.device, size: tuple[int, int], runs: int) -> list[Row]:
    """Time 64 to 64 channels: the convolution alone, then with what follows it, apart and fused.

    Fused is what torch's inductor makes of it, and a kernel of ours; without a card both are left
    out.
    """
    on_cuda = device.type == "cuda"
    kind = torch.float16 if on_cuda else torch.float32
    x, skip = (
        torch.rand(1, _CHANNELS, *size, device=device)
        .to(kind)
        .to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    layer = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1).to(device, kind)
    layer = layer.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]

    def whole(x: Tensor, skip: Tensor) -> Tensor:
        return F.leaky_relu(layer(x), _SLOPE, inplace=True) + skip

    forms: dict[str, Callable[[], object]] = {
        "convolution alone": lambda: F.conv2d(x, layer.weight, None, padding=1),
        "with bias, activation and skip": lambda: whole(x, skip),
    }
    if on_cuda:
        fused = torch.compile(whole, dynamic=False)
        forms["the same, compiled"] = lambda: fused(x, skip)
        forms |= _our_kernel(layer, x, skip)
    times = _TIMES if on_cuda else 1

    def repeated(form: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            for _ in range(times):
                form()
            if on_cuda:
                torch.cuda.synchronize(device)

        return run

    with torch.inference_mode():
        taken = take_times({name: repeated(form) for name, form in forms.items()}, runs)
    flop = 2 * layer.weight.numel() * size[0] * size[1]
    rows: list[Row] = []
    for name in forms:
        ms = median_ms(taken, name) / times
        row = {"part": "convolution", "size": size_name(size), "what": name, "type": str(kind)}
        rows.append(row | {"ms": ms, "gflops": flop / ms / 1e6, "car_at_33_ms": 33 * ms})
    return rows


def _our_kernel(
    convolution: torch.nn.Conv2d, x: Tensor, skip: Tensor
) -> dict[str, Callable[[], object]]:
    try:
        from carfilter.restore.fused import as_rows, layer
    except ImportError:  # no Triton
        return {}
    rows = as_rows(convolution)
    return {"the same, in one kernel": lambda: layer(x, *rows, _SLOPE, skip)}
