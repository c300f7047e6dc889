"""Where and in what precision a network runs."""

import torch

from carfilter.errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: unknown; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"--device {name}: not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(f"--device {name}: {found} CUDA devices are here; use --device cpu")
    return device


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
            " AVX2 or NEON dot products where carfilter was installed from a wheel or with a C"
            " compiler; use --precision auto"
        )
    if device.type == "cuda":
        return "fp16" if name == "auto" else name
    has_bfloat = bfloat_is_fast(device)
    if name == "auto":
        return "bf16" if is_large and has_bfloat else "fp32"
    if name == "fp16" or (name == "bf16" and not has_bfloat):
        needs = "a CUDA device" if name == "fp16" else "a CUDA device or a CPU with AMX"
        raise DeviceError(f"--precision {name}: needs {needs}; use fp32 or auto")
    return name


def bfloat_is_fast(device: torch.device) -> bool:
    """Say whether a device has matrix units for bfloat16: CUDA has, and a CPU with AMX.

    Other CPUs convert to float32 and back at each layer, which costs more than it saves.
    """
    return device.type == "cuda" or (device.type == "cpu" and has_amx())


def has_amx() -> bool:
    """Say whether this CPU has Intel's matrix units, for bfloat16 and int8 alike."""
    # torch names the CPU's other abilities in public, but not this one in all versions we take.
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return probe is not None and bool(probe())
