"""What the decoded pictures of the sample show, added up picture by picture."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.inspection.inspection import Colour, Looks, Qp
from carfilter.media.frames import bit_depth, copy_luma
from carfilter.media.qp.measured import detail_bits
from carfilter.media.survey.fields import FieldJudge
from carfilter.media.survey.reading import Sampled, Survey
from carfilter.pictures import MACROBLOCK, Luma, Picture
from carfilter.restore.planes import changed_blocks

TYPES = {1: "I", 2: "P", 3: "B"}
_KEPT = 6  # pictures of one run, for the measurement of the filter
_JUDGED = 240  # pictures that are looked at for fields
_ALIKE = 0.72  # correlation of the details of two pictures of a fixed camera with people in it
_BEYOND = 0.005  # share of samples beyond limited range that is no overshoot
# Key frames that are looked at for an earlier encode, and of which QPs. Of 21 key frames of fine
# footage coded once at CRF 18 to 28, one had less detail than _DETAIL; of 28 that had been coded
# before at CRF 36 or 42 and now at 18 or 23, four had more.
_PROBED, _FINEST, _COARSEST, _DETAIL = 4, 17, 30, 1.45

Thumb = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """What is kept of a sampled picture."""

    seconds: float
    run: int
    packet: int  # the first one of its run
    place: int  # of the picture in its run, in presentation order
    kind: str  # I, P, B or ""
    is_key: bool
    qp: float | None  # mean
    changed: float | None  # share of macroblocks that differ from the picture before


class Sample:
    """Add pictures with see(), then ask."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        source = survey.source
        self._is_h264 = source.is_h264
        told = "read" if source.is_h264 else "converted"
        self._qp_source = told if source.tells_qp else "measured"
        self.seen: list[Seen] = []
        self.kept: list[Picture] = []  # the first pictures of the latest run, full size
        self._fields = FieldJudge()
        self._interlaced = 0
        self._last: tuple[int, Luma] | None = None
        self._place = 0
        self._qp_sums: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
        self._thumbs: list[tuple[Thumb, Thumb]] = []  # first and last of each finished run
        self._first: Thumb | None = None  # of the run that is seen
        self._beyond = 0.0
        self._details: list[float] = []
        self._colour = Colour("", "", "", "", "")

    def see(self, sampled: Sampled) -> None:
        """Take a picture into account."""
        frame, qp = sampled.decoded.frame, sampled.decoded.qp
        if len(self.seen) < _JUDGED:
            self._fields.see(frame)
        luma, depth = copy_luma(frame), bit_depth(frame.format)
        before = self._last[1] if self._last and self._last[0] == sampled.run else None
        self._place = 0 if before is None else self._place + 1
        changed = None
        if before is not None and before.shape == luma.shape and before.dtype == luma.dtype:
            changed = changed_blocks(luma, before)
        kind = TYPES.get(sampled.decoded.frame_type, "")
        if qp is not None:
            self._qp_sums[kind] += (
                qp.size,
                float(qp.sum()),
                float(np.square(qp, dtype=float).sum()),
            )
        self._interlaced += frame.interlaced_frame
        self._note_range(luma, depth)
        if self._place == 0:
            self._end_run()
            self._first = _thumb(luma)
        self._keep(sampled, luma, depth)
        if not self.seen:
            self._colour = _tags(frame)
        if frame.key_frame and qp is not None and self._is_h264 and not frame.is_corrupt:
            self._probe(luma, depth, float(qp.mean()))
        self.seen.append(
            Seen(
                seconds=sampled.seconds,
                run=sampled.run,
                packet=sampled.packet,
                place=self._place,
                kind=kind,
                is_key=bool(frame.key_frame),
                qp=None if qp is None else float(qp.mean()),
                changed=None if changed is None else float(changed.mean()),
            )
        )
        self._last = (sampled.run, luma)

    def _keep(self, sampled: Sampled, luma: Luma, depth: int) -> None:
        if self._place == 0:
            self.kept = []
        frame = sampled.decoded.frame
        if len(self.kept) < _KEPT and (not self.kept or self.kept[0].luma.shape == luma.shape):
            self.kept.append(
                Picture(
                    luma,
                    depth,
                    sampled.decoded.qp,
                    frame_type=sampled.decoded.frame_type,
                    interlaced=frame.interlaced_frame,
                )
            )

    def _note_range(self, luma: Luma, depth: int) -> None:
        some, unit = luma[::8, ::8], 1 << (depth - 8)
        self._beyond += float(((some < 16 * unit) | (some > 235 * unit)).mean())

    def _end_run(self) -> None:
        """Keep what a run began and ended with."""
        if self._first is not None and self._last is not None:
            last = self._first if self.seen[-1].place == 0 else _thumb(self._last[1])
            self._thumbs.append((self._first, last))
        self._first = None

    def _probe(self, luma: Luma, depth: int, qp: float) -> None:
        if len(self._details) < _PROBED and _FINEST <= qp <= _COARSEST:
            self._details.append(detail_bits(luma, depth, round(qp)))

    @property
    def qp(self) -> Qp | None:
        """How coarsely the pictures were coded; None where nothing tells it."""
        if not self._qp_sums:
            return None
        count, total, squares = np.sum([*self._qp_sums.values()], axis=0)
        mean = total / count
        return Qp(
            source=self._qp_source,
            mean=float(mean),
            spread=float(max(squares / count - mean**2, 0.0) ** 0.5),
            by_type={kind: float(s[1] / s[0]) for kind, s in sorted(self._qp_sums.items())},
            over_time=tuple((s.seconds, s.qp) for s in self.seen if s.qp is not None),
        )

    @property
    def looks(self) -> Looks:
        """What else the pictures show."""
        shares = [1.0 - seen.changed for seen in self.seen if seen.changed is not None]
        return Looks(
            pictures=len(self.seen),
            of_all=self._survey.decoded_all,
            unchanged=float(np.mean(shares)) if shares else None,
            is_fixed=self._is_fixed(),
            is_flagged_interlaced=2 * self._interlaced > len(self.seen),
            is_combed=self._fields.is_combed,
            damaged=self._survey.source.report.damaged,
            change_over_time=tuple(
                (s.seconds, s.changed) for s in self.seen if s.changed is not None
            ),
            coarser_than_coded=float(np.median(self._details)) < _DETAIL if self._details else None,
        )

    @property
    def colour(self) -> Colour:
        """The tags of the first picture, and the range that the samples use."""
        shown = ""
        if self.seen:
            shown = "beyond limited" if self._beyond / len(self.seen) > _BEYOND else "limited"
        tags = self._colour
        return Colour(tags.range, tags.matrix, tags.transfer, tags.primaries, shown)

    def _is_fixed(self) -> bool | None:
        """Compare the details of pictures that lie far apart: what a fixed camera sees in the
        background stays at its place, whatever the light does."""
        self._end_run()
        runs = self._thumbs
        pairs = [(a[0], b[0]) for a, b in pairwise(runs)] or runs
        alike = [_likeness(a, b) for a, b in pairs if a is not b and a.shape == b.shape]
        known = [value for value in alike if value is not None]
        return float(np.median(known)) > _ALIKE if known else None


