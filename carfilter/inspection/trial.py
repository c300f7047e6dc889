"""What the filter would take for a file, and how fast it is here: tried on a few pictures of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import numpy as np

from carfilter.inspection.inspection import Filter
from carfilter.media.frames import coded_depth
from carfilter.media.survey.costs import decoding_cost, encoding_cost
from carfilter.media.survey.reading import Survey
from carfilter.pictures import MACROBLOCK, Luma, Picture, cropped
from carfilter.process import cores
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model, load_weights

# Pixels of what is tried on a CPU: the time grows with the area, and so would the memory.
_TRIED_PIXELS = 1 << 18


load_model = functools.lru_cache(maxsize=1)(load_weights)
"""Load weights by name or path, once for many files."""


def try_filter(
    survey: Survey, kept: Sequence[Picture], model: Model, device: str, precision: str
) -> Filter:
    """Restore some pictures that follow each other, and decode and encode them.

    Times are those of the processor, so that other programs on the machine do not count: a run
    alone on it takes as long.

    Args:
        kept: of full size, the first one a key frame.

    Raises:
        DeviceError: the device or the precision is not to be had here.
    """
    context = survey.source.video.codec_context
    size = (context.height, context.width)
    options = RestoreOptions(device=device, precision=precision)
    restorer = Restorer(model, options, size, codec=context.codec.canonical_name)
    on_cpu = restorer.on_cpu
    pieces = [_middle(picture) if on_cpu else picture for picture in kept]
    share = pieces[0].luma.size / kept[0].luma.size if pieces else 1.0
    restored, network = _timed(restorer, pieces, on_cpu=on_cpu)
    network /= share
    decode = decoding_cost(context, survey.tried)
    encode = encoding_cost([_eight_bits(luma, p) for luma, p in zip(restored, pieces, strict=True)])
    encode /= share
    count = cores()
    around = (decode + encode) / count
    each = network / count + around if on_cpu else max(network, around)
    return Filter(
        model=model.name,
        sha256=model.sha256,
        engine=restorer.describe(coded_depth(context)),
        change=_change(pieces, restored),
        network_seconds=network / count if on_cpu else network,
        decode_seconds=decode / count,
        encode_seconds=encode / count,
        seconds=each * len(survey.video),
        pictures=len(pieces),
    )


def _middle(picture: Picture) -> Picture:
    """Return the middle of a picture, on the macroblock grid, both sides even."""
    height, width = picture.luma.shape
    shrink = min((_TRIED_PIXELS / (height * width)) ** 0.5, 1.0)
    if shrink == 1.0:
        return picture
    rows, columns = (
        max(int(side * shrink) // MACROBLOCK * MACROBLOCK, min(side, MACROBLOCK))
        for side in (height, width)
    )
    top = (height - rows) // 2 // MACROBLOCK * MACROBLOCK
    left = (width - columns) // 2 // MACROBLOCK * MACROBLOCK
    return cropped(picture, (top, left, top + rows, left + columns))


def _timed(
    restorer: Restorer, pictures: Sequence[Picture], *, on_cpu: bool
) -> tuple[list[Luma], float]:
    """Return the restored pictures and the seconds for one: of a core, or of a GPU by the clock.

    The first picture is a warm-up; it is taken off again, since a key frame is computed whole where
    of others only what changed is.
    """
    clock = time.process_time if on_cpu else time.perf_counter
    list(restorer.restore(iter(pictures[:1])))
    begun = clock()
    list(restorer.restore(iter(pictures[:1])))
    first = clock() - begun
    begun = clock()
    restored = [luma.copy() for luma in restorer.restore(iter(pictures))]
    whole = clock() - begun
    more = len(pictures) - 1
    return restored, max(whole - first, 0.0) / more if more else first


def _eight_bits(luma: Luma, picture: Picture) -> Luma:
    height, width = (side // 2 * 2 for side in luma.shape)
    eight: Luma = (luma >> (picture.depth - 8)).astype(np.uint8)[:height, :width]
    return eight


def _change(pictures: Sequence[Picture], restored: Sequence[Luma]) -> float:
    """Return the root of the mean square of what was changed, in levels at 8 bits."""
    squares = [
        float(np.square(luma.astype(np.float32) - picture.luma).mean()) / 4 ** (picture.depth - 8)
        for luma, picture in zip(restored, pictures, strict=True)
    ]
    return float(np.mean(squares)) ** 0.5 if squares else 0.0
