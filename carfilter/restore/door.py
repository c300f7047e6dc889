"""The one door behind which either engine stands: int8 without torch, or torch.

torch is imported where a network runs in floating point, on CUDA, or in int8 without a compiled
library for this CPU.
"""

import ctypes
import sys
from dataclasses import replace
from pathlib import Path

from carfilter.errors import needing_torch
from carfilter.restore.engine import Engine, RestoreOptions
from carfilter.restore.int8.engine import RowsEngine
from carfilter.restore.int8.rows import open_rows
from carfilter.restore.weights import Model


def open_engine(model: Model, options: RestoreOptions, size: tuple[int, int]) -> Engine:
    """Return what computes a model here.

    Args:
        size: height and width of most pictures.

    Raises:
        DeviceError: the device or the precision is not to be had here, as without torch.
    """
    needs = f"--device {options.device} --precision {options.precision}"
    wants_int8 = options.precision in ("auto", "int8") and _is_for_cpu(options.device)
    if wants_int8 and model.int8 is not None:
        rows = open_rows(model.int8)
        if rows is not None:
            floats = replace(options, device="cpu", precision="fp32")
            deep = "footage of more than 8 bits"
            return RowsEngine(rows, lambda: _by_torch(model, floats, size, deep), options, size)
        needs = "int8 without compiled code for this CPU"
    return _by_torch(model, options, size, needs)


def _by_torch(model: Model, options: RestoreOptions, size: tuple[int, int], needs: str) -> Engine:
    with needing_torch(needs):
        from carfilter.restore.torch_engine import TorchEngine

    return TorchEngine(model, options, size)


def _is_for_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not count_gpus(device))


def count_gpus(device: str) -> int:
    """Return how many GPUs of this machine a device may stand for: "auto", "cpu", "cuda"...

    Raises:
        DeviceError: there is no such device, or torch is missing, which knows of it.
    """
    if device == "cpu" or (device == "auto" and not may_have_card()):
        return 0
    what = "the GPU whose driver is here" if device == "auto" else f"--device {device}"
    with needing_torch(f"{what} (unlike --device cpu)"):
        import torch

    from carfilter.restore.devices import choose_device

    return torch.cuda.device_count() if choose_device(device).type == "cuda" else 0


def may_have_card() -> bool:
    """Say whether it is worth to load torch, which alone knows what card it can use.

    It is, where a driver of NVIDIA or AMD is there, and where torch is loaded already.
    """
    if "torch" in sys.modules or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
