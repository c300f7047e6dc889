"""Times and rates of a video, from its packets alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.inspection.inspection import Coding, Times
from carfilter.media.survey.reading import Survey, VideoPackets
from carfilter.media.survey.stream import Stream

RATE_STEPS = 120  # of the bit rate over time; fewer where a step would hold less than a picture
_GAP_SECONDS, _GAP_PICTURES = 1.0, 4.0  # an interval longer than both is a hole
_MOST_GAPS = 1000
_ODD_SHARE = 0.01  # of intervals that differ, from which a rate is variable
_ODD = 0.1  # by which share of the usual one; besides the rounding of clocks of milliseconds
_ROUNDING = 0.00101

_Floats = npt.NDArray[np.float64]


def times_of(survey: Survey, video: Stream) -> Times:
    """Return when the pictures come."""
    packets = survey.video
    seconds = np.sort(packets.seconds[~np.isnan(packets.seconds)])
    begins, intervals = _intervals(packets)
    usual = float(np.median(intervals)) if len(intervals) else 0.0
    span = float(seconds[-1] - seconds[0]) + _last_duration(packets, usual) if len(seconds) else 0.0
    declared = video.average_rate or video.base_rate
    gaps = np.flatnonzero(intervals > max(_GAP_SECONDS, _GAP_PICTURES * usual))[:_MOST_GAPS]
    return Times(
        seconds=span,
        seconds_by_frames=float(len(packets) / declared) if declared else None,
        rate=len(packets) / span if span > 0 else None,
        is_variable=_is_variable(intervals, usual, float(video.time_base)),
        shortest=float(intervals.min()) if len(intervals) else 0.0,
        longest=float(intervals.max()) if len(intervals) else 0.0,
        gaps=tuple((float(begins[at]), float(intervals[at])) for at in gaps),
        jumps=survey.jumps,
        first_jump=survey.first_jump,
        cut_off=survey.cut_off,
        missing=int((np.isnan(packets.pts) & np.isnan(packets.dts)).sum()),
    )


def _intervals(packets: VideoPackets) -> tuple[_Floats, _Floats]:
    """Return where pictures begin and how long after them the next one does, both in seconds.

    Where some have no pts of their own, as in MPEG-PS, between those that were decoded one after
    the other and have a dts; few others can be told apart there.
    """
    dts = np.array(packets.dts)
    if packets.are_timed.all() or np.isnan(dts).all():
        seconds = np.sort(packets.seconds)
        return seconds[:-1], np.diff(seconds)
    steps = np.diff(dts)
    is_told = steps > 0
    return packets.seconds[:-1][is_told], steps[is_told]


def _last_duration(packets: VideoPackets, usual: float) -> float:
    last = packets.durations[-1] if len(packets) else 0.0
    return last if last > 0 else usual


def _is_variable(intervals: _Floats, usual: float, tick: float) -> bool:
    """A clock of milliseconds rounds: 33 and 34 are one rate."""
    if len(intervals) < 2 or usual <= 0:
        return False
    tolerance = max(_ODD * usual, _ROUNDING, 1.01 * tick)
    odd = np.abs(intervals - usual) > tolerance
    # A hole or two in a recording do not make its rate a variable one.
    return bool(odd.mean() > _ODD_SHARE and odd.sum() > 2)


def coding_of(packets: VideoPackets, times: Times) -> Coding:
    """Return what the packets tell of the coding."""
    sizes = np.array(packets.sizes, np.float64)
    kinds = np.array(packets.types)
    keys = np.flatnonzero(np.frombuffer(bytes(packets.keys), np.uint8))
    apart, steps = _between(packets, keys)
    return Coding(
        pictures=len(packets),
        types=dict(Counter(packets.types)),
        key_frames=len(keys),
        key_seconds=_spread(apart),
        key_pictures=None
        if not len(steps)
        else (int(steps.min()), float(steps.mean()), int(steps.max())),
        bit_rate=float(8 * sizes.sum() / times.seconds) if times.seconds > 0 else 0.0,
        rates=_rates(packets.seconds, sizes, times.seconds),
        type_bytes={
            kind: float(sizes[kinds == kind].mean()) for kind in sorted(set(packets.types))
        },
    )


def _between(packets: VideoPackets, keys: npt.NDArray[np.intp]) -> tuple[_Floats, _Floats]:
    """Return the seconds and the pictures, as they are shown, from each key frame to the next."""
    seconds, timed = packets.seconds, packets.are_timed
    places = np.arange(len(packets))  # as they are coded, where it is not known of all
    if timed.all():
        places = np.argsort(np.argsort(seconds, kind="stable"), kind="stable")
    apart, both = np.diff(seconds[keys]), timed[keys][1:] & timed[keys][:-1]
    apart = apart[both] if both.any() else apart  # of those alone whose times were not filled in
    return apart[~np.isnan(apart)], np.diff(np.sort(places[keys]))


def _spread(values: Any) -> tuple[float, float, float] | None:
    if not len(values):
        return None
    return float(values.min()), float(values.mean()), float(values.max())


def rates_by_type(packets: VideoPackets, span: float) -> dict[str, tuple[float, ...]]:
    """Return bits a second over time, as Coding.rates, of each type of picture by itself."""
    kinds, sizes = np.array(packets.types), np.array(packets.sizes, np.float64)
    order = [kind for kind in "IPBS" if kind in packets.types] + [""] * ("" in packets.types)
    rates = {kind: _rates(packets.seconds, sizes * (kinds == kind), span) for kind in order}
    return {kind: values for kind, values in rates.items() if values}


def _rates(seconds: _Floats, sizes: _Floats, span: float) -> tuple[float, ...]:
    known = ~np.isnan(seconds)
    if span <= 0 or known.sum() < 2:
        return ()
    steps = min(RATE_STEPS, int(known.sum()) // 2)
    place = (seconds[known] - seconds[known].min()) / span * steps
    bits = np.bincount(np.minimum(place.astype(int), steps - 1), 8 * sizes[known], steps)
    return tuple(float(rate) for rate in bits / (span / steps))
