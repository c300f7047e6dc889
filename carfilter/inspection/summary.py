"""An inspection in words: the same lines in the terminal and on the page, a row for a table."""

from __future__ import annotations

from collections.abc import Iterator

from carfilter.inspection.inspection import Filter, Inspection
from carfilter.media.survey.stream import Stream
from carfilter.pages.numbers import clock, duration_text, rate_text, size_text

COLUMNS = ("file", "size", "length", "video", "QP", "camera", "changed by", "takes", "what matters")


def lines_of(seen: Inspection) -> Iterator[tuple[str, str]]:
    """Yield each fact with its name."""
    yield "file", _file(seen)
    if seen.sha256:
        yield "SHA-256", seen.sha256
    for stream in seen.streams:
        yield f"stream {stream.index}", stream_text(stream)
    yield "length", _length(seen)
    yield "pictures", _pictures(seen)
    yield "key frames", _key_frames(seen)
    yield "bit rate", _bit_rate(seen)
    yield "QP", _qp(seen)
    yield "scene", _scene(seen)
    yield "fields", _fields(seen)
    yield "colour", _colour(seen)
    yield "damage", _damage(seen)
    yield "clock", _clock(seen)
    yield "earlier encode", _earlier(seen)


def _file(seen: Inspection) -> str:
    rate = "" if seen.bit_rate is None else f", {rate_text(seen.bit_rate)}"
    return f"{seen.container_name}, {size_text(seen.size)}{rate}"


def stream_text(stream: Stream) -> str:
    """Return what a stream is, without its checksum."""
    parts = [f"{stream.kind}, {stream.codec}" + (f" {stream.profile}" if stream.profile else "")]
    if stream.width:
        parts.append(f"{stream.width}x{stream.height} {stream.pix_fmt}")
    if stream.average_rate:
        parts.append(f"{float(stream.average_rate):.5g} fps")
    if stream.sample_rate:
        parts.append(f"{stream.sample_rate} Hz, {_channels(stream.channels)}")
    if stream.language not in ("", "und"):
        parts.append(stream.language)
    parts.append(f"{stream.packets:,} packets, {size_text(stream.bytes)}")
    return ", ".join(parts)


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _length(seen: Inspection) -> str:
    times = seen.times
    parts = [f"{clock(times.seconds)} by the clock ({times.seconds:.3f} s)"]
    if times.seconds_by_frames is not None:
        parts.append(f"{times.seconds_by_frames:.3f} s by its pictures")
    if seen.container_seconds is not None:
        parts.append(f"{seen.container_seconds:.3f} s as the container says")
    return ", ".join(parts)


def _pictures(seen: Inspection) -> str:
    times, types = seen.times, seen.coding.types
    rate = "" if times.rate is None else f" at {times.rate:.5g} a second"
    steady = "varying" if times.is_variable else "constant"
    counts = [
        f"{types[kind]:,} {kind or 'of unknown type'}" for kind in sorted(types, key="IPBS".find)
    ]
    if times.is_variable:
        steady += f", {1e3 * times.shortest:.0f} to {1e3 * times.longest:.0f} ms apart"
    return f"{seen.coding.pictures:,}{rate}, {steady}: {', '.join(counts)}"


def _key_frames(seen: Inspection) -> str:
    coding = seen.coding
    if coding.key_seconds is None or coding.key_pictures is None:
        return f"{coding.key_frames}"
    least, mean, most = coding.key_seconds
    fewest, usual, greatest = coding.key_pictures
    return (
        f"{coding.key_frames:,}, every {mean:.2f} s ({least:.2f} to {most:.2f} s;"
        f" {usual:.1f} pictures, {fewest} to {greatest})"
    )


def _bit_rate(seen: Inspection) -> str:
    coding = seen.coding
    peak = f", {rate_text(max(coding.rates))} at most" if coding.rates else ""
    means = [f"{kind} {size_text(round(size))}" for kind, size in coding.type_bytes.items() if kind]
    each = f"; a picture on average: {', '.join(means)}" if means else ""
    return f"{rate_text(coding.bit_rate)} of video{peak}{each}"


_HOW = {
    "read": "as the decoder tells it",
    "converted": "of H.264's scale, by what the stream tells on its own",
    "measured": "measured by the bytes of key frames",
}


def _qp(seen: Inspection) -> str:
    qp = seen.qp
    if qp is None:
        return "unknown: neither does the stream tell it nor do its bytes"
    types = ", ".join(f"{kind} {mean:.1f}" for kind, mean in qp.by_type.items() if kind)
    how = _HOW[qp.source]
    return f"{qp.mean:.1f} on average, spread {qp.spread:.1f}{'; ' if types else ''}{types}; {how}"


def _scene(seen: Inspection) -> str:
    looks = seen.looks
    camera = {True: "a fixed camera", False: "a moving camera, or cuts", None: "camera unknown"}
    if looks.unchanged is None:
        return camera[looks.is_fixed]
    return f"{camera[looks.is_fixed]}; {looks.unchanged:.0%} of the blocks skipped or unchanged"


