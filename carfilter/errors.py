"""The errors a user can cause or meet; str() of each is one sentence that says what to do.

CarfilterError
+-- MediaError      cannot open, decode, encode or mux
|   +-- DownstreamClosedError  the reader of our output has gone
|   +-- NotAVideoError  a readable file, and none that can be restored
+-- WeightsError    missing, foreign or damaged checkpoint
+-- DeviceError     no such device, out of memory, or it has failed
|   +-- DecodingDeviceError  what decodes has failed, not what restores
+-- ImpossibleValueError  no option or picture has such a value; a ValueError as well
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_TORCH = "torch>=2.9,<2.14"  # as in pyproject.toml


class CarfilterError(Exception):
    """Say in one sentence what failed, on which file, and what to do about it."""


class MediaError(CarfilterError):
    """A file, pipe or stream cannot be opened, decoded, encoded or muxed."""


class DownstreamClosedError(MediaError):
    """The program that reads our output has closed the pipe: end quietly, it knows why."""


class NotAVideoError(MediaError):
    """A file is readable and holds no video: sound, subtitles, a list of other files."""


class WeightsError(CarfilterError):
    """A checkpoint is missing, foreign or damaged."""


class DeviceError(CarfilterError):
    """A device does not exist, has failed, or its memory does not suffice."""

    partial: Path | None = None  # what was done before it failed, where that is kept


class DecodingDeviceError(DeviceError):
    """The device that decodes has failed: nothing more comes from the source."""


class ImpossibleValueError(CarfilterError, ValueError):
    """An option or a picture is given what it cannot have; as Python's own, a ValueError."""


@contextlib.contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Make a sentence of it where `what` needs torch, without which int8 restores, and it lacks.

    Raises:
        DeviceError: torch is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise DeviceError(
            f'{what} needs PyTorch, which is not installed; pip install "{_TORCH}"'
        ) from error
