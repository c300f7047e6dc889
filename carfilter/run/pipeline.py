"""The main job: decode, restore the luma in batches, encode; each stage in a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from carfilter.errors import DeviceError, MediaError
from carfilter.media.frames import bit_depth, pixel_format, width_beside
from carfilter.media.opening import display_name
from carfilter.media.options import SourceOptions
from carfilter.media.reconnect import open_live
from carfilter.media.source import Decoded, Source, open_source
from carfilter.media.tags import add_provenance
from carfilter.media.target import Target, open_target
from carfilter.prefetch import Prefetch
from carfilter.restore.restorer import Restorer
from carfilter.restore.weights import Model, load_weights
from carfilter.run.account import Run
from carfilter.run.announce import announce, provenance, report_losses
from carfilter.run.live import warm_up
from carfilter.run.options import FilterOptions
from carfilter.run.sidecar import check_sidecar, drop_stale_sidecar, write_sidecar
from carfilter.run.stages import Stages
from carfilter.unfinished import is_stdout

if TYPE_CHECKING:
    from carfilter.media.frames import VideoFrame

logger = logging.getLogger("carfilter")


def filter_video(
    source: str | Path,
    target: str | Path,
    weights: str | Path | Model | None = None,
    options: FilterOptions | None = None,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[Run], object] | None = None,
) -> Run:
    """Restore a file, pipe or stream into another one; everything but luma stays as it is.

    Args:
        source: a path, a URL, or "-" for stdin.
        target: a path, a URL, or "-" for stdout.
        weights: a path, a shipped model's name, a loaded model, or None for the default.
        stop: set it to end early; what was written stays as NAME.partial.EXT.
        progress: called after each frame, in this thread, with the run so far.

    Raises:
        CarfilterError: one sentence on what failed; nothing is left under the target's name.
    """
    options, stop = _settled(options), stop or threading.Event()
    if options.sidecar:
        check_sidecar(source, target, options.target)
    run = Run(display_name(source), "stdout" if is_stdout(target) else str(target))
    # The model first: a wrong name must not cost the opening of a live source.
    model = None if options.restore.strength == 0 else _as_model(weights)
    opened = _open(source, options, model, stop)
    if opened is None:
        run.interrupted = True
        return run
    sink = _make_target(target, opened, options)
    try:
        restorer = _make_restorer(model, opened, options)
        announce(run, opened, sink, model, restorer)
        add_provenance(
            sink.container,
            sink.format_name,
            provenance(model, options.restore.strength),
            is_file=sink.destination.part is not None,
        )
        _transfer(run, opened, sink, restorer, options, stop, progress)
    except DeviceError as error:
        # Not the file's fault, and hours may have gone into it.
        error.partial = _kept(sink) if run.frames else None
        if error.partial is None:
            sink.abandon()
            raise
        raise _with_partial(error) from error
    except BaseException:
        sink.abandon()
        raise
    report_losses(run, opened)
    if options.sidecar and not run.interrupted:
        write_sidecar(run, Path(source), Path(target), model, options)
    elif sink.destination.part is not None and not run.interrupted:
        drop_stale_sidecar(Path(target))
    return run


def _kept(sink: Target) -> Path | None:
    """Keep what was done, if it can be; else say so, and leave the word to the device's failure."""
    try:
        return sink.keep_partial()
    except MediaError as failure:
        logger.warning("what was done before cannot be kept: %s", failure)
        return None


def _with_partial(error: DeviceError) -> DeviceError:
    told = DeviceError(f"{error}; what was done before lies in {error.partial}")
    told.partial = error.partial
    return told


def restored_frames(
    source: str | Path,
    weights: str | Path | Model | None = None,
    options: FilterOptions | None = None,
) -> Generator[VideoFrame, None, None]:
    """Yield the restored frames of a source, lazily and in order, for a detector or a display.

    Each frame keeps its chroma, pts, time_base and colour tags. Decoding and restoring run ahead
    in threads. Leaving the loop early stops them; where the generator has a name, which keeps it,
    its close() does.

    Raises:
        CarfilterError: at the first frame, or where the source or the device fails.
    """
    options, stop = _settled(options), threading.Event()
    model = None if options.restore.strength == 0 else _as_model(weights)
    opened = _open(source, options, model, stop)
    assert opened is not None, "nobody stops it"
    restorer = _make_restorer(model, opened, options)
    with Stages(opened, restorer, options, stop, Run(opened.name, "")) as events:
        any_frame = False
        for event in events:
            if isinstance(event, Decoded):
                any_frame = True
                yield event.frame
    if not any_frame:
        raise _nothing(opened)


