"""What was compiled for this CPU when carfilter was installed; see hatch_build.py."""

import ctypes
from functools import cache
from pathlib import Path

from carfilter.restore.int8.kinds import Kind

_FOLDER = Path(__file__).parent


@cache
def load_library(kind: Kind) -> ctypes.CDLL | None:
    """Load what was compiled for a kind of CPU, once; None where it is not to be had."""
    try:
        return ctypes.CDLL(str(_FOLDER / f"{kind.name}.so"))
    except OSError:  # not built, or for another system
        return None