def _thumb(luma: Luma) -> Thumb:
    """Return the mean of each macroblock that lies wholly in the picture."""
    rows, columns = (max(side // MACROBLOCK, 1) for side in luma.shape)
    inside = luma[: rows * MACROBLOCK, : columns * MACROBLOCK]
    # By columns of 16 first: numpy adds up along the last axis fastest.
    sums = np.add.reduceat(inside, np.arange(0, inside.shape[0], MACROBLOCK), 0, dtype=np.uint32)
    wide = np.add.reduceat(sums, np.arange(0, inside.shape[1], MACROBLOCK), 1)
    thumb: Thumb = wide.astype(np.float32) / np.float32(MACROBLOCK**2)
    return thumb


def _likeness(first: Thumb, second: Thumb) -> float | None:
    """Return the correlation of what changes from block to block; None of flat pictures."""
    details = [
        np.concatenate([np.diff(t, axis=a).ravel() for a in (0, 1)]) for t in (first, second)
    ]
    if any(not len(d) or float(d.std()) < 0.5 for d in details):
        return None
    return float(np.corrcoef(details[0], details[1])[0, 1])


def _tags(frame: Any) -> Colour:
    """Return FFmpeg's names of the colour tags, "" for what is not specified."""
    names = {
        "range": {1: "tv", 2: "pc"},
        "matrix": {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m",
                   8: "ycgco", 9: "bt2020nc", 10: "bt2020c"},
        "transfer": {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m",
                     8: "linear", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12",
                     16: "smpte2084", 18: "arib-std-b67"},
        "primaries": {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m",
                      8: "film", 9: "bt2020", 11: "smpte431", 12: "smpte432"},
    }  # fmt: skip
    values = {
        "range": int(frame.color_range),
        "matrix": int(frame.colorspace),
        "transfer": int(frame.color_trc),
        "primaries": int(frame.color_primaries),
    }
    found = {key: names[key].get(value, "") for key, value in values.items()}
    if frame.format.name.startswith("yuvj"):
        found["range"] = "pc"
    return Colour(found["range"], found["matrix"], found["transfer"], found["primaries"], "")
