"""One plain sentence for each thing that will matter to whoever filters or shows a file."""

from __future__ import annotations

from collections.abc import Iterator

from carfilter.inspection.inspection import Finding, Inspection
from carfilter.pages.numbers import clock

GOOD, NOTE, WARNING = "good", "note", "warning"
# Mean QPs, after the gains of models/README.md: below the first nothing is gained, from the last on
# everything that the filter can give.
_FINE, _FAIR, _COARSE = 22.0, 28.0, 34.0
_STILL = 0.4  # share of unchanged blocks from which the filter averages over time, see steady
_CLOCK_APART = 0.02  # share by which the duration by frames may differ from that by the clock
_RARE_KEYS = 8.0  # seconds between key frames, from which `best` finds few of them
_SHOWN_GAPS = 3


_HOW = {"read": "", "converted": " on H.264's scale", "measured": ", measured at its key frames"}


def find(seen: Inspection) -> tuple[Finding, ...]:
    """Return the sentences, those on what the filter would do first."""
    parts = (_on_quality, _on_keys, _on_fields, _on_damage, _on_time, _on_colour, _on_copies)
    return tuple(finding for part in parts for finding in part(seen))


def _on_quality(seen: Inspection) -> Iterator[Finding]:
    qp, model = seen.qp, seen.filter
    if qp is None:
        yield Finding(
            NOTE,
            f"{seen.video.codec}: its QP is unknown, give carfilter --qp; 26 is taken without",
        )
    else:
        yield _on_qp(qp.mean, _HOW[qp.source])
    if seen.looks.coarser_than_coded:
        yield Finding(
            WARNING,
            "its pictures are coarser than their QP: signs of an earlier encode, of which the QP"
            " tells nothing; give carfilter --qp with a higher one, and look with --compare",
        )
    still = seen.looks.unchanged or 0.0
    if model is not None and qp is not None and qp.mean >= _FAIR and still >= _STILL:
        yield Finding(
            GOOD,
            f"{still:.0%} of its blocks unchanged, as of a fixed camera: averaged over time, and"
            " what does not change is not computed again",
        )


def _on_qp(qp: float, how: str) -> Finding:
    coded = f"(QP {qp:.0f}{how})"
    if qp < _FINE:
        return Finding(NOTE, f"finely coded {coded}: leave it alone")
    if qp < _FAIR:
        return Finding(NOTE, f"well coded {coded}: the filter will help little")
    if qp < _COARSE:
        return Finding(GOOD, f"coded moderately {coded}: the filter will help")
    return Finding(GOOD, f"coded coarsely {coded}: the filter will help visibly")


def _on_keys(seen: Inspection) -> Iterator[Finding]:
    model, coding = seen.filter, seen.coding
    if model is None or model.model != "best":
        return
    if coding.key_frames < 2 and coding.pictures > 1:
        yield Finding(NOTE, "one key frame only: `best` gains little over `fast`")
    elif coding.key_seconds is not None and coding.key_seconds[1] >= _RARE_KEYS:
        mean = coding.key_seconds[1]
        yield Finding(NOTE, f"a key frame only every {mean:.0f} s: `best` gains little over `fast`")


def _on_fields(seen: Inspection) -> Iterator[Finding]:
    looks = seen.looks
    if looks.is_flagged_interlaced and looks.is_combed is False:
        yield Finding(
            WARNING,
            "marked as interlaced, but its pictures are whole: they will be restored field by"
            " field, which is slower and a little worse",
        )
    elif looks.is_flagged_interlaced:
        yield Finding(NOTE, "interlaced: restored field by field, and coded so with libx264")
    elif looks.is_combed:
        yield Finding(
            WARNING,
            "its pictures are combed although they are marked as progressive: they will be restored"
            " as whole pictures; deinterlace first, ffmpeg -vf bwdif",
        )


def _on_damage(seen: Inspection) -> Iterator[Finding]:
    looks = seen.looks
    if looks.damaged:
        where = "" if looks.of_all else f" among the {looks.pictures} pictures looked at"
        yield Finding(
            WARNING,
            f"{looks.damaged} damaged pictures or packets{where}: concealed and counted",
        )
    if seen.times.cut_off:
        yield Finding(WARNING, f"{seen.times.cut_off}, the rest is missing")
    if not looks.pictures:
        yield Finding(WARNING, "not one picture could be decoded")


def _on_time(seen: Inspection) -> Iterator[Finding]:
    times = seen.times
    if times.jumps and times.first_jump:
        first = "first " if times.jumps > 1 else ""
        at, by = times.first_jump
        yield Finding(
            WARNING,
            f"its clock jumps {_times(times.jumps)}, {first}by {by:+.1f} s at {clock(at)}: the"
            " times will go on without a gap",
        )
    if times.gaps:
        shown = ", ".join(
            f"{length:.1f} s at {clock(at)}" for at, length in times.gaps[:_SHOWN_GAPS]
        )
        more = len(times.gaps) - _SHOWN_GAPS
        yield Finding(
            WARNING, f"no picture for {shown}{f' and {more} more times' if more > 0 else ''}"
        )
    if times.missing:
        packets = "1 packet" if times.missing == 1 else f"{times.missing} packets"
        yield Finding(NOTE, f"{packets} without a time: it will be set")
    by_frames = times.seconds_by_frames
    if by_frames is not None and times.seconds > 0 and not times.is_variable:
        apart = by_frames - times.seconds
        if abs(apart) > max(_CLOCK_APART * times.seconds, 1.0):
            yield Finding(
                NOTE,
                f"{clock(times.seconds)} by its clock but {clock(by_frames)} by its rate:"
                " pictures are missing, or the rate it declares is wrong",
            )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _on_colour(seen: Inspection) -> Iterator[Finding]:
    colour = seen.colour
    if colour.range != "pc" and colour.range_shown == "beyond limited":
        tag = "is marked as limited range" if colour.range else "does not say its range"
        yield Finding(NOTE, f"it {tag}, but uses samples beyond it: players will clip them")


def _on_copies(seen: Inspection) -> Iterator[Finding]:
    lost = [s for s in seen.streams if s.kind == "audio" and not s.packets]
    for stream in lost:
        yield Finding(NOTE, f"stream {stream.index} ({stream.codec}) is announced, but never comes")
