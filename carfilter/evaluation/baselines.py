"""What others offer, run through a static FFmpeg program: the spp filter and VMAF.

PyAV's libraries hold neither. Luma goes through pipes as plane 0 of yuv420p with flat chroma: the
`gray` format would be rescaled from full to limited range on its way.
"""

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from carfilter.errors import CarfilterError, MediaError

Planes = npt.NDArray[np.uint8]

VMAF_MODELS = {"vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}
SPP_STRENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20)
_CHUNK_BYTES = 64 << 20  # of raw video per run of spp, which needs no other frame


def ffmpeg_program() -> str:
    """Return the path of the static FFmpeg that the imageio-ffmpeg package carries.

    Raises:
        CarfilterError: the package is not installed.
    """
    try:
        import imageio_ffmpeg  # type: ignore[import-untyped]
    except ImportError as error:
        raise CarfilterError(
            "spp and VMAF need the imageio-ffmpeg package; pip install carfilter[eval],"
            " or leave them out with --no-spp --no-vmaf"
        ) from error
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise CarfilterError(
            "imageio-ffmpeg carries no FFmpeg program for this machine;"
            " install FFmpeg, or leave its rows out with --no-spp --no-vmaf"
        ) from error


def ffmpeg_version() -> str:
    """Return the version of that FFmpeg, for the record of a run."""
    first = _run(["-version"]).decode(errors="replace").splitlines()[0]
    return first.removeprefix("ffmpeg version ").split(" ")[0]


def to_yuv420p(luma: Planes) -> bytes:
    """Return raw yuv420p of luma, uint8 [N, H, W], whose chroma is flat."""
    frames, height, width = luma.shape
    chroma = 2 * (-(-height // 2)) * (-(-width // 2))
    raw = np.full((frames, height * width + chroma), 128, np.uint8)
    raw[:, : height * width] = luma.reshape(frames, -1)
    return raw.tobytes()


def raw_input(luma: Planes, name: str) -> list[str]:
    """Return FFmpeg's options that read such raw video from a pipe or a file."""
    size = f"{luma.shape[2]}x{luma.shape[1]}"
    return ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-r", "25", "-i", name]


def spp(luma: Planes, strength: int) -> Planes:
    """Filter luma, uint8 [N, H, W], with FFmpeg's simple postprocessing filter.

    The strength (FFmpeg's qp) is forced: what decoders export by themselves is nothing at all for
    H.264 since FFmpeg 5, so that the filter then does nothing without a word.

    Args:
        strength: 1..63 on the scale of MPEG-2's quantisers, about H.264's QP / 4.
    """
    frames, height, width = luma.shape
    size = len(to_yuv420p(luma[:1]))
    step = max(1, _CHUNK_BYTES // size)
    out = np.empty_like(luma)
    for start in range(0, frames, step):
        chunk = luma[start : start + step]
        options = [*raw_input(chunk, "pipe:0"), "-vf", f"spp=qp={strength}"]
        raw = _run([*options, "-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"], to_yuv420p(chunk))
        if len(raw) != size * len(chunk):
            raise MediaError(f"spp returned {len(raw)} bytes for {len(chunk)} frames; try again")
        planes = np.frombuffer(raw, np.uint8).reshape(len(chunk), size)[:, : height * width]
        out[start : start + step] = planes.reshape(chunk.shape)
    return out


def paper_strength(qp: float) -> int:
    """Return the strength that FFmpeg 4 and older gave spp on H.264: a quarter of the QP.

    Args:
        qp: mean QP, 0..51, of the frames that are not B.
    """
    return max(1, min(63, round(qp / 4)))


def tuned_strength(clean: Planes, decoded: Planes, sample: int = 24) -> int:
    """Return the strength of the highest mean PSNR on `sample` frames spread over the clip.

    It looks at the clean clip, which no user has: the row shows the most that spp can do.
    """
    picked = np.unique(np.linspace(0, len(clean) - 1, sample).round().astype(int))
    truth, test = clean[picked], decoded[picked]
    return max(SPP_STRENGTHS, key=lambda strength: _mean_psnr(truth, spp(test, strength)))


def _mean_psnr(clean: Planes, test: Planes) -> float:
    difference = clean.astype(np.float32) - test
    errors = np.square(difference).mean(axis=(1, 2), dtype=np.float64)
    return float(np.mean([10 * math.log10(255**2 / max(error, 1e-10)) for error in errors]))


def vmaf(clean: Planes, test: Planes, threads: int = 2) -> dict[str, list[float]]:
    """Return VMAF and VMAF NEG of each frame, 0..100, of luma uint8 [N, H, W].

    NEG does not reward sharpening beyond the original (https://github.com/Netflix/vmaf).
    """
    models = "|".join(rf"version={version}\:name={name}" for name, version in VMAF_MODELS.items())
    with tempfile.TemporaryDirectory() as folder:
        truth, log = Path(folder) / "clean.yuv", Path(folder) / "vmaf.json"
        truth.write_bytes(to_yuv420p(clean))
        # FFmpeg runs inside the folder: no path has to be escaped for the filter's syntax.
        filters = f"libvmaf=model='{models}':n_threads={threads}:log_fmt=json:log_path={log.name}"
        inputs = [*raw_input(test, "pipe:0"), *raw_input(clean, truth.name)]
        _run([*inputs, "-lavfi", filters, "-f", "null", "-"], to_yuv420p(test), folder)
        frames = json.loads(log.read_text())["frames"]
    return {name: [frame["metrics"][name] for frame in frames] for name in VMAF_MODELS}


def _run(arguments: Sequence[str], stdin: bytes = b"", folder: str | None = None) -> bytes:
    command = [ffmpeg_program(), "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
    if stdin:
        command.remove("-nostdin")
    done = subprocess.run(command, input=stdin, capture_output=True, cwd=folder, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise MediaError(
            f"FFmpeg failed on {' '.join(arguments[-4:])}"
            f" ({reason[-1] if reason else f'status {done.returncode}'}); try its command alone"
        )
    return done.stdout
