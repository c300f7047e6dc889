"""What a device's errors mean: too little memory, or a device that has failed.

Torch says it in several ways, by the library that met it: its allocator, cuDNN, cuBLAS, the driver.
"""

import torch

_NO_MEMORY = (
    "allocate memory",  # torch's words for a CPU
    "out of memory",
    "ALLOC_FAILED",  # cuDNN and cuBLAS, which allocate for themselves
    "unable to find an engine",  # cuDNN, which tried each one and had memory for none
)
_FAILED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether a smaller piece of the work might have gone well."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_device_failure(error: BaseException) -> bool:
    """Say whether the device has failed: nothing more comes from it in this process."""
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FAILED)


def in_a_line(error: BaseException) -> str:
    """Return the first line of what an error says, without its last stop."""
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__
