"""Bjontegaard's delta rate: how many bits a filter is worth at equal quality.

The bitrate is that of the compressed video; the quality is measured after the filter.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SAMPLES = 2001  # of the curve between the common qualities; the mean is then good to 1e-6

Values = npt.NDArray[np.float64]


def bd_rate(
    rates: Sequence[float],
    quality: Sequence[float],
    test_rates: Sequence[float],
    test_quality: Sequence[float],
) -> float | None:
    """Return the mean difference of bitrate at equal quality in per cent; negative saves bits.

    Logarithm of the rate over quality, interpolated by monotone cubics (PCHIP), averaged over the
    qualities that both reach (ITU-T VCEG-M33 and, for the interpolation, JCTVC-B055).

    Returns:
        None if there are fewer than two points, a curve is not monotone, or they share no quality.
    """
    curves = [_curve(rates, quality), _curve(test_rates, test_quality)]
    if any(len(x) < 2 or (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any() for x, y in curves):
        return None
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low >= high:
        return None
    at = np.linspace(low, high, _SAMPLES)
    reference, test = (pchip(x, y, at) for x, y in curves)
    return float((np.exp(np.trapezoid(test - reference, at) / (high - low)) - 1) * 100)


def _curve(rates: Sequence[float], quality: Sequence[float]) -> tuple[Values, Values]:
    """Return qualities and logarithms of rates in order of rate."""
    order = np.argsort(rates)
    return np.asarray(quality, np.float64)[order], np.log(np.asarray(rates, np.float64)[order])


def pchip(x: Values, y: Values, at: Values) -> Values:
    """Interpolate increasing points monotonically by cubic Hermite pieces.

    Derivatives after Fritsch & Butland, SIAM J. Sci. Stat. Comput. 5(2), 1984.
    """
    step, slope = np.diff(x), np.diff(y) / np.diff(x)
    derivative = _derivatives(step, slope)
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(step) - 1)
    t = (at - x[piece]) / step[piece]
    left = (1 + 2 * t) * (1 - t) ** 2 * y[piece] + t * (1 - t) ** 2 * step[piece] * derivative[
        piece
    ]
    right = t**2 * (3 - 2 * t) * y[piece + 1] + t**2 * (t - 1) * step[piece] * derivative[piece + 1]
    return np.asarray(left + right)


def _derivatives(step: Values, slope: Values) -> Values:
    if len(step) == 1:
        return np.repeat(slope, 2)
    before, after = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    product = slope[:-1] * slope[1:]
    safe = np.where(product > 0, slope[:-1], 1), np.where(product > 0, slope[1:], 1)
    harmonic = (before + after) / (before / safe[0] + after / safe[1])
    inner = np.where(product > 0, harmonic, 0.0)
    first = _end(step[0], step[1], slope[0], slope[1])
    last = _end(step[-1], step[-2], slope[-1], slope[-2])
    return np.concatenate(([first], inner, [last]))


def _end(step: float, next_step: float, slope: float, next_slope: float) -> float:
    """Return the one-sided derivative of three points, limited so that the end stays monotone."""
    value = ((2 * step + next_step) * slope - step * next_slope) / (step + next_step)
    if value * slope <= 0:
        return 0.0
    if slope * next_slope <= 0 and abs(value) > 3 * abs(slope):
        return 3 * slope
    return float(value)
