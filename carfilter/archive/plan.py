"""Which files of a folder are videos, and under which name each one's result goes.

Only names, sizes and first bytes are looked at here; opening a file is left to the workers, since
a damaged one may crash the library that opens it.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from carfilter.errors import CarfilterError

# Containers that hold H.264 with its timestamps; the value is the ending the result gets.
_KEPT = (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".m2ts", ".mts", ".nut")
_MOVED = (
    *(".avi", ".dav", ".asf", ".wmv", ".flv", ".f4v", ".webm", ".mpg", ".mpeg", ".vob", ".ogv"),
    *(".3gp", ".3g2", ".mxf", ".rm", ".rmvb", ".gxf", ".h264", ".264", ".avc", ".h265", ".265"),
    *(".hevc", ".mjpg", ".mjpeg", ".m1v", ".m2v", ".y4m", ".ivf", ".divx", ".trp", ".tp", ".amv"),
)
_ENDINGS = {"matroska": ".mkv", "mpegts": ".ts", "webm": ".webm"}  # else the format's own name
_HEAD_BYTES = 1024
_TS_PACKETS = (188, 192)  # bytes of a transport packet, bare and with a timestamp before it
_OTHER_BRANDS = (b"M4A ", b"M4B ", b"heic", b"heix", b"mif1", b"avif", b"crx ", b"jp2 ")


@dataclass(frozen=True)
class Found:
    """A video of the archive; `key` is its relative path as text, unique in the archive."""

    key: str
    source: Path
    target: Path
    size: int
    mtime_ns: int

    def as_it_is(self) -> Found:
        """Return the same file with its present size and time; OSError if it has gone."""
        status = self.source.lstat()
        return replace(self, size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass
class Scan:
    """What lies in the folder: videos in the order of their names, and what was left alone."""

    videos: list[Found] = field(default_factory=list)
    others: int = 0
    links: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # path and reason

    @property
    def bytes(self) -> int:
        """Bytes of all videos."""
        return sum(found.size for found in self.videos)


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
    """Return a path as text that every database, terminal and page can hold."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def scan(in_dir: Path, out_dir: Path, naming: Naming) -> Scan:
    """Walk an archive; links are counted and never followed, hidden files count as others."""
    result = Scan()
    for entry in _walk(in_dir, result):
        if entry.name.startswith("."):
            result.others += 1
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or not _is_video(Path(entry.path), status.st_size):
                result.others += 1
                continue
        except OSError as error:
            result.unreadable.append((text_of(entry.path), error.strerror or str(error)))
            continue
        relative = Path(entry.path).relative_to(in_dir)
        target = out_dir / relative.with_name(naming.target_name(relative.name))
        result.videos.append(
            Found(text_of(relative), Path(entry.path), target, status.st_size, status.st_mtime_ns)
        )
    result.videos.sort(key=lambda found: found.key)
    return result


def _walk(folder: Path, result: Scan) -> Iterator[os.DirEntry[str]]:
    folders = [str(folder)]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            result.unreadable.append((text_of(here), error.strerror or str(error)))
            continue
        for entry in entries:
            if entry.is_symlink():
                result.links += 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield entry


def _is_video(path: Path, size: int) -> bool:
    """Say whether a file claims to be a video, by its ending or else by its first bytes."""
    if path.suffix.lower() in (*_KEPT, *_MOVED):
        return True
    if not size:
        return False
    with path.open("rb") as file:
        return looks_like_video(file.read(_HEAD_BYTES))


def looks_like_video(head: bytes) -> bool:
    """Recognise the containers of recorders by the first bytes of a file (1024 suffice)."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in _OTHER_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    for length in _TS_PACKETS:
        starts = head[length - 188 :: length]
        if len(starts) >= 4 and starts[:4] == b"GGGG":  # 0x47, the sync byte of MPEG-TS
            return True
    magics = (
        b"\x1aE\xdf\xa3",  # Matroska, WebM
        b"DHAV",  # Dahua's recorders
        b"FLV\x01",
        b"\x00\x00\x01\xba",  # MPEG program stream, also Hikvision's
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF
        b"\x00\x00\x00\x01\x67",  # H.264 that starts with its parameters
        b"\x00\x00\x00\x01\x40\x01",  # H.265 likewise
    )
    return head.startswith(magics)


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
    """Return the groups of videos whose results would have the same name."""
    by_target: dict[Path, list[Found]] = defaultdict(list)
    for found in videos:
        by_target[found.target].append(found)
    return [group for group in by_target.values() if len(group) > 1]
