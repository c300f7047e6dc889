"""HDR10's static metadata: from the decoded frame into the options of the encoder.

Encoders take the picture's samples and colour tags from the frame, but not the mastering display
and the content light level; each has its own spelling for them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from carfilter.media.frames import side_data

logger = logging.getLogger("carfilter")

_CHROMATICITY, _LUMINANCE = 50_000, 10_000  # units of H.264 and HEVC: 0.00002, 0.0001 cd/m2
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
}


@dataclass(frozen=True)
class MasteringDisplay:
    """The display a picture was graded on: CIE 1931 x, y of its colours, luminance in cd/m2."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    luminance: tuple[Fraction, Fraction]  # highest, lowest


def mastering_display(frame: av.VideoFrame) -> MasteringDisplay | None:
    """Return what the frame says of its mastering display; None where it does not say all."""
    data = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if data is None:
        return None
    # AVMasteringDisplayMetadata: ten rationals of two ints, and which of them are set.
    values = np.frombuffer(memoryview(data), np.int32, count=22).tolist()
    if not (values[20] and values[21]) or 0 in values[1:20:2]:
        return None
    red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y, lowest, highest = (
        Fraction(values[i], values[i + 1]) for i in range(0, 20, 2)
    )
    return MasteringDisplay(
        (red_x, red_y), (green_x, green_y), (blue_x, blue_y), (white_x, white_y), (highest, lowest)
    )


def content_light(frame: av.VideoFrame) -> tuple[int, int] | None:
    """Return MaxCLL and MaxFALL in cd/m2, if the frame has them."""
    data = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if data is None:
        return None
    most, average = np.frombuffer(memoryview(data), np.uint32, count=2).tolist()
    return most, average


def hdr_options(frame: av.VideoFrame, codec: str, given: dict[str, str]) -> dict[str, str]:
    """Return the encoder's options with the frame's HDR10 metadata, unless they name their own.

    What the encoder cannot take is told as a warning.
    """
    display, light = mastering_display(frame), content_light(frame)
    for name in sorted({text for key, text in _DYNAMIC.items() if side_data(frame, key)}):
        logger.warning("the source has %s, which is not carried into the result", name)
    if display is None and light is None:
        return given
    if codec not in _SPELLING:
        logger.warning(
            "the source has HDR10 metadata, which %s does not carry; use libx265 or libsvtav1",
            codec,
        )
        return given
    option, display_key, light_key, decimal = _SPELLING[codec]
    params = given.get(option, "")
    added = []
    if display is not None and display_key not in params:
        added.append(f"{display_key}={_spell(display, decimal=decimal)}")
    if light is not None and f"{light_key}=" not in params:
        added.append(f"{light_key}={light[0]},{light[1]}")
    return {**given, option: ":".join([*([params] if params else []), *added])}


# Where an encoder takes them: its option, the two keys, and whether in decimals or in units.
_SPELLING = {
    "libx265": ("x265-params", "master-display", "max-cll", False),
    "libx264": ("x264-params", "mastering-display", "cll", False),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", True),
}


def _spell(display: MasteringDisplay, *, decimal: bool) -> str:
    def pair(values: tuple[Fraction, Fraction], unit: int) -> str:
        if decimal:
            return ",".join(f"{float(value):.6f}" for value in values)
        return ",".join(str(round(value * unit)) for value in values)

    points = {"G": display.green, "B": display.blue, "R": display.red, "WP": display.white}
    spelled = "".join(f"{name}({pair(at, _CHROMATICITY)})" for name, at in points.items())
    return f"{spelled}L({pair(display.luminance, _LUMINANCE)})"
