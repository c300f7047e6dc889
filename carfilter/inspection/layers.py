"""What is laid over a picture: its QP, the types of its blocks, what did not change, its motion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from carfilter.media.stills import Rgb
from carfilter.media.survey.reading import Vectors
from carfilter.pictures import Blocks, QpMap

CELL = 8  # pixels to a side of the map of block types
INTRA, WHOLE, HALF, QUARTER = 0, 1, 2, 3
# Okabe & Ito's palette, told apart by colour-blind readers, https://jfly.uni-koeln.de/color/
BLOCK_COLOURS = ((213, 94, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
BLOCK_NAMES = ("intra", "16x16", "16x8, 8x16", "8x8 and smaller")
UNCHANGED_COLOUR = (0, 114, 178)
# From fine to coarse, the ends of QP 10 and 51 and what lies between, as blue to yellow to red.
_STOPS = np.array([[44, 80, 160], [90, 170, 190], [250, 225, 120], [235, 120, 60], [150, 10, 40]])
_FINEST, _COARSEST = 10, 51
_SHORTEST = 1.0  # pixels of a motion that is drawn
_MOST = 2500  # vectors that are drawn, the longest ones


def qp_layer(qp: QpMap) -> Rgb:
    """Return a colour for each macroblock, RGBA."""
    share = np.clip((qp.astype(np.float64) - _FINEST) / (_COARSEST - _FINEST), 0, 1)
    at = share * (len(_STOPS) - 1)
    places = np.arange(len(_STOPS))
    channels = [np.interp(at, places, _STOPS[:, channel]) for channel in range(3)]
    return _with_alpha(np.stack(channels, axis=-1).astype(np.uint8))


def qp_legend() -> str:
    """Return the colours of qp_layer() as CSS has a gradient."""
    return ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in _STOPS)


def unchanged_layer(unchanged: Blocks) -> Rgb:
    """Return a colour where a macroblock did not change, RGBA, and nothing elsewhere."""
    layer = np.zeros((*unchanged.shape, 4), np.uint8)
    layer[unchanged] = (*UNCHANGED_COLOUR, 255)
    return layer


def block_types(vectors: Vectors | None, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the type of each cell of 8x8 pixels: intra where it has no vector.

    Args:
        size: width and height of the picture.
    """
    columns, rows = (-(-side // CELL) for side in size)
    types = np.full((rows, columns), INTRA, np.uint8)
    if vectors is None:
        return types
    for width, height in ((16, 16), (16, 8), (8, 16), (8, 8)):
        here = vectors[(vectors["w"] == width) & (vectors["h"] == height)]
        kind = WHOLE if width == height == 16 else QUARTER if width == height else HALF
        left, top = (here["dst_x"] - width // 2) // CELL, (here["dst_y"] - height // 2) // CELL
        for down in range(height // CELL):
            for across in range(width // CELL):
                y, x = np.clip(top + down, 0, rows - 1), np.clip(left + across, 0, columns - 1)
                types[y, x] = kind
    return types


def block_layer(types: npt.NDArray[np.uint8]) -> Rgb:
    """Return a colour for each cell, RGBA."""
    return _with_alpha(np.array(BLOCK_COLOURS, np.uint8)[types])


def motion_path(vectors: Vectors | None) -> str:
    """Return a line for each block from where its content was in an earlier picture, as SVG."""
    if vectors is None:
        return ""
    past = vectors[vectors["source"] < 0]
    scale = np.maximum(past["motion_scale"].astype(np.float64), 1)
    across, down = past["motion_x"] / scale, past["motion_y"] / scale
    length = np.hypot(across, down)
    longest = np.argsort(-length)[:_MOST]
    return "".join(
        f"M{past['dst_x'][i] + across[i]:.0f} {past['dst_y'][i] + down[i]:.0f}"
        f"L{past['dst_x'][i]} {past['dst_y'][i]}"
        for i in longest
        if length[i] >= _SHORTEST
    )


def _with_alpha(colours: npt.NDArray[np.uint8]) -> Rgb:
    alpha = np.full((*colours.shape[:-1], 1), 255, np.uint8)
    layer: Rgb = np.concatenate((colours, alpha), axis=-1)
    return layer
