"""What a QP-aware network is told where the decoder gives no QP: one number, read off the picture.

Told nothing, a network has to treat good video as if it might be bad, and harms it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carfilter.pictures import MACROBLOCK, Picture

PATCH = 64  # pixels, on the macroblock grid
_PATCHES = 24  # of a picture, spread over it
_UNIT = 10.0  # QP steps that the estimator counts as one


class QpEstimator(nn.Module):
    """Estimate the QP at which patches of luma were coded, and how sure that is.

    Float [N, 1, H, W] in -1..1, H and W multiples of 8 and coded on the grid of 16, to float
    [N, 2]: the QP in units of ten, and the logarithm of its variance in these units. Patches
    without detail tell little, and are to say so (Kendall & Gal, NeurIPS 2017, equation 5).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.fourth = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.last = nn.Linear(8 * width, 2)

    def forward(self, luma: Tensor) -> Tensor:
        x = F.pixel_unshuffle(luma, 2)
        for layer in (self.first, self.second, self.third, self.fourth):
            x = F.relu(layer(x))
        answer: Tensor = self.last(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1))
        return answer

    def loss(self, luma: Tensor, qp: Tensor) -> Tensor:
        """Return the negative log-likelihood of the QPs, float [N], up to a constant."""
        value, spread = self(luma).unbind(1)
        likelihood: Tensor = (value - qp / _UNIT).square() * torch.exp(-spread) + spread
        return likelihood.mean()

    @torch.no_grad()
    def estimate(self, luma: Tensor) -> float:
        """Return one QP, 0..51, for patches of one picture: the sure ones count most."""
        value, spread = self(luma).unbind(1)
        weight = torch.exp(-spread)
        return float(_UNIT * (value * weight).sum() / weight.sum())


def with_estimated_qp(pictures: Iterable[Picture], estimator: QpEstimator) -> Iterator[Picture]:
    """Yield the pictures; those whose QP the decoder did not give, with a map of one value."""
    for picture in pictures:
        if picture.qp is not None:
            yield picture
            continue
        rows, columns = (-(-side // MACROBLOCK) for side in picture.luma.shape)
        value = estimator.estimate(patches_of(picture))
        qp = np.full((rows, columns), round(min(max(value, 0.0), 51.0)), np.int16)
        yield replace(picture, qp=qp)


def patches_of(picture: Picture) -> Tensor:
    """Return patches that are spread over the picture, float32 [N, 1, PATCH, PATCH] in -1..1.

    A smaller picture is one patch, mirrored to a size that the estimator takes.
    """
    centre = float(1 << (picture.depth - 1))
    height, width = picture.luma.shape
    if height < PATCH or width < PATCH:
        whole = np.pad(picture.luma, ((0, -height % 8), (0, -width % 8)), "edge")
        return torch.from_numpy(whole.astype(np.float32)[None, None]) / centre - 1
    rows, columns = (np.arange(0, side - PATCH + 1, PATCH) for side in (height, width))
    places = [(row, column) for row in rows for column in columns]
    chosen = places[:: max(1, len(places) // _PATCHES)]
    patches = [picture.luma[y : y + PATCH, x : x + PATCH] for y, x in chosen]
    return torch.from_numpy(np.stack(patches)[:, None].astype(np.float32)) / centre - 1
