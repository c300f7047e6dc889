"""Compressed twins of clean clips and photographs, several at a time, with a manifest.

Nothing here imports torch, so that worker processes start quickly.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from carfilter.errors import CarfilterError, MediaError
from carfilter.media.clips import Clip, read_clip, read_photo, scale_clip, write_clip
from carfilter.pairs.packs import NO_QP, Twin, heads, save_clean, save_twin
from carfilter.pairs.photos import pan_and_zoom, still_scene
from carfilter.pairs.variants import Settings, Variant, generator_for, plan_variants

_PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
_MANIFEST = "manifest.json"
_FOLDERS = ("videos", "clean", "scaled")  # of what is made beside packs
_MADE = re.compile(f"({'|'.join(_FOLDERS)})/[^/]+")  # as rows name files, and nothing elsewhere
_MOST_PIECES = 3  # that cross a still view
_VIDEO_SUFFIXES = {".mkv", ".mp4", ".mov", ".avi", ".ts", ".webm", ".nut", ".y4m", ".m4v", ".mpg"}


def find_sources(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the videos and pictures in files and folders (not deeper), by clip name.

    Raises:
        MediaError: a path does not exist, nothing is found, or two files share their name.
    """
    sources: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path}: no such file or folder; check the path")
        files = [path]
        if path.is_dir():
            known = _PHOTO_SUFFIXES | _VIDEO_SUFFIXES
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in known)
        for file in files:
            name = file.stem.replace(".", "_")
            if name in sources:
                raise MediaError(f"{file}: {sources[name]} has the same name; rename one of them")
            sources[name] = file
    if not sources:
        raise MediaError(f"{paths[0]}: holds no videos and no pictures; name a folder that does")
    return sources


