"""Pictures in batches: how they are grouped, and how many go together on which device."""

import time
from collections.abc import Callable, Iterable, Iterator

from carfilter.pictures import Picture

_CPU_BATCH_PIXELS = 912 * 512  # one 512p frame fills two cores; smaller ones go in batches
_CUDA_BATCH_PIXELS = 4 * 1080 * 1920  # so that 2 and 1 are tried beside it

# Sizes are compared once a clip has filled so many batches: comparing costs as much as a dozen of
# them, more than a shorter clip could win.
MEASURED_AT_BATCH = 32
_TRIED_SIZES = 4
_TIMES = 2  # each is timed; the best counts
_TRY_SECONDS = 1.0  # after them no further size is tried
_WORTHWHILE = 0.98  # of the time of a larger batch, from which a smaller one is taken


def default_batch(device: str, size: tuple[int, int]) -> int:
    """Return how many pictures of height x width go together where nothing was measured."""
    pixels = _CUDA_BATCH_PIXELS if device == "cuda" else _CPU_BATCH_PIXELS
    most = 32 if device == "cuda" else 8
    return max(1, min(most, pixels // (size[0] * size[1])))


def batches(pictures: Iterable[Picture], batch_size: Callable[[], int]) -> Iterator[list[Picture]]:
    """Group pictures of one size and depth, as many as batch_size() says at the time."""
    batch: list[Picture] = []
    for picture in pictures:
        if batch and (picture.luma.shape != batch[0].luma.shape or picture.depth != batch[0].depth):
            yield batch
            batch = []
        batch.append(picture)
        if len(batch) >= batch_size():
            yield batch
            batch = []
    if batch:
        yield batch


def fastest_batch(restore: Callable[[int], object], most: int) -> int:
    """Return into batches of which size `most` pictures are best divided, `most` or a part of it.

    A smaller one is taken only where it is clearly faster.

    Args:
        restore: restores `most` pictures in batches of so many, and returns when they are done; in
            one batch it has done so before.
    """
    began, seconds, size = time.perf_counter(), dict[int, float](), most
    while size >= 1 and len(seconds) < _TRIED_SIZES:
        if size < most:
            restore(size)  # once unmeasured: kernels are chosen for each new shape
        seconds[size] = min(_seconds(restore, size) for _ in range(_TIMES))
        if time.perf_counter() - began > _TRY_SECONDS:
            break
        size //= 2
    best = most
    for tried, taken in seconds.items():
        if taken < seconds[best] * _WORTHWHILE:
            best = tried
    return best


def _seconds(restore: Callable[[int], object], size: int) -> float:
    began = time.perf_counter()
    restore(size)
    return time.perf_counter() - began
