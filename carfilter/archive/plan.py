"""Which files of a folder may be videos, and under which name each one's result goes.

Only names, sizes and first bytes are looked at here; opening a file is left to the workers, since
a damaged one may crash the library that opens it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from carfilter.errors import CarfilterError
from carfilter.media.libav.probe import likely_format

# Containers that hold H.264 with its timestamps; the value is the ending the result gets.
_KEPT = (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".m2ts", ".mts", ".nut")
_MOVED = (
    *(".avi", ".dav", ".asf", ".wmv", ".flv", ".f4v", ".webm", ".mpg", ".mpeg", ".vob", ".ogv"),
    *(".3gp", ".3g2", ".mxf", ".rm", ".rmvb", ".gxf", ".h264", ".264", ".avc", ".h265", ".265"),
    *(".hevc", ".mjpg", ".mjpeg", ".m1v", ".m2v", ".y4m", ".ivf", ".divx", ".trp", ".tp", ".amv"),
)
_ENDINGS = {"matroska": ".mkv", "mpegts": ".ts", "webm": ".webm"}  # else the format's own name
# FFmpeg opens these like videos.
_PICTURES = ("image2", "gif", "apng", "ico", "webp_anim", "jpegxl_anim", "svg_pipe")
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"mif1", b"msf1", b"avif", b"avis", b"crx ", b"jp2 ")


@dataclass(frozen=True)
class Found:
    """A video of the archive; `key` is its relative path as text, unique in the archive."""

    key: str
    source: Path
    target: Path
    size: int
    mtime_ns: int
    claims: bool = True  # by its ending, to be a video; else its first bytes look like one

    def as_it_is(self) -> Found:
        """Return the same file with its present size and time; OSError if it has gone."""
        status = self.source.lstat()
        return replace(self, size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass
class Scan:
    """What lies in the folder: videos in the order of their names, and what was left alone."""

    videos: list[Found] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)  # path and reason
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # path and reason

    @property
    def bytes(self) -> int:
        """Bytes of all videos."""
        return sum(found.size for found in self.videos)

    def leave(self, reasons: dict[str, str]) -> None:
        """Leave videos alone that turned out to be none, by key."""
        self.videos = [found for found in self.videos if found.key not in reasons]
        self.left = sorted([*self.left, *reasons.items()])


@dataclass(frozen=True)
class Naming:
    """How a result is called: its container's ending, or none; appended or exchanged."""

    format: str | None = None
    append: bool = False

    def target_name(self, name: str) -> str:
        """Return the name of the result of a file called `name`."""
        stem, ending = Path(name).stem, Path(name).suffix
        if self.format is not None:
            wanted = _ENDINGS.get(self.format, f".{self.format}")
        else:
            wanted = ending if ending.lower() in _KEPT else ".mkv"
        if wanted.lower() == ending.lower():
            return name
        return f"{name}{wanted}" if self.append else f"{stem}{wanted}"


def text_of(path: str | Path) -> str:
    """Return a path as text that every database, terminal and page can hold; where two are alike,
    scan() refuses one."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_printable(c) for c in text)


def _printable(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one if one.isprintable() and one != "\\" else one.encode("unicode_escape").decode()


def check_folders(in_dir: Path, out_dir: Path) -> tuple[Path, Path]:
    """Return both folders without links in their paths.

    Raises:
        CarfilterError: IN_DIR is no folder, OUT_DIR is a file, or one lies inside the other.
    """
    if not in_dir.is_dir():
        raise CarfilterError(f"{in_dir}: is no folder; give the folder that holds the archive")
    if out_dir.exists() and not out_dir.is_dir():
        raise CarfilterError(f"{out_dir}: is a file; give a folder for the results")
    source, target = in_dir.resolve(), out_dir.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise CarfilterError(
            f"{out_dir}: overlaps {in_dir}; results need a folder of their own, outside the archive"
        )
    return source, target


def nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not path.is_dir():
        path = path.parent
    return path


def scan(in_dir: Path, out_dir: Path, naming: Naming) -> Scan:
    """Walk an archive; links are never followed, hidden files are left alone like any other."""
    result = Scan()
    for entry in _walk(in_dir, result):
        relative = Path(entry.path).relative_to(in_dir)
        key, path = text_of(relative), Path(entry.path)
        try:
            status = entry.stat(follow_symlinks=False)
            if reason := _why_left(path, status):
                result.left.append((key, reason))
                continue
        except OSError as error:
            result.unreadable.append((text_of(entry.path), error.strerror or str(error)))
            continue
        target = out_dir / relative.with_name(naming.target_name(relative.name))
        size, claims = status.st_size, _claims(path)
        result.videos.append(Found(key, path, target, size, status.st_mtime_ns, claims))
    _leave_one_of_a_name(result)
    result.videos.sort(key=lambda found: found.key)
    result.left.sort()
    return result


def _leave_one_of_a_name(result: Scan) -> None:
    """Fail files whose names differ from others' in bytes alone that are no text."""
    count = Counter(found.key for found in result.videos)
    for found in [f for f in result.videos if count[f.key] > 1]:
        if any("\udc80" <= one <= "\udcff" for one in str(found.source)):
            result.videos.remove(found)
            reason = "its name reads like another's; rename it"
            result.unreadable.append((f"{found.key} (no UTF-8)", reason))


def _walk(in_dir: Path, result: Scan) -> Iterator[os.DirEntry[str]]:
    folders = [str(in_dir)]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            result.unreadable.append((text_of(here), error.strerror or str(error)))
            continue
        for entry in entries:
            if entry.is_symlink():
                result.left.append((text_of(Path(entry.path).relative_to(in_dir)), "a link"))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield entry


def _claims(path: Path) -> bool:
    return path.suffix.lower() in (*_KEPT, *_MOVED)


def _why_left(path: Path, status: os.stat_result) -> str:
    """Return why a file is no video, by its ending or else by its first bytes; "" where it may be
    one."""
    if path.name.startswith("."):
        return "hidden"
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    if _claims(path):
        return ""
    if not status.st_size:
        return "empty"
    name = likely_format(path)
    if not name:
        return "nothing that FFmpeg knows"
    if name in _PICTURES or name.endswith("_pipe") or _is_picture(path):
        return "a picture"
    return ""


def _is_picture(path: Path) -> bool:
    """Say whether a file of the MP4 kind holds pictures, which FFmpeg does not tell from videos."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in _PICTURE_BRANDS


def check_collisions(videos: Sequence[Found]) -> None:
    """Refuse an archive in which two files would get the same name.

    Raises:
        CarfilterError: it names the first such group and the remedy.
    """
    groups = colliding(videos)
    if groups:
        first = groups[0]
        names = " and ".join(found.key for found in first[:3])
        more = f" (and {len(groups) - 1} more such names)" if len(groups) > 1 else ""
        raise CarfilterError(
            f"{names} would both become {text_of(first[0].target.name)}{more};"
            " give --append-ext, which keeps the old ending (a.avi.mkv), or rename one"
        )


def colliding(videos: Sequence[Found]) -> list[list[Found]]:
    """Return the groups of videos whose results would have the same name, or that of a folder that
    holds another's."""
    by_target: dict[Path, list[Found]] = defaultdict(list)
    in_folder: dict[Path, Found] = {}
    for found in videos:
        by_target[found.target].append(found)
        in_folder.update(dict.fromkeys(found.target.parents, found))
    for target in by_target.keys() & in_folder.keys():
        by_target[target].append(in_folder[target])
    return [group for group in by_target.values() if len(group) > 1]
