"""What is measured of a restored clip against the clean one: plain values per frame, for the cache.

Each measure has a key that names everything its values depend on besides the two clips.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from carfilter import metrics
from carfilter.detection.detector import Boxes, Detector, bgr_from_yuv
from carfilter.evaluation import baselines
from carfilter.evaluation.flow_picture import flow_picture
from carfilter.media.clips import Clip, Planes

IDENTICAL_PSNR = 100.0
"""dB that stand for identical frames, whose PSNR is infinite and would swallow every mean."""
BOXES = "boxes"
"""How the values begin that are boxes."""
PATCH = 96
"""Pixels to a side of a detail that the report shows magnified."""
SMALLEST_SIDE = 11
"""Pixels: SSIM's window has to lie inside the picture."""
_SSIM_PIXELS = 1 << 20  # of a batch: its ten float planes stay within a cache of tens of megabytes


@dataclass(frozen=True)
class Measure:
    """A function of (clean, test) with the name its results are kept under."""

    key: str
    run: Callable[[Clip, Clip], dict[str, Any]]
    of_clean: bool = False  # also wanted of the clean clip itself


def psnr_per_frame(clean: Planes, test: Planes) -> list[float]:
    """Return the PSNR in dB of each frame, uint8 [N, H, W]; identical ones count as 100 dB."""
    pairs = zip(clean, test, strict=True)
    return [min(metrics.psnr(truth, frame), IDENTICAL_PSNR) for truth, frame in pairs]


def ssim_per_frame(clean: Planes, test: Planes) -> list[float]:
    """Return the SSIM (Wang 2004, see metrics.ssim) of each frame, computed in float32."""
    step = max(1, _SSIM_PIXELS // clean[0].size)
    values: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(clean), step):
            pair = [
                torch.from_numpy(planes[start : start + step]).to(torch.float32)[:, None]
                for planes in (clean, test)
            ]
            values += metrics.ssim_of_batch(pair[0], pair[1], 255.0).tolist()
    return values


def _quality(clean: Clip, test: Clip) -> dict[str, Any]:
    flicker = metrics.static_flicker(clean.luma, test.luma)
    return {
        "psnr": psnr_per_frame(clean.luma, test.luma),
        "ssim": ssim_per_frame(clean.luma, test.luma),
        "flicker": [None if np.isnan(value) else float(value) for value in flicker],
    }


def quality() -> Measure:
    """Measure PSNR, SSIM and flicker of each frame."""
    return Measure("quality-1", _quality)


def vmaf(threads: int = 2) -> Measure:
    """Measure VMAF and VMAF NEG of each frame."""
    key = f"vmaf-1-{baselines.ffmpeg_version()}"
    return Measure(key, lambda clean, test: baselines.vmaf(clean.luma, test.luma, threads))


def boxes(detector: Detector, name: str, key: str, every: int = 1) -> Measure:
    """Detect on every n-th frame, the first included.

    Args:
        name: of the value, one for each detector; begins with BOXES.
        key: checksum of the detector's file and its settings.
    """

    def run(_clean: Clip, test: Clip) -> dict[str, Any]:
        found = (detector(bgr(test, index)) for index in range(0, len(test.luma), every))
        return {name: [_pack(frame) for frame in found]}

    return Measure(f"boxes-2-{name}-{key}-{every}", run, of_clean=True)


def bgr(clip: Clip, index: int) -> Planes:
    """Return one frame as BGR, uint8 [H, W, 3]."""
    return bgr_from_yuv(clip.luma[index], clip.chroma[index, 0], clip.chroma[index, 1])


def _pack(found: Boxes) -> list[list[float]]:
    table = np.concatenate((found.corners, found.scores[:, None], found.classes[:, None]), axis=1)
    return [[round(float(value), 5) for value in row] for row in table]


def unpack_boxes(rows: Sequence[Sequence[float]]) -> Boxes:
    """Return the boxes of a frame from the plain lists that the cache holds."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Boxes(
        table[:, :4].astype(np.float32),
        table[:, 4].astype(np.float32),
        table[:, 5].astype(np.int64),
    )


def picture(every: int = 1) -> Measure:
    """Keep the frame in the middle of the clip (of those a detector saw) for the report.

    Of the clean clip also the motion to it, and where most moves, as [top, left, size] of a square.
    """

    def run(clean: Clip, test: Clip) -> dict[str, Any]:
        index = shown_frame(len(test.luma), every)
        shown = {"picture": _stored(np.ascontiguousarray(bgr(test, index)[..., ::-1]))}
        if test is not clean:
            return shown
        before, now = clean.luma[max(index - 1, 0)], clean.luma[index]
        colours, fastest = flow_picture(before, now)
        change = np.abs(now.astype(np.int16) - before)
        moving = list(busiest_square(change))
        return {**shown, "moving": moving, "flow": _stored(colours), "fastest": fastest}

    return Measure(f"picture-3-{every}", run, of_clean=True)


def _stored(rgb: Planes) -> str:
    from PIL import Image

    kept = io.BytesIO()
    Image.fromarray(rgb).save(kept, "WEBP", lossless=True, method=4)
    return base64.b64encode(kept.getvalue()).decode()


def busiest_square(values: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Return top, left and size of the PATCH-sized square of the largest sum in [H, W]."""
    size = min(PATCH, *values.shape)
    total = np.pad(values.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left), size


def shown_frame(frames: int, every: int = 1) -> int:
    """Return the index of the frame that the report shows."""
    return frames // 2 // every * every
