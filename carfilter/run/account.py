"""The account of a run: kept while it works, read by displays, progress files and sidecars."""

from dataclasses import dataclass, field


@dataclass
class Run:
    """What a run has done so far, and at its end what it did."""

    source: str
    target: str
    model: str = ""  # name and sha256 of the weights; empty where no network ran
    engine: str = ""  # device, precision, batch
    seconds_expected: float | None = None  # of video; None where the source does not say
    dropped: list[str] = field(default_factory=list)  # types of the streams that are left out
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
    qp_frames: int = 0  # frames whose QP their stream told, or that it was measured for
    qp_measured: bool = False  # at key frames; see carfilter.media.qp.measured
    qp_converted: bool = False  # to H.264's scale; see carfilter.media.qp.told
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
        """Mean QP of the source, where its stream told it or it was measured."""
        return self.qp_sum / self.qp_frames if self.qp_frames else None

    @property
    def bottleneck(self) -> str:
        """The stage that was busy longest: decode, network or encode."""
        return max(self.busy_seconds, key=lambda stage: self.busy_seconds[stage], default="")