def _source_options(options: FilterOptions, model: Model | None) -> SourceOptions:
    return replace(
        options.source,
        qp_maps=model is not None and options.source.measures_qp,
        measures_qp=options.source.measures_qp and model is not None and model.uses_qp,
        pix_fmt=options.target.pix_fmt,
        hwaccel_device=_card(options.restore.device),
    )


def _card(device: str) -> int | None:
    """Return the number in "cuda:N": a card that restores decodes, too."""
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() else None


def _as_model(weights: str | Path | Model | None) -> Model:
    return weights if isinstance(weights, Model) else load_weights(weights)


def _settled(options: FilterOptions | None) -> FilterOptions:
    """Fill in what --live decides beside itself: nothing waits for later frames."""
    options = options or FilterOptions()
    if not options.live:
        return options
    restore = replace(
        options.restore,
        batch_size=options.restore.batch_size or 1,
        lookahead=0,
        compile_after=math.inf,  # compiling would stop it for a while
    )
    return replace(options, restore=restore, target=replace(options.target, live=True))


def _open(
    source: str | Path, options: FilterOptions, model: Model | None, stop: threading.Event
) -> Source | None:
    """Open the source; None where `stop` comes first.

    In a thread of its own, which is left behind then: it may sit in the opening of a pipe that
    nobody writes to, or in a read of it, and nothing ends these.
    """
    reading = _source_options(options, model)

    def opening() -> Iterator[Source]:
        yield open_live(source, reading, stop) if options.live else open_source(source, reading)

    stage = Prefetch(opening(), 1, 1, lambda _: 1, stop=stop, stuck=lambda: True)
    try:
        return next(iter(stage), None)
    finally:
        stage.close()


def _make_target(target: str | Path, source: Source, options: FilterOptions) -> Target:
    """Return what is written to; close the source where that fails."""
    try:
        return open_target(target, source, options.target, _target_size(source, options))
    except BaseException:
        source.close()
        raise


def _make_restorer(model: Model | None, source: Source, options: FilterOptions) -> Restorer | None:
    """Return what restores the source, if anything does; close the source where that fails."""
    if model is None:
        return None
    decoder = source.video.codec_context
    size = (decoder.height, decoder.width)
    try:
        restorer = Restorer(model, options.restore, size, codec=decoder.codec.canonical_name)
        if options.live and decoder.format is not None:
            # On CUDA in the very thread that will compute, see carfilter.restore.hand.
            warm_up(restorer, size, bit_depth(decoder.format))
    except BaseException:
        source.close()
        raise
    return restorer


def _transfer(
    run: Run,
    source: Source,
    target: Target,
    restorer: Restorer | None,
    options: FilterOptions,
    stop: threading.Event,
    progress: Callable[[Run], object] | None,
) -> None:
    started, encoding = time.perf_counter(), 0.0
    tick_seconds, first = float(source.time_base), None
    stages = Stages(source, restorer, options, stop, run)

    def take_stock() -> None:
        run.elapsed_seconds = time.perf_counter() - started
        run.busy_seconds = {**stages.busy_seconds(), "encode": encoding}
        run.bytes_written, run.changed, run.passed = target.bytes, target.changed, stages.passed
        run.damaged, run.repaired = source.report.damaged, source.report.repaired
        run.jumps, run.reconnects = source.report.jumps, source.report.reconnects

    with stages as events:
        for event in events:
            begun = time.perf_counter()
            if isinstance(event, Decoded):
                target.write_frame(event.frame)
            else:
                target.write_packet(event)
            encoding += time.perf_counter() - begun
            if isinstance(event, Decoded):
                pts = event.frame.pts or 0
                first = pts if first is None else first
                run.frames, run.video_seconds = run.frames + 1, (pts - first) * tick_seconds
                if progress is not None:
                    take_stock()
                    progress(run)
        begun = time.perf_counter()
        _end(run, source, target, stop)
        encoding += time.perf_counter() - begun
        take_stock()
        run.saved = 0.0 if restorer is None else restorer.saved


def _end(run: Run, source: Source, target: Target, stop: threading.Event) -> None:
    if stop.is_set():
        run.interrupted = True
        run.partial = str(target.keep_partial() or "")
    elif not run.frames:
        raise _nothing(source)
    else:
        target.finish(run.frames)


def _nothing(source: Source) -> MediaError:
    return MediaError(
        f"{source.name}: not one frame could be decoded; the file is damaged, or -ss lies"
        " behind its end"
    )


def _target_size(source: Source, options: FilterOptions) -> tuple[int, int] | None:
    decoder, asked = source.video.codec_context, options.target.pix_fmt
    if not options.compare:
        return None
    compared = pixel_format(asked) if source.converts and asked else decoder.format
    assert compared is not None  # of a source that is open
    return 2 * width_beside(compared, decoder.width), decoder.height
