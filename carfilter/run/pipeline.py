"""The main job: decode, restore the luma in batches, encode; each stage in a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carfilter.announce import announce, provenance, report_losses
from carfilter.errors import MediaError
from carfilter.frames import bit_depth, copy_luma, replace_luma, side_by_side
from carfilter.live import Pace, keep_up, warm_up
from carfilter.opening import display_name
from carfilter.pictures import Picture
from carfilter.prefetch import Prefetch
from carfilter.reconnect import open_live
from carfilter.restore import RestoreOptions, Restorer
from carfilter.segments import FORMATS as SEGMENT_FORMATS
from carfilter.sidecar import write_sidecar
from carfilter.source import (
    Decoded,
    Event,
    Source,
    SourceOptions,
    open_source,
)
from carfilter.target import Target, TargetOptions, add_provenance, open_target
from carfilter.weights import Model, load_weights

if TYPE_CHECKING:
    import av

logger = logging.getLogger("carfilter")

_QUEUE_EVENTS = 32  # frames and packets between two stages
_QUEUE_BYTES = 128 << 20
_LIVE_FACTOR = 8  # longer queues there: what finds no room is lost


@dataclass
class Run:
    """What a run has done so far, and at its end what it did."""

    source: str
    target: str
    model: str = ""  # name and sha256 of the weights; empty where no network ran
    engine: str = ""  # device, precision, batch
    seconds_expected: float | None = None  # of video; None where the source does not say
    frames: int = 0
    video_seconds: float = 0.0  # from the first frame written to the last
    bytes_written: int = 0
    damaged: int = 0
    repaired: int = 0
    jumps: int = 0  # of the source's clock
    changed: int = 0  # frames brought to the first one's size, format or range
    reconnects: int = 0  # of a live source
    passed: int = 0  # frames that went unrestored, since the network did not keep up with it
    saved: float = 0.0  # share of the network's work that reuse saved, 0..1
    qp_sum: float = 0.0
    qp_frames: int = 0  # frames whose QP the decoder gave, or that it was measured for
    qp_measured: bool = False  # at key frames; see carfilter.measured_qp
    elapsed_seconds: float = 0.0
    busy_seconds: dict[str, float] = field(default_factory=dict)  # by stage
    interrupted: bool = False
    partial: str = ""  # where the playable part of an interrupted run lies

    @property
    def fps(self) -> float:
        """Frames written per second of running."""
        return self.frames / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def mean_qp(self) -> float | None:
        """Mean QP of the source, where the decoder gave QP maps or it was measured."""
        return self.qp_sum / self.qp_frames if self.qp_frames else None

    @property
    def bottleneck(self) -> str:
        """The stage that was busy longest: decode, network or encode."""
        return max(self.busy_seconds, key=lambda stage: self.busy_seconds[stage], default="")


@dataclass(frozen=True)
class FilterOptions:
    """All options of a run that are not the source, the target or the weights."""

    source: SourceOptions = field(default_factory=SourceOptions)
    target: TargetOptions = field(default_factory=TargetOptions)
    restore: RestoreOptions = field(default_factory=RestoreOptions)
    compare: bool = False  # write the decoded picture left and the restored one right
    sidecar: bool = False
    live: bool = False  # follow a camera; see carfilter.live and carfilter.reconnect


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
    if options.sidecar and options.target.format in SEGMENT_FORMATS:
        raise MediaError("--sidecar describes one file; leave it out with -f segment")
    run = Run(display_name(source), "stdout" if str(target) == "-" else str(target))
    # The model first: a wrong name must not cost the opening of a live source.
    model = None if options.restore.strength == 0 else _as_model(weights)
    opened = _open(source, options, model, stop)
    try:
        size = _target_size(opened, options)
        sink = open_target(target, opened, options.target, size)
    except BaseException:
        opened.close()
        raise
    try:
        restorer = _make_restorer(model, opened, options)
        announce(run, opened, sink, model, restorer)
        add_provenance(sink, provenance(model, options.restore.strength))
        _transfer(run, opened, sink, restorer, options, stop, progress)
    except BaseException:
        sink.abandon()
        raise
    report_losses(run, opened)
    if options.sidecar and sink.part is not None and not run.interrupted:
        write_sidecar(run, Path(source), Path(target), model, options)
    return run


def restored_frames(
    source: str | Path,
    weights: str | Path | Model | None = None,
    options: FilterOptions | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield the restored frames of a source, lazily and in order, for a detector or a display.

    Each frame keeps its chroma, pts, time_base and colour tags. Decoding and restoring run ahead
    in threads; leaving the loop early stops them.

    Raises:
        CarfilterError: at the first frame, or where the source or the device fails.
    """
    options, stop = _settled(options), threading.Event()
    model = None if options.restore.strength == 0 else _as_model(weights)
    opened = _open(source, options, model, stop)
    restorer = _make_restorer(model, opened, options)
    with _Stages(opened, restorer, options, stop, Run(opened.name, "")) as events:
        for event in events:
            if isinstance(event, Decoded):
                yield event.frame


