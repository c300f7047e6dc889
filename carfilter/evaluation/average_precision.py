"""Mean average precision of detections at IoU 0.50, through pycocotools, with its uncertainty.

The truth is what the same detector finds on the clean clip, so a value says how much of that
survives compression and filtering, not how good the detector is.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.detection.detector import Boxes
from carfilter.errors import CarfilterError

_IOU = 0.5
_RECALLS = np.linspace(0, 1, 101)  # COCO's interpolation points
_BLOCK = 5  # neighbouring frames that are drawn together
_MAX_BOXES = 100  # of a class in a frame, as in COCO
_EVERYTHING = 1e10  # pixels
SMALL = 32.0**2
"""Pixels up to which COCO calls a thing small."""
FEWEST_BOXES = 20
"""Boxes of the truth that a class needs to count: a handful would move the mean by tenths."""


@dataclass(frozen=True)
class ClassScore:
    """Average precision of one class and how many boxes it rests on."""

    precision: float
    truths: int
    found: int


@dataclass(frozen=True)
class Precision:
    """Mean over the classes that count; NaN where the truth has no box at all."""

    mean: float
    classes: dict[str, ClassScore]
    counted: tuple[str, ...]  # names of the classes in the mean

    @property
    def truths(self) -> int:
        """Boxes in the truth."""
        return sum(score.truths for score in self.classes.values())


@dataclass(frozen=True)
class _Matches:
    """The detections of one class in all frames, best first."""

    frames: npt.NDArray[np.int64]  # [M]
    correct: npt.NDArray[np.bool_]  # [M]
    truths: npt.NDArray[np.int64]  # [frames]: boxes of the truth in each frame


def truth_of(detected: Sequence[Boxes], score: float) -> list[Boxes]:
    """Return the boxes of each frame that are sure enough to count as truth."""
    return [boxes.select(boxes.scores >= score) for boxes in detected]


def _count(boxes: Boxes, kind: int, largest: float) -> int:
    sides = boxes.corners[:, 2:] - boxes.corners[:, :2]
    return int(((boxes.classes == kind) & (sides.prod(1) <= largest)).sum())


def counted_classes(
    truth: Sequence[Boxes], names: Mapping[int, str], largest: float = _EVERYTHING
) -> dict[int, str]:
    """Return the classes with enough boxes in the truth; if there are none, those with any."""
    boxes = {i: sum(_count(frame, i, largest) for frame in truth) for i in names}
    enough = {i: name for i, name in names.items() if boxes[i] >= FEWEST_BOXES}
    return enough or {i: name for i, name in names.items() if boxes[i]}


def average_precision(
    truth: Sequence[Boxes],
    test: Sequence[Boxes],
    names: Mapping[int, str],
    largest: float = _EVERYTHING,
) -> Precision:
    """Return the mean average precision of `test` against `truth`, one `Boxes` per frame each.

    Args:
        largest: area in pixels up to which things count; larger ones are neither right nor wrong.
        names: class index to name, of the classes that are scored; see counted_classes().
    """
    counted = tuple(counted_classes(truth, names, largest).values())
    result = _evaluate(truth, test, names, largest)
    with contextlib.redirect_stdout(io.StringIO()):
        result.accumulate()
    curves = result.eval["precision"][0, :, :, 0, 0]  # [recalls, classes]
    classes = {}
    for column, (index, name) in enumerate(names.items()):
        truths = sum(_count(boxes, index, largest) for boxes in truth)
        found = sum(int((boxes.classes == index).sum()) for boxes in test)
        value = float(curves[:, column].mean()) if truths else float("nan")
        classes[name] = ClassScore(value, truths, found)
    values = [classes[name].precision for name in counted]
    return Precision(float(np.mean(values)) if values else float("nan"), classes, counted)


def difference_interval(
    truth: Sequence[Boxes],
    first: Sequence[Boxes],
    second: Sequence[Boxes],
    names: Mapping[int, str],
    clips: Sequence[int],
    replicates: int = 500,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of mAP(first) - mAP(second) over clips and their frames.

    Clips are drawn with replacement, then blocks of neighbouring frames of each, the same for both
    sides (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, percentile
    method; blocks as in Künsch, Annals of Statistics 17(3), 1989): frames of a video resemble each
    other, so single ones would promise more than is known.

    Args:
        clips: of each frame, the number of its clip.
    """
    counted = counted_classes(truth, names)
    matches = [_matches(truth, test, counted) for test in (first, second)] if counted else [[], []]
    rng = np.random.default_rng(0)
    differences = []
    owners = np.asarray(clips, np.int64)
    for _ in range(replicates):
        weights = _drawn(owners, rng)
        one, two = (_weighted_mean(side, weights) for side in matches)
        differences.append(one - two)
    known = [difference for difference in differences if not np.isnan(difference)]
    if not known:  # no truth at all
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _drawn(clips: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how often each frame is drawn, when clips and blocks of their frames are."""
    weights = np.zeros(len(clips), np.int64)
    numbers = np.unique(clips)
    for number in rng.choice(numbers, len(numbers)):
        frames = np.flatnonzero(clips == number)
        side = min(_BLOCK, len(frames))
        starts = rng.integers(0, len(frames) - side + 1, -(-len(frames) // side))
        drawn = (starts[:, None] + np.arange(side)).ravel()[: len(frames)]
        np.add.at(weights, frames[drawn], 1)
    return weights


def _evaluate(
    truth: Sequence[Boxes],
    test: Sequence[Boxes],
    names: Mapping[int, str],
    largest: float = _EVERYTHING,
) -> Any:
    """Return pycocotools' evaluation object after its matching."""
    try:
        from pycocotools.coco import COCO  # type: ignore[import-untyped]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
    except ImportError as error:
        raise CarfilterError(
            "mean average precision needs pycocotools; pip install carfilter[eval]"
        ) from error
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its timings
        for boxes in (truth, test):
            side = COCO()
            side.dataset = {
                "images": [{"id": index} for index in range(len(truth))],
                "categories": [{"id": index, "name": name} for index, name in names.items()],
                "annotations": _annotations(boxes, names),
            }
            side.createIndex()
            sides.append(side)
        result = COCOeval(*sides, "bbox")
        result.params.iouThrs = np.array([_IOU])
        result.params.maxDets = [_MAX_BOXES]
        result.params.areaRng, result.params.areaRngLbl = [[0, largest]], ["all"]
        result.params.catIds = list(names)
        result.evaluate()
    return result


def _annotations(frames: Sequence[Boxes], names: Mapping[int, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, boxes in enumerate(frames):
        for corners, score, kind in zip(boxes.corners, boxes.scores, boxes.classes, strict=True):
            if int(kind) in names:
                left, top, right, bottom = (float(side) for side in corners)
                size = (right - left, bottom - top)
                rows.append(
                    {
                        "id": len(rows) + 1,  # pycocotools takes 0 for "not matched"
                        "image_id": image,
                        "category_id": int(kind),
                        "bbox": [left, top, *size],
                        "area": size[0] * size[1],
                        "score": float(score),
                        "iscrowd": 0,
                    }
                )
    return rows


def _matches(
    truth: Sequence[Boxes], test: Sequence[Boxes], names: Mapping[int, str]
) -> list[_Matches]:
    """Return the matching per class, so that resampled frames need none of their own."""
    result = _evaluate(truth, test, names)
    images = len(truth)
    out = []
    for column, index in enumerate(names):
        per_image = result.evalImgs[column * images : (column + 1) * images]
        scores, frames, correct = [np.zeros(0)], [np.zeros(0, int)], [np.zeros(0, bool)]
        for image, row in enumerate(per_image):
            if row is not None:
                scores.append(np.asarray(row["dtScores"], float))
                correct.append(np.asarray(row["dtMatches"])[0] > 0)
                frames.append(np.full(len(row["dtScores"]), image))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        truths = np.array([int((boxes.classes == index).sum()) for boxes in truth])
        out.append(_Matches(np.concatenate(frames)[order], np.concatenate(correct)[order], truths))
    return out


def _weighted_mean(matches: Sequence[_Matches], weights: npt.NDArray[np.int64]) -> float:
    """Return the mAP where frame i occurs weights[i] times, as pycocotools' accumulate() counts."""
    values = []
    for side in matches:
        truths = int((weights * side.truths).sum())
        if truths:
            values.append(_area(side, weights[side.frames], truths))
    return float(np.mean(values)) if values else float("nan")


def _area(side: _Matches, weights: npt.NDArray[np.int64], truths: int) -> float:
    correct = np.cumsum(weights * side.correct)
    wrong = np.cumsum(weights * ~side.correct)
    if not len(correct):
        return 0.0
    recall, precision = correct / truths, correct / np.maximum(correct + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < len(recall), envelope[np.minimum(at, len(recall) - 1)], 0.0).mean())
