"""What a run says of itself: before the work what it will do, after it what went wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from carfilter import __version__
from carfilter.media.frames import coded_depth
from carfilter.media.ticks import has_times

if TYPE_CHECKING:
    from carfilter.media.source import Source
    from carfilter.media.target import Target
    from carfilter.restore.restorer import Restorer
    from carfilter.restore.weights import Model
    from carfilter.run.account import Run

logger = logging.getLogger("carfilter")


def announce(
    run: Run, source: Source, target: Target, model: Model | None, restorer: Restorer | None
) -> None:
    """Say before the work which streams go where, and which model runs on what."""
    decoder = source.video.codec_context
    run.seconds_expected = source.seconds
    logger.info(
        "#%d video (%s, %dx%d %s) -> %srestore, encode with %s",
        source.video.index,
        decoder.name,
        decoder.width,
        decoder.height,
        decoder.pix_fmt,
        f"convert to {target.options.pix_fmt}, " if source.converts else "",
        target.encoder,
    )
    if source.options.start_seconds is None and source.shift_seconds:
        logger.info(
            "it starts at %s; all its streams are moved together so that it starts at zero"
            " (-copyts keeps its times)",
            _clock(float(source.shift_seconds)),
        )
    if not has_times(source.container) and source.rate:
        logger.info(
            "a bare stream: its times are made of its rate, %.5g a second"
            " (-framerate sets another)",
            float(source.rate),
        )
    for route in target.routes:
        logger.log(logging.WARNING if route.is_loss else logging.INFO, "%s", route)
    run.dropped = [route.stream.type for route in target.routes if route.action == "drop"]
    if model is None or restorer is None:
        logger.info("strength 0: no network, the picture passes through unchanged")
        return
    suits = f", for {restorer.suits}" if restorer.suits else ""
    run.model = f"{model.name}{suits} (sha256 {model.sha256[:12]})"
    run.engine = restorer.describe(coded_depth(decoder))
    logger.info("model %s on %s", run.model, run.engine)
    if model.uses_qp and not (source.is_h264 and source.options.qp_maps):
        logger.info("QP %s; --qp sets another", _way_to_qp(run, source, restorer))


def _way_to_qp(run: Run, source: Source, restorer: Restorer) -> str:
    if not source.options.qp_maps:
        return f"taken as {restorer.assumed_qp}, as given"
    run.qp_converted, run.qp_measured = source.converts_qp, source.measures_qp
    if run.qp_converted:
        return "told by its stream, on another scale: taken as H.264's of a step as wide"
    if source.tells_qp:
        return "told by the headers of its slices, or measured at key frames where that is coarser"
    if run.qp_measured:
        return "unknown, which its decoder does not tell: measured by the bytes of its key frames"
    return f"unknown, which its decoder does not tell: taken as {restorer.assumed_qp}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(abs(seconds), 60)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{int(minutes) // 60}:{int(minutes) % 60:02d}:{rest:06.3f}"


def report_losses(run: Run, source: Source) -> None:
    """Say at the end what was lost, concealed or set right."""
    if source.lost:
        logger.warning(
            "%s: the connection was lost (%s); --live connects again", source.name, source.lost
        )
    if run.passed:
        logger.warning(
            "%d frames passed unrestored: %s did not keep up with the source",
            run.passed,
            _slow_stage(run),
        )
    if run.repaired:
        logger.warning(
            "%d frames had a missing or repeated timestamp; it was set just after the one before",
            run.repaired,
        )
    if run.damaged:
        logger.warning("%d damaged frames or packets; what came of them was concealed", run.damaged)


def _slow_stage(run: Run) -> str:
    """Name what frames of a live source waited for; its decoder mostly waits for the source."""
    busy = run.busy_seconds
    if busy.get("encode", 0.0) > busy.get("network", 0.0):
        return "the encoder, or what reads the output,"
    return "the network"


def provenance(model: Model | None, strength: float) -> str:
    """Return what the target's comment says of how it was made."""
    which = "no network" if model is None else f"model {model.name} sha256 {model.sha256}"
    return f"restored by carfilter {__version__}; {which}; strength {strength:g}"
