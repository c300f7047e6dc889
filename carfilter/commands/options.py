"""Options that several commands share, and what they make of them.

Torch and PyAV load where a command runs, not where its --help is printed.
"""

import contextlib
import logging
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from carfilter.errors import CarfilterError
from carfilter.unfinished import is_stdout

if TYPE_CHECKING:
    from carfilter.run.options import FilterOptions

LEVELS = {
    "quiet": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
}
CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "show_default": True,
}
SEGMENTING = ("segment_time", "strftime", "reset_timestamps")
_MUXING = ("movflags", *SEGMENTING)
_CLOCK = re.compile(r"^(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d*)?|\.\d+)(ms|us|s)?$")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_LONGEST_SIDE = 16384  # that libx264 encodes
_UNITS = {None: 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def files(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Let the shell complete a word by the names of files, though it may be "-" or a URL."""
    return [CompletionItem(typed, type="file")]


def models(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete a word by the names of shipped models; by those of files, where none fits."""
    from carfilter.restore.weights import shipped_models

    names = [CompletionItem(name) for name in sorted(shipped_models()) if name.startswith(typed)]
    return names or files(context, parameter, typed)


def dash(_context: click.Context, _option: click.Parameter, name: Any) -> Any:
    """Call stdout "-", by whichever of its names it was given."""
    return "-" if name is not None and is_stdout(name) else name


def on_stdout(outputs: dict[str, Any]) -> bool:
    """Say whether one of the outputs, by option, goes to stdout, which holds nothing else then.

    Raises:
        click.UsageError: two of them do.
    """
    there = [option for option, output in outputs.items() if str(output) == "-"]
    if len(there) > 1:
        raise click.UsageError(f"{there[0]} and {there[1]} cannot both go to stdout")
    return bool(there)


class Seconds(click.ParamType[float]):
    """A time as FFmpeg takes it: 12.5, 1:02.5, 01:00:00, 500ms."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = _CLOCK.match(value)
        if not match:
            self.fail(f"{value!r} is no time; write seconds (12.5) or HH:MM:SS.m", param, ctx)
        hours, minutes, seconds, unit = match.groups()
        return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds) * _UNITS[unit]


class Number(click.FloatRange):
    """A number in a range; click has "nan" lie in every one, and "inf" in those without an end."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Pair(click.ParamType[tuple[str, str]]):
    """KEY=VALUE."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, content = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form key=value", param, ctx)
        return key, content


def even_size(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Return width and height of 910x512; None for "source", or where nothing is given."""
    if text is None or text == "source":
        return None
    from carfilter.media.options import MAX_PIXELS

    match = _SIZE.fullmatch(text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if not width or not height or width % 2 or height % 2:
        raise click.BadParameter(f"{text!r} is neither 'source' nor an even size such as 910x512")
    if max(width, height) > _LONGEST_SIDE or width * height > MAX_PIXELS:
        raise click.BadParameter(
            f"{text!r} is larger than 8192x4352, or longer than {_LONGEST_SIDE}; give a smaller"
            " size"
        )
    return width, height


def grouped(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command these options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = grouped(
    click.option(
        "--weights",
        metavar="NAME|FILE",
        shell_complete=models,
        help="Shipped model or checkpoint.",
    ),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N."),
    click.option("--precision", default="auto", help="auto, int8, fp32, fp16, bf16."),
)
restore_options = grouped(
    model_options,
    click.option("--batch", type=click.IntRange(1), default=None, help="Frames per batch."),
    click.option("--tile", type=click.IntRange(64), default=None, help="Tile size in pixels."),
    click.option(
        "--strength",
        type=click.FloatRange(0, 1),
        default=1.0,
        help="Blend with the decoded luma; 0 leaves it untouched.",
    ),
    click.option(
        "--qp",
        type=click.IntRange(0, 51),
        default=None,
        help="How coarsely the video was coded, for all of it; by default as its stream tells, else"
        " measured at key frames, and taken as 26 where they tell nothing.",
    ),
    click.option(
        "--lookahead",
        type=click.IntRange(0),
        default=64,
        help="Frames that a multi-frame model may wait for, and half as many more to average over"
        " time; 0 uses the past alone.",
    ),
    click.option(
        "--no-reuse", is_flag=True, help="Compute unchanged frames and areas again each time."
    ),
)
buffer_option = click.option(
    "--bufsize-seconds",
    default=1.0,
    type=Number(0.01, 60),
    help="VBV buffer, in seconds of the cap it belongs to.",
)
encode_options = grouped(
    click.option("-c:v", "video_codec", metavar="CODEC", help="Video encoder.  [default: libx264]"),
    click.option("-c:a", "audio_codec", metavar="CODEC", help="Audio encoder.  [default: copy]"),
    click.option("-c:s", "subtitle_codec", metavar="CODEC", help="Subtitles.  [default: copy]"),
    click.option("-crf", metavar="N", help="Constant quality.  [default: 18 for libx264/libx265]"),
    click.option("-preset", metavar="NAME", help="Speed of the encoder.  [default: medium]"),
    click.option("-tune", metavar="NAME", help="Tuning of the encoder."),
    click.option("-b:v", "bit_rate", metavar="RATE", help="Bit rate, such as 2M."),
    click.option("-maxrate", metavar="RATE", help="Highest bit rate (VBV)."),
    click.option("-bufsize", metavar="SIZE", help="VBV buffer."),
    click.option("-g", "gop", metavar="N", help="Longest GOP in frames."),
    click.option("-pix_fmt", metavar="FORMAT", help="Pixel format.  [default: the source's]"),
    click.option(
        "--enc-opt", type=Pair(), multiple=True, help="Any other option of the video encoder."
    ),
    click.option("-f", "format", metavar="FORMAT", help="Output container."),
    click.option("-movflags", metavar="FLAGS", help="Flags of the MP4/MOV muxer."),
    click.option("--upright", is_flag=True, help="Turn the pixels of a rotated video."),
    click.option("-metadata", type=Pair(), multiple=True, help="Add a tag."),
    click.option(
        "--drop-unsupported", is_flag=True, help="Leave out streams the container cannot hold."
    ),
)
read_options = grouped(
    click.option("-ss", "start", type=Seconds(), help="Start there."),
    click.option("-t", "duration", type=Seconds(), help="Take that long."),
    click.option("-to", "end", type=Seconds(), help="End there."),
    click.option("-copyts", is_flag=True, help="Keep times that start late."),
    click.option(
        "-map",
        "maps",
        metavar="SPEC",
        multiple=True,
        help="Streams, named as in FFmpeg; their order stays.",
    ),
    click.option("-an", "no_audio", is_flag=True, help="No audio."),
    click.option("-sn", "no_subtitles", is_flag=True, help="No subtitles."),
    click.option("-dn", "no_data", is_flag=True, help="No data streams."),
    click.option("--input-format", metavar="FORMAT", help="Input container, for raw streams."),
    click.option("-framerate", metavar="RATE", help="Frame rate of a raw input."),
    click.option("-rtsp_transport", metavar="NAME", help="tcp or udp for RTSP input."),
    click.option("-hwaccel", metavar="NAME", help="Decode on a GPU: cuda, auto."),
    click.option(
        "-threads",
        type=click.IntRange(0, 1024),
        default=0,
        show_default=False,
        help="Codec threads.",
    ),
    click.option(
        "--max-pixels", type=click.IntRange(1), help="Refuse larger pictures.  [default: 8192x4352]"
    ),
    click.option("-xerror", is_flag=True, help="Fail at the first damaged frame."),
)
loglevel_option = click.option(
    "-loglevel",
    "-v",
    type=click.Choice(list(LEVELS)),
    default="info",
    help="What to print on stderr.",
)


@contextlib.contextmanager
def files_told() -> Iterator[None]:
    """Make a sentence of what the system says about a file or folder that is written to.

    Raises:
        CarfilterError: such as that there is no such folder, or no space left.
    """
    try:
        yield
    except OSError as error:
        name, reason = error.filename or "a file", error.strerror or error
        raise CarfilterError(
            f"{name}: cannot be made or used ({reason}); check its folder and the space on its disk"
        ) from error


def guarded(command: str, work: Callable[[], None]) -> None:
    """Run the work; one sentence and exit code 1 for our errors, 130 after Ctrl-C.

    A KeyboardInterrupt may bring the number of another signal, which that code tells then.
    """
    try:
        with files_told():
            work()
    except CarfilterError as error:
        click.echo(f"{command}: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt as error:
        click.echo(f"{command}: interrupted", err=True)
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt with its number, so that worker processes are ended.

    By itself it ends this process alone, at once, and they would wait for work for good.
    """

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_ends(given: dict[str, Any]) -> None:
    """Refuse -t beside -to, and ends that leave nothing."""
    if given["duration"] is not None and given["end"] is not None:
        raise click.UsageError("-t and -to exclude each other")
    start = max(given["start"] or 0.0, 0.0)
    if given["duration"] is not None and given["duration"] <= 0:
        raise click.UsageError("-t has to be more than zero")
    if given["end"] is not None and given["end"] <= start:
        raise click.UsageError("-to has to lie behind -ss and behind zero")


def filter_options(given: dict[str, Any]) -> "FilterOptions":
    from carfilter.media.options import MAX_PIXELS, SourceOptions, TargetOptions
    from carfilter.pictures import ASSUMED_QP
    from carfilter.restore.restorer import RestoreOptions
    from carfilter.run.options import FilterOptions

    start, end = given["start"], given["end"]
    if given["duration"] is not None:
        end = (start or 0.0) + given["duration"]
    named = {"crf": "crf", "preset": "preset", "tune": "tune", "bit_rate": "b", "gop": "g"}
    named |= {"maxrate": "maxrate", "bufsize": "bufsize"}
    encoder = [(name, given[key]) for key, name in named.items() if given[key] is not None]
    muxer = [(key, str(given[key])) for key in _MUXING if given.get(key) is not None]
    inputs = [(key, given[key]) for key in ("framerate", "rtsp_transport") if given[key]]
    return FilterOptions(
        source=SourceOptions(
            format=given["input_format"],
            options=tuple(inputs),
            start_seconds=start,
            end_seconds=end,
            maps=given["maps"],
            audio=not given["no_audio"],
            subtitles=not given["no_subtitles"],
            data=not given["no_data"],
            copyts=given["copyts"],
            threads=given["threads"],
            stop_on_error=given["xerror"],
            hwaccel=given["hwaccel"],
            measures_qp=given["qp"] is None,
            max_pixels=given["max_pixels"] or MAX_PIXELS,
        ),
        target=TargetOptions(
            format=given["format"],
            video_codec=given["video_codec"],
            audio_codec=given["audio_codec"],
            subtitle_codec=given["subtitle_codec"],
            pix_fmt=given["pix_fmt"],
            encoder=(*encoder, *given["enc_opt"]),
            muxer=tuple(muxer),
            metadata=given["metadata"],
            threads=given["threads"],
            overwrite=given["overwrite"],
            drop_unsupported=given["drop_unsupported"],
            upright=given["upright"],
            verbose_encoder=given["loglevel"] in ("verbose", "debug"),
        ),
        restore=RestoreOptions(
            device=given["device"],
            precision=given["precision"],
            batch_size=given["batch"] or 0,
            tile=(given["tile"] or 0) // 16 * 16,
            strength=given["strength"],
            qp=ASSUMED_QP if given["qp"] is None else given["qp"],
            lookahead=given["lookahead"],
            reuse=not given["no_reuse"],
        ),
        compare=given["compare"],
        sidecar=given["sidecar"],
        live=given.get("live", False),
    )
