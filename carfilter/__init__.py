"""carfilter: remove compression artifacts from video and leave everything else alone.

filter_video() restores a file into another one; restored_frames() feeds the restored frames of a
source to a detector; inspect() says what a file is like; vapoursynth.restore() restores a clip of
VapourSynth's. They load torch and PyAV only when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from carfilter.hosts import vapoursynth as vapoursynth
    from carfilter.inspection.inspect import inspect
    from carfilter.run.account import Run
    from carfilter.run.options import FilterOptions
    from carfilter.run.pipeline import filter_video, restored_frames

__all__ = [
    "FilterOptions",
    "Run",
    "__version__",
    "filter_video",
    "inspect",
    "restored_frames",
]


def __getattr__(name: str) -> Any:
    if name not in (*__all__, "vapoursynth"):  # which few have, so that * asks for no such module
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from carfilter.process import prepare_process

    prepare_process()
    if name == "inspect":
        from carfilter.inspection.inspect import inspect

        return inspect
    if name == "vapoursynth":
        try:
            from carfilter.hosts import vapoursynth
        except ImportError as error:
            raise ImportError(
                f'{error}; VapourSynth is needed: pip install "carfilter[vapoursynth]"'
            ) from error
        return vapoursynth
    from carfilter.run import pipeline

    return getattr(pipeline, name)