def _fields(seen: Inspection) -> str:
    looks = seen.looks
    flag = "interlaced" if looks.is_flagged_interlaced else "progressive"
    if looks.is_combed is None:
        return f"marked {flag}; too little moves to tell whether that is true"
    truth = "is true" if looks.is_combed == looks.is_flagged_interlaced else "IS NOT TRUE"
    return f"marked {flag}, which {truth} of the pictures looked at"


def _colour(seen: Inspection) -> str:
    colour = seen.colour
    range_ = {"tv": "limited range", "pc": "full range"}.get(colour.range, "range not tagged")
    tags = [f"{name} {value}" for name, value in (
        ("matrix", colour.matrix), ("transfer", colour.transfer), ("primaries", colour.primaries),
    ) if value]  # fmt: skip
    shown = {"limited": "samples within 16..235", "beyond limited": "samples beyond 16..235"}
    parts = [range_, shown.get(colour.range_shown, ""), *(tags or ["no other tags"])]
    return ", ".join(part for part in parts if part)


def _damage(seen: Inspection) -> str:
    looks = seen.looks
    where = "all" if looks.of_all else "a sample of"
    return f"{looks.damaged or 'none'} in {where} {looks.pictures:,} decoded pictures"


def _clock(seen: Inspection) -> str:
    times = seen.times
    parts = [
        _counted(times.jumps, "jump"),
        _counted(len(times.gaps), "gap"),
    ]
    if times.missing:
        parts.append(f"{_counted(times.missing, 'packet')} without a time")
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'s' if count > 1 else ''}"


def _earlier(seen: Inspection) -> str:
    return {
        True: "signs of one: the pictures hold less detail than their QP would keep",
        False: "no sign: the pictures hold the detail that their QP keeps",
        None: "not known (looked for in H.264 from QP 17 to 30)",
    }[seen.looks.coarser_than_coded]


def filter_lines(tried: Filter) -> Iterator[tuple[str, str]]:
    """Yield what carfilter would take, and how long the file would."""
    each = tried.network_seconds + tried.decode_seconds + tried.encode_seconds
    yield "model", f"{tried.model} (sha256 {tried.sha256[:12]})"
    yield "device", tried.engine
    yield (
        "speed here",
        f"{1 / each:.3g} pictures a second, measured on {tried.pictures}; of each decode takes"
        f" {1e3 * tried.decode_seconds:.1f} ms, network {1e3 * tried.network_seconds:.1f} ms,"
        f" encode {1e3 * tried.encode_seconds:.1f} ms",
    )
    yield "whole file", duration_text(tried.seconds)
    yield "changes", f"luma by {tried.change:.2f} grey levels (root of the mean square)"


def row_of(seen: Inspection, name: str) -> tuple[str, ...]:
    """Return the cells of COLUMNS."""
    video, qp, tried = seen.video, seen.qp, seen.filter
    rate = "" if seen.times.rate is None else f" {seen.times.rate:.4g} fps"
    first = seen.findings[0].text if seen.findings else ""
    more = f" (and {len(seen.findings) - 1} more)" if len(seen.findings) > 1 else ""
    return (
        name,
        size_text(seen.size),
        clock(seen.times.seconds),
        f"{video.codec} {video.width}x{video.height}{rate}",
        "?" if qp is None else f"{qp.mean:.1f}{' m' if qp.source == 'measured' else ''}",
        {True: "fixed", False: "moving", None: "?"}[seen.looks.is_fixed],
        "" if tried is None else f"{tried.change:.2f}",
        "" if tried is None else duration_text(tried.seconds),
        first + more,
    )


CSV_COLUMNS = (
    *("file", "bytes", "sha256", "seconds", "codec", "width", "height", "fps", "variable_rate"),
    *("pictures", "key_seconds", "bit_rate", "qp", "qp_source", "fixed_camera", "unchanged"),
    *("interlaced", "combed", "damaged", "jumps", "gaps", "earlier_encode"),
    *("change", "model", "seconds_needed", "findings"),
)


def values_of(seen: Inspection, name: str) -> tuple[object, ...]:
    """Return the cells of CSV_COLUMNS; what is not known is empty."""
    video, times, coding, qp, looks = seen.video, seen.times, seen.coding, seen.qp, seen.looks
    tried = seen.filter
    return (
        *(name, seen.size, seen.sha256, round(times.seconds, 3), video.codec, video.width),
        *(video.height, None if times.rate is None else round(times.rate, 3), times.is_variable),
        *(coding.pictures, None if coding.key_seconds is None else round(coding.key_seconds[1], 3)),
        *(round(coding.bit_rate), None if qp is None else round(qp.mean, 1)),
        *(None if qp is None else qp.source, looks.is_fixed),
        *(None if looks.unchanged is None else round(looks.unchanged, 3),),
        *(looks.is_flagged_interlaced, looks.is_combed, looks.damaged, times.jumps),
        *(len(times.gaps), looks.coarser_than_coded),
        *(
            None if tried is None else round(tried.change, 3),
            None if tried is None else tried.model,
        ),
        *(None if tried is None else round(tried.seconds, 1),),
        *(" | ".join(finding.text for finding in seen.findings),),
    )
