"""Measure a restored video from anywhere against its clean and its distorted version.

Frames belong together by their timestamps; whatever does not fit is refused with the reason.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from carfilter.errors import MediaError
from carfilter.evaluation import methods
from carfilter.evaluation.evaluate import Evaluation, OnStep, measure_clip
from carfilter.evaluation.measures import Measure, psnr_per_frame
from carfilter.evaluation.prepared import Prepared, Variant
from carfilter.media.clips import Clip, read_clip
from carfilter.media.opening import sha256_of
from carfilter.media.options import SourceOptions
from carfilter.media.source import Decoded, open_source

# Matroska ticks at 1 ms: two files may differ by half a tick each and another in the first frame.
_TOLERANCE = Fraction(2, 1000)


def read_times(path: Path) -> list[Fraction]:
    """Return the time of each frame in seconds, the first one at zero."""
    source = open_source(str(path), SourceOptions(audio=False, subtitles=False, data=False))
    try:
        base = source.time_base
        events = (event for event in source.events() if isinstance(event, Decoded))
        ticks = [event.frame.pts for event in events]
    finally:
        source.close()
    known = [tick for tick in ticks if tick is not None]
    return [(tick - known[0]) * base for tick in known]


def check_pair(reference: Path, clean: Clip, other: Path, clip: Clip) -> None:
    """Refuse a video that does not show the same frames at the same times as the reference.

    Raises:
        MediaError: size, number of frames, range or timing differ.
    """
    (frames, height, width), shape = clean.luma.shape, clip.luma.shape
    if shape[1:] != (height, width):
        raise MediaError(
            f"{other}: is {shape[2]}x{shape[1]}, but {reference} is {width}x{height};"
            " scale one of them first"
        )
    if shape[0] != frames:
        raise MediaError(
            f"{other}: has {shape[0]} frames, but {reference} has {frames}; cut both alike"
        )
    if clip.full_range != clean.full_range:
        raise MediaError(
            f"{other}: its luma is declared {'full' if clip.full_range else 'limited'} range and"
            f" that of {reference} is not, so the difference would measure that; convert one first"
        )
    for index, (ours, theirs) in enumerate(
        zip(read_times(reference), read_times(other), strict=False)
    ):
        if abs(ours - theirs) > _TOLERANCE:
            raise MediaError(
                f"{other}: its frame {index} comes at {float(theirs):.3f} s, but that of"
                f" {reference} at {float(ours):.3f} s; frames were dropped, repeated or retimed"
            )


def evaluate_pair(
    reference: Path,
    distorted: Path,
    restored: Path,
    measures: Sequence[Measure],
    cache: Path,
    rows: Sequence[methods.Method] = (),
    on_step: OnStep = lambda _text, _total: None,
) -> tuple[Evaluation, methods.Method]:
    """Measure decode and restored, and any further rows, of one pair; return the restored's row.

    Raises:
        MediaError: a file cannot be decoded or does not fit the reference.
    """
    clean, coded, result = (read_clip(path) for path in (reference, distorted, restored))
    check_pair(reference, clean, distorted, coded)
    check_pair(reference, clean, restored, result)
    sums = {path: sha256_of(path) for path in (reference, distorted, restored)}
    bits = 8 * sum(coded.packet_bytes)
    variant = Variant(
        crf=None,
        cap=None,
        kbps=bits / coded.seconds / 1000,
        mean_qp=None if coded.qp is None else float(coded.qp.mean()),
        cap_share=None,
        decode_psnr=sum(psnr_per_frame(clean.luma, coded.luma)) / len(clean.luma),
        video=distorted,
        sha256=sums[distorted],
        compared=distorted,
    )
    shown = methods.given(restored.name, result)
    shown = replace(shown, key=f"given-{sums[restored]}", sha256=sums[restored])
    prepared = Prepared(reference.stem, sums[reference], reference, (variant,))
    every_row = [methods.decode(), shown, *rows]
    done = measure_clip(
        prepared, every_row, measures, cache, lambda text: on_step(text, len(every_row))
    )
    return Evaluation(clips=[done], columns=[(None, (None,))], codec=""), shown
