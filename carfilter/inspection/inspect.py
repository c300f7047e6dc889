"""Look at one file: read it once, decode a sample, try the filter on a few of its pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from carfilter.errors import MediaError
from carfilter.inspection.findings import find
from carfilter.inspection.inspection import Filter, Inspection
from carfilter.inspection.sample import Sample, Seen
from carfilter.inspection.timing import coding_of, times_of
from carfilter.media.opening import is_url, sha256_of
from carfilter.media.survey.reading import Survey, VideoPackets, open_survey


@dataclass(frozen=True)
class InspectOptions:
    """How to look at a file."""

    full: bool = False  # decode every picture, and not a sample
    hashes: bool = True  # of the whole file; those of the streams cost nothing
    tries: bool = True  # the filter on a few pictures
    weights: str | None = None
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Look:
    """An inspection, and what a page needs of the file beyond it."""

    inspection: Inspection
    packets: VideoPackets
    seen: tuple[Seen, ...]


def inspect(path: str | Path, options: InspectOptions | None = None) -> Inspection:
    """Return what the camera did to a file and what the filter would do.

    It takes seconds, writes nothing and opens nothing but the file.

    Args:
        path: of a file; pipes and addresses are refused, since they are read only once.

    Raises:
        MediaError: the filter would refuse the file, for the same reason.
        WeightsError, DeviceError: as with the filter, where `options` names weights or a device.
    """
    return look_at(path, options).inspection


def look_at(path: str | Path, options: InspectOptions | None = None) -> Look:
    """Do as inspect(), and return what lies behind its figures as well."""
    options, path = options or InspectOptions(), _checked(path)
    with ThreadPoolExecutor(2, thread_name_prefix="carfilter-look") as pool:
        digest = pool.submit(sha256_of, path) if options.hashes else None
        trial = pool.submit(_trial, options) if options.tries else None  # torch takes seconds
        survey = open_survey(path, full=options.full)
        try:
            sample = Sample(survey)
            for sampled in survey.pictures():
                sample.see(sampled)
            tried = None if trial is None else trial.result()(survey, sample)
            seen = _put_together(path, survey, sample, tried)
        finally:
            survey.close()
        sha256 = digest.result() if digest is not None else ""
    seen = replace(seen, sha256=sha256)
    seen = replace(seen, findings=find(seen))
    return Look(seen, survey.video, tuple(sample.seen))


def _checked(path: str | Path) -> Path:
    is_pipe = Path(path).exists() and not Path(path).is_file()  # it can be read only once
    if is_url(path) or str(path) == "-" or is_pipe:
        raise MediaError(f"{path}: only a file can be inspected; record it first")
    return Path(path)


def _trial(options: InspectOptions) -> Callable[[Survey, Sample], Filter | None]:
    """Load what the filter takes, and return what tries it."""
    from carfilter.inspection.trial import load_model, try_filter

    model = load_model(options.weights)

    def tried(survey: Survey, sample: Sample) -> Filter | None:
        if not sample.kept:
            return None
        return try_filter(survey, sample.kept, model, options.device, options.precision)

    return tried


def _put_together(path: Path, survey: Survey, sample: Sample, tried: Filter | None) -> Inspection:
    container = survey.source.container
    main = survey.streams[survey.source.video.index]
    times = times_of(survey, main)
    duration = container.duration
    return Inspection(
        path=path,
        size=survey.size,
        sha256="",
        container=container.format.name,
        container_name=container.format.long_name,
        container_seconds=duration / 1e6 if duration and duration > 0 else None,
        bit_rate=8 * survey.size / times.seconds if times.seconds > 0 else None,
        tags=dict(container.metadata),
        streams=survey.streams,
        times=times,
        coding=coding_of(survey.video, times),
        qp=sample.qp,
        looks=sample.looks,
        colour=sample.colour,
        filter=tried,
    )
