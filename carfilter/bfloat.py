"""Whether bfloat16 is worth it: twice to five times as fast as float32, or slower."""

import torch


def is_fast_on(device: torch.device) -> bool:
    """Say whether a device has matrix units for bfloat16: CUDA, or a CPU with AMX.

    Other CPUs convert to float32 and back at each layer, which costs more than it saves.
    """
    if device.type == "cuda":
        return True
    # torch names the CPU's other abilities in public, but not this one in all versions we take.
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and probe is not None and bool(probe())
