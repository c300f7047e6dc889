"""Where and in what precision a network runs."""

import functools
import logging
import warnings

import torch

from carfilter.errors import DeviceError
from carfilter.restore.failures import in_a_line

logger = logging.getLogger("carfilter")

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BFLOAT_CAPABILITY = (8, 0)  # Ampere; of Turing torch says it can, but cuDNN has no convolution


def choose_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; "auto" takes a card that works.

    Raises:
        DeviceError: there is no such device, or it computes nothing.
    """
    if name == "auto":
        return torch.device("cuda" if _has_working_card() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: unknown; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"--device {name}: not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise DeviceError(f"--device {name}: {found} CUDA devices are here; use --device cpu")
        if reason := why_unusable(device):
            raise DeviceError(
                f"--device {name}: cannot be used ({reason}); look at it with nvidia-smi, install"
                " a driver and a torch that fit it, or use --device cpu"
            )
    return device


def has_card() -> tuple[bool, str]:
    """Say whether torch sees a card, and if not, what it has to say on that; opens none."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        seen = torch.cuda.is_available()
    return seen, "" if seen or not told else str(told[0].message).strip().partition("\n")[0]


@functools.cache  # so that it is said once
def _has_working_card() -> bool:
    seen, reason = has_card()
    if seen:
        reason = why_unusable(torch.device("cuda"))
    if reason:
        logger.warning("the GPU cannot be used (%s); restoring on the CPU", reason)
    return seen and not reason


@functools.cache
def why_unusable(device: torch.device) -> str:
    """Return why a card computes no convolution in half precision; "" where it does.

    That there is one says little: torch may have no code for so old a card, or the driver none for
    so new a torch, or another process may have it for itself.
    """
    try:
        x = torch.ones(1, 16, 8, 8, dtype=torch.float16, device=device)
        kernel = torch.ones(16, 16, 3, 3, dtype=torch.float16, device=device)
        total = float(torch.nn.functional.conv2d(x, kernel).float().sum())
    except RuntimeError as error:
        return in_a_line(error)
    wanted = 16 * 6 * 6 * 16 * 9
    return "" if total == wanted else f"a convolution gave {total:g} instead of {wanted}"


def choose_precision(device: torch.device, name: str, *, has_int8: bool, is_large: bool) -> str:
    """Return in what to compute, a name of PRECISIONS or "int8".

    Args:
        name: what the user asks for; "auto" leaves the choice to the device.
        has_int8: an int8 network was asked for or may be taken, and there is one.
        is_large: the network is one for GPUs, which takes seconds a frame in fp32 on a CPU.

    Raises:
        DeviceError: unknown, or not to be had on this device.
    """
    if name not in ("auto", "int8", *PRECISIONS):
        known = ", ".join(("auto", "int8", *PRECISIONS))
        raise DeviceError(f"--precision {name}: unknown; give one of {known}")
    if has_int8:
        return "int8"
    if name == "int8":
        raise DeviceError(
            "--precision int8: needs a fast model that was calibrated, and a CPU with VNNI, or with"
            " AVX2 where a C compiler was there at installing; use --precision auto"
        )
    has_bfloat = bfloat_is_fast(device)
    if device.type == "cuda":
        if name == "bf16" and not has_bfloat:
            raise DeviceError(f"--precision bf16: {device} is older than Ampere; use fp16 or auto")
        return "fp16" if name == "auto" else name
    if name == "auto":
        return "bf16" if is_large and has_bfloat else "fp32"
    if name == "fp16" or (name == "bf16" and not has_bfloat):
        needs = "a CUDA device" if name == "fp16" else "a CUDA device or a CPU with AMX"
        raise DeviceError(f"--precision {name}: needs {needs}; use fp32 or auto")
    return name


def bfloat_is_fast(device: torch.device) -> bool:
    """Say whether a device has matrix units for bfloat16: CUDA from Ampere on, a CPU with AMX.

    Other CPUs convert to float32 and back at each layer, which costs more than it saves.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BFLOAT_CAPABILITY
    return device.type == "cpu" and has_amx()


def training_precision(device: torch.device) -> torch.dtype | None:
    """Return the half precision that training computes in; None is float32.

    float16 has too small a range for gradients, which are to be scaled then.
    """
    if bfloat_is_fast(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None


def has_amx() -> bool:
    """Say whether this CPU has Intel's matrix units, for bfloat16 and int8 alike."""
    # torch names the CPU's other abilities in public, but not this one in all versions we take.
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return probe is not None and bool(probe())
