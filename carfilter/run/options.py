"""All options of a run, from those of its source to those of its network."""

from dataclasses import dataclass, field

from carfilter.media.options import SourceOptions, TargetOptions
from carfilter.restore.restorer import RestoreOptions


@dataclass(frozen=True)
class FilterOptions:
    """All options of a run that are not the source, the target or the weights."""

    source: SourceOptions = field(default_factory=SourceOptions)
    target: TargetOptions = field(default_factory=TargetOptions)
    restore: RestoreOptions = field(default_factory=RestoreOptions)
    compare: bool = False  # write the decoded picture left and the restored one right
    sidecar: bool = False
    live: bool = False  # follow a camera; see carfilter.run.live and carfilter.media.reconnect