def open_source(
    path: Path, name: str, settings: Settings, noise: float, photos: Sequence[Path]
) -> Clip:
    """Read a clean clip, or make one of a photograph; noise, if asked for, becomes part of it.

    The noise belongs to the clean clip since it is what a camera hands to its encoder: the filter
    is to restore that, not to remove it.

    Args:
        photos: this one among them; pieces of them may cross a still view.
    """
    if path.suffix.lower() in _PHOTO_SUFFIXES:
        luma = _photo_luma(path, name, settings, photos)
        height, width = luma.shape[1:]
        gray = np.full((len(luma), 2, height // 2, width // 2), 128, np.uint8)
        clip = Clip(luma, gray, Fraction(25), full_range=True)
    else:
        clip = replace(read_clip(path, settings.max_frames), qp=None, types=None)
    if settings.size and settings.scale == "before":
        clip = scale_clip(clip, *settings.size)
    if noise:
        rng = generator_for(settings.seed, name, "noise")
        grain = rng.normal(0, noise, clip.luma.shape).astype(np.float32)
        clip = replace(clip, luma=np.rint(clip.luma + grain).clip(0, 255).astype(np.uint8))
    return clip


def _photo_luma(
    path: Path, name: str, settings: Settings, photos: Sequence[Path]
) -> npt.NDArray[np.uint8]:
    rng = generator_for(settings.seed, name, "pan")
    if settings.photo_camera == "pan":
        return pan_and_zoom(read_photo(path), settings.photo_frames, rng)
    chosen = rng.integers(0, len(photos), rng.integers(0, _MOST_PIECES + 1))
    others = [read_photo(photos[index]) for index in chosen]
    return still_scene(read_photo(path), others, settings.photo_frames, rng)


def degrade_clip(
    name: str, path: Path, out: Path, settings: Settings, noise: float, photos: Sequence[Path]
) -> list[dict[str, Any]]:
    """Make every variant of one clip below `out`; return a manifest row of plain values for each.

    Args:
        photos: as of open_source().

    Raises:
        MediaError: the clip cannot be read, or a file cannot be written.
    """
    photo = path.suffix.lower() in _PHOTO_SUFFIXES
    clip = open_source(path, name, settings, noise, photos)
    (out / _MANIFEST).unlink(missing_ok=True)  # from here on an earlier one may not be true
    # What training compares with; differs from `clip` only when scaling comes after the encoder.
    clean = scale_clip(clip, *settings.size) if settings.size else clip
    write_clip(out / "clean" / f"{name}.mkv", clean, {"qp": "0", "preset": "veryfast"})
    about = {"fps": str(clip.fps), "full_range": clip.full_range, "source": path.name}
    save_clean(out / "packs", name, clean.luma, {**about, "noise": noise})
    pixel_rate = clip.luma[0].size * float(clip.fps)
    rows = []
    for variant in plan_variants(settings, name, pixel_rate, photo):
        video = out / "videos" / f"{name}.{variant.name}.mp4"
        write_clip(video, clip, variant.options(), encoder=variant.encoder)
        coded = read_clip(video, measure_qp="where unknown")
        if len(coded.luma) != len(clip.luma):
            raise MediaError(
                f"{video}: has {len(coded.luma)} frames of {len(clip.luma)}; try again"
            )
        row = {"clip": name, "variant": variant.name, **_measure(coded, variant), **about}
        row.update(asdict(variant), video=f"videos/{video.name}", clean=f"clean/{name}.mkv")
        row.pop("name")
        if clean is not clip:
            coded = scale_clip(coded, *settings.size)  # type: ignore[misc]
            row["scaled"] = f"scaled/{name}.{variant.name}.mkv"
            write_clip(out / row["scaled"], coded, {"qp": "0", "preset": "veryfast"})
        twin = _twin(coded, variant.name, row)
        row["pack"] = f"packs/{save_twin(out / 'packs', name, clean.luma, twin).name}"
        rows.append(row)
    return rows


def _twin(coded: Clip, name: str, about: dict[str, Any]) -> Twin:
    frames, height, width = coded.luma.shape
    qp = coded.measured_qp  # as the filter has it: what the stream tells, else measured
    if qp is None:
        qp = np.full((frames, -(-height // 16), -(-width // 16)), NO_QP, np.int8)
    assert coded.types is not None  # read_clip() always fills them
    return Twin(name, coded.luma, qp, coded.types, about)


def _measure(coded: Clip, variant: Variant) -> dict[str, Any]:
    """Return size, real bitrate, mean QP and how far the cap was felt."""
    bits = 8 * sum(coded.packet_bytes)
    low = None
    if variant.maxrate and variant.bufsize:
        low = _low_buffer_share(
            coded.packet_bytes, variant.maxrate, variant.bufsize, float(coded.fps)
        )
    height, width = coded.luma.shape[1:]
    return {
        "frames": len(coded.luma),
        "width": width,
        "height": height,
        "kbps": round(bits / coded.seconds / 1000, 1),
        "mean_qp": None if coded.qp is None else round(float(coded.qp.mean()), 2),
        "cap_reached": None if low is None else low > 0,
        "cap_share": None if low is None else round(low, 3),
    }


def _low_buffer_share(sizes: Sequence[int], maxrate: int, bufsize: int, fps: float) -> float:
    """Return the share of pictures that leave the decoder's buffer less than half full.

    x264 raises the QP when its look-ahead sees the buffer fall below one half (clip_qscale() in
    its ratecontrol.c), so a clip that never comes there is coded as without a cap.
    """
    fill, low = 0.9 * bufsize, 0  # 0.9 is x264's vbv-init
    for size in sizes:
        fill -= 8 * size
        low += fill < 0.5 * bufsize
        fill = min(fill + maxrate / fps, bufsize)
    return low / max(len(sizes), 1)


def degrade(
    sources: dict[str, Path],
    out: Path,
    settings: Settings,
    jobs: int = 1,
    on_clip: Callable[[str, str | None], object] = lambda _clip, _error: None,
) -> list[dict[str, Any]]:
    """Make the variants of all clips, `jobs` at a time, and write OUT/manifest.json.

    With several strengths of noise each clip is made once for each, named CLIP-nSTRENGTH.
    A clip that fails does not stop the others. What an earlier run made and the manifest does not
    name any more is removed, or one would train with it, or measure on it.

    Args:
        on_clip: told each finished clip's name, and the sentence if it failed.

    Raises:
        MediaError: a clip lies where results go; or after all others are done, if any clip failed.
    """
    _check_sources(sources, out)
    for folder in ("clean", "videos", "packs", *(("scaled",) if settings.scale == "after" else ())):
        (out / folder).mkdir(parents=True, exist_ok=True)
    before = _made_before(out)
    stamps = _stamps(sources)  # first, so that a clip is made again that changes meanwhile
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    tasks = _tasks(sources, settings)
    for clip, result in _results(tasks, out, settings, jobs):
        if isinstance(result, str):
            failed[clip] = result
            on_clip(clip, result)
        else:
            rows += result
            on_clip(clip, None)
    if rows:
        rows.sort(key=lambda row: (row["clip"], row["variant"]))
        _remove_stale(out, before, rows)
        _write_manifest(out, settings, stamps, rows)
    if failed:
        raise MediaError(_failure(failed, len(tasks)))
    return rows


def _check_sources(sources: dict[str, Path], out: Path) -> None:
    """Refuse clips that a result could replace, by a link as well."""
    there = {path.resolve() for path in _lying_in(out)}
    for path in sources.values():
        if path.resolve() in there:
            raise MediaError(f"{path}: lies where results go; give OUT_DIR a folder of its own")


def _lying_in(out: Path) -> Iterator[Path]:
    for folder in _FOLDERS:
        yield from (out / folder).glob("*")


def _made_before(out: Path) -> set[Path]:
    """Return which files earlier runs made, by their manifest and their packs.

    A run that was cut off leaves no manifest.
    """
    packs = heads(out / "packs")
    rows = [*packs.values()]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or cut short
        rows += [dict(row) for row in json.loads((out / _MANIFEST).read_text())["variants"]]
    named = {str(row.get(key)) for row in rows for key in ("video", "clean", "scaled")}
    return {*packs, *(out / name for name in named if _MADE.fullmatch(name))}


def _remove_stale(out: Path, before: set[Path], rows: list[dict[str, Any]]) -> None:
    """Remove what was made before and not again; a file that the tool did not make stays."""
    keys = ("video", "clean", "scaled", "pack")
    made = {out / row[key] for row in rows for key in keys if key in row}
    made |= {out / "packs" / f"{row['clip']}.clean.npz" for row in rows}
    for path in before - made:
        if path.is_file():
            path.unlink()


def _write_manifest(
    out: Path, settings: Settings, stamps: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    manifest = {"settings": asdict(settings), "sources": stamps, "variants": rows}
    (out / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _failure(failed: dict[str, str], total: int) -> str:
    """Return the sentence for a run in which these clips failed, by their sentences."""
    first, reason = next(iter(failed.items()))
    if total == 1:
        return f"the only clip failed, so nothing was made: {reason}"
    if len(failed) == total:
        return f"all {total} clips failed, so nothing was made; the first: {reason}"
    return (
        f"{len(failed)} of {total} clips failed, {first} first ({reason}); the others are in the"
        " manifest"
    )


def has_results(out: Path) -> bool:
    """Say whether a folder holds what degrade() would replace or remove."""
    packs = (out / "packs").glob("*.npz")
    return (out / _MANIFEST).exists() or any(chain(packs, _lying_in(out)))


def holds(out: Path, sources: dict[str, Path], settings: Settings) -> bool:
    """Say whether a folder holds what degrade() would make of these clips, by its manifest."""
    try:
        manifest = json.loads((out / _MANIFEST).read_text())
        made = {row["clip"] for row in manifest["variants"]}
        return bool(
            manifest["settings"] == _plain(settings)
            and manifest["sources"] == _stamps(sources)
            and made == {*_tasks(sources, settings)}
        )
    except (OSError, ValueError, KeyError, TypeError):  # none there, or cut short
        return False


def is_made_otherwise(out: Path, settings: Settings) -> bool:
    """Say whether a folder holds what other settings made, whatever their seed, by its manifest."""
    try:
        made = json.loads((out / _MANIFEST).read_text())["settings"]
        wanted = _plain(settings) | {"seed": made["seed"]}
        return bool(made != {name: wanted.get(name) for name in made})  # older ones name fewer
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stamps(sources: dict[str, Path]) -> dict[str, Any]:
    """Return size and time of change of each clip, which differ where another has its name."""
    stamps: dict[str, Any] = {}
    for name, path in sources.items():
        try:
            about = path.stat()
            stamps[name] = {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
        except OSError:
            stamps[name] = None  # it fails when it is read, too
    return stamps


def _plain(settings: Settings) -> Any:
    return json.loads(json.dumps(asdict(settings)))


def _tasks(sources: dict[str, Path], settings: Settings) -> dict[str, tuple[Path, float]]:
    """Return file and noise of every clip that is to be made, by the clip's name."""
    if len(settings.noise) == 1:
        return {name: (path, settings.noise[0]) for name, path in sources.items()}
    return {
        f"{name}-n{noise:g}".replace(".", "_"): (path, noise)
        for name, path in sources.items()
        for noise in settings.noise
    }


def _results(
    clips: dict[str, tuple[Path, float]], out: Path, settings: Settings, jobs: int
) -> Iterator[tuple[str, list[dict[str, Any]] | str]]:
    """Yield each clip with its rows, or with the sentence that says why it failed."""
    photos = sorted({path for path, _ in clips.values() if path.suffix.lower() in _PHOTO_SUFFIXES})
    if jobs == 1:
        for name, (path, noise) in clips.items():
            try:
                yield name, degrade_clip(name, path, out, settings, noise, photos)
            except CarfilterError as error:
                yield name, str(error)
        return
    # Spawned, because forking a process whose codec threads are running may deadlock.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_worker) as pool:
        try:
            tasks = {
                pool.submit(degrade_clip, name, path, out, settings, noise, photos): name
                for name, (path, noise) in clips.items()
            }
            for task in as_completed(tasks):
                try:
                    yield tasks[task], task.result()
                except CarfilterError as error:
                    yield tasks[task], str(error)
        except BrokenProcessPool as error:
            raise MediaError(
                f"{out}: a worker process was killed, most likely for want of memory; run"
                " carfilter-degrade with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leave signals, which may reach all, to the parent: it has clips in work be finished."""
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker where its parent was killed; it would wait for another clip for good."""
    parent = parent_process()
    assert parent is not None, "runs in a worker"
    parent.join()
    os._exit(1)