def _source_options(options: FilterOptions, model: Model | None) -> SourceOptions:
    return replace(
        options.source,
        qp_maps=model is not None,
        measures_qp=options.source.measures_qp and model is not None and model.network.uses_qp,
        pix_fmt=options.target.pix_fmt,
    )


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
) -> Source:
    reading = _source_options(options, model)
    return open_live(source, reading, stop) if options.live else open_source(source, reading)


def _make_restorer(model: Model | None, source: Source, options: FilterOptions) -> Restorer | None:
    """Return what restores the source, if anything does; close the source where that fails."""
    if model is None:
        return None
    decoder = source.video.codec_context
    size = (decoder.height, decoder.width)
    try:
        restorer = Restorer(model.network, options.restore, size, model.int8_ranges)
        if options.live and decoder.format is not None:
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
    stages = _Stages(source, restorer, options, stop, run)

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
        raise MediaError(
            f"{source.name}: not one frame could be decoded; the file is damaged, or -ss lies"
            " behind its end"
        )
    else:
        target.finish(run.frames)


class _Stages:
    """The threads between source and target; entering starts them, leaving ends them."""

    def __init__(
        self,
        source: Source,
        restorer: Restorer | None,
        options: FilterOptions,
        stop: threading.Event,
        run: Run,
    ) -> None:
        self.source, self.restorer, self.run, self.stop = source, restorer, run, stop
        self.keep_decoded, self.live = options.compare, options.live
        self._stages: dict[str, Prefetch[Event]] = {}
        self._pace: Pace | None = None

    def __enter__(self) -> Iterable[Event]:
        factor = _LIVE_FACTOR if self.live else 1
        count, size = _QUEUE_EVENTS * factor, _QUEUE_BYTES * factor
        decode = Prefetch(self._decoded(), count, size, _event_bytes, stop=self.stop)
        self._stages["decode"] = decode
        if self.restorer is None and not self.keep_decoded:
            return decode
        if self.live:
            self._pace = Pace(decode.is_nearly_full)
            restored = keep_up(decode, self._restored, self._unrestored, self._pace)
        else:
            restored = self._restored(decode)
        network = Prefetch(restored, _QUEUE_EVENTS, _QUEUE_BYTES, _event_bytes, decode)
        self._stages["network"] = network
        return network

    def __exit__(self, *exc: object) -> None:
        ended = [stage.close() for stage in reversed(self._stages.values())]
        if all(ended):  # closing under a thread that still reads would crash the process
            self.source.close()

    @property
    def passed(self) -> int:
        """Frames that went unrestored."""
        return 0 if self._pace is None else self._pace.passed

    def _restored(self, events: Iterable[Event]) -> Iterator[Event]:
        return _restored(events, self.restorer, keep_decoded=self.keep_decoded)

    def _unrestored(self, events: Iterable[Event]) -> Iterable[Event]:
        return _restored(events, None, keep_decoded=True) if self.keep_decoded else events

    def busy_seconds(self) -> dict[str, float]:
        return {name: stage.busy_seconds for name, stage in self._stages.items()}

    def _decoded(self) -> Iterator[Event]:
        for event in self.source.events():
            if self.stop.is_set():
                return
            if isinstance(event, Decoded) and event.qp is not None:
                self.run.qp_sum += float(event.qp.mean())
                self.run.qp_frames += 1
            yield event


def _event_bytes(event: Event) -> int:
    if isinstance(event, Decoded):
        # 4:2:0 is 1.5, 4:4:4 is 3 samples a pixel; half way is near enough for a bound.
        return event.frame.width * event.frame.height * (bit_depth(event.frame.format) + 7) // 4
    return event.size


def _restored(
    events: Iterable[Event], restorer: Restorer | None, *, keep_decoded: bool
) -> Iterator[Event]:
    """Yield the events with the luma of their frames exchanged, packets in their old places."""
    waiting: deque[Event] = deque()
    decoded_luma: deque[Any] = deque()

    def pictures() -> Iterator[Picture]:
        for event in events:
            waiting.append(event)
            if isinstance(event, Decoded):
                picture = _picture(event)
                if keep_decoded:
                    decoded_luma.append(picture.luma)
                yield picture

    lumas = (
        (picture.luma for picture in pictures())
        if restorer is None
        else restorer.restore(pictures())
    )
    for luma in lumas:
        while not isinstance(event := waiting.popleft(), Decoded):
            yield event
        replace_luma(event.frame, luma)
        if keep_decoded:
            pair = side_by_side(event.frame, decoded_luma.popleft())
            yield Decoded(pair, event.qp, event.frame_type)
        else:
            yield event
        del event
    yield from waiting


def _picture(event: Decoded) -> Picture:
    frame = event.frame
    return Picture(
        luma=copy_luma(frame),
        depth=bit_depth(frame.format),
        qp=event.qp,
        frame_type=event.frame_type,
        interlaced=frame.interlaced_frame,
    )


def _target_size(source: Source, options: FilterOptions) -> tuple[int, int] | None:
    decoder = source.video.codec_context
    return (decoder.width // 2 * 4, decoder.height) if options.compare else None
