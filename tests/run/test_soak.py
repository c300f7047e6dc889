"""A camera followed for long: memory stays flat, and audio and video stay together."""

import signal
import subprocess
import time
from pathlib import Path
from statistics import median

import av
import numpy as np
import psutil
import pytest

from cameras import Process, carfilter, feed, free_port, stop, wait_for

FRAME = 1 / 25
FLASH_SECONDS = 2


# The ring in which FFmpeg keeps what UDP brings (fifo_size=28672 packets of 188 bytes by default):
# its pages count from when they are first filled, the last of them after a minute or two.
_FIFO = 28672 * 188


def make_flashes(path: Path) -> Path:
    """Encode twelve seconds: every two of them a flash of two frames, and a beep with it.

    Frames, packets of MP2 and the loop fit each other, so a looped feed has no seam.
    """
    flash = f"lt(mod(n\\,{25 * FLASH_SECONDS})\\,2)"
    picture = f"testsrc2=s=160x120:r=25,lutyuv=y=val/4,drawbox=c=white:t=fill:enable='{flash}'"
    beep = f"aevalsrc=if(lt(mod(t\\,{FLASH_SECONDS})\\,0.08)\\,sin(6283*t)/2):s=48000"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", beep]
    command += ["-t", "12", "-c:v", "libx264", "-g", "25", "-bf", "0", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, "-c:a", "mp2", str(path)], check=True, timeout=120)
    return path


def flashes(path: Path) -> list[float]:
    """Seconds at which the flashes begin."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        bright = [
            (float(frame.pts * frame.time_base), frame.to_ndarray()[:120, :160].mean() > 150)
            for frame in container.decode(video=0)
        ]
    return [at for (at, now), (_, before) in zip(bright[1:], bright, strict=False) if now > before]


def beeps(path: Path) -> list[float]:
    """Seconds at which the beeps begin."""
    found: list[float] = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0].astype(float)) > _quarter(frame))
            if len(loud):
                at = float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate
                if not found or at - found[-1] > FLASH_SECONDS / 2:
                    found.append(at)
    return found


def _quarter(frame: av.AudioFrame) -> float:
    return 0.25 * (32768 if "16" in frame.format.name else 1)


def memory_over(process: Process, seconds: float) -> list[tuple[int, int]]:
    """Return once a second the resident bytes, and those of them that are no mapped files.

    Files are libraries: the kernel takes their pages back as other programs need memory.
    """
    samples, watched = [], psutil.Process(process.pid)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(1)
        memory = watched.memory_info()
        samples.append((memory.rss, memory.rss - memory.shared))
    return samples


def tenths(samples: list[int]) -> list[float]:
    """Return the median of each tenth of a run."""
    size = len(samples) // 10
    return [median(samples[i * size : (i + 1) * size]) for i in range(10)]


def describe(medians: list[float]) -> str:
    return (
        f"{medians[0] / 1e6:.1f} MB -> {medians[-1] / 1e6:.1f} MB (most {max(medians) / 1e6:.1f})"
    )


@pytest.mark.ffmpeg
@pytest.mark.parametrize("minutes", [0.4, pytest.param(30, marks=pytest.mark.slow)])
def test_a_long_live_run_keeps_its_memory_flat_and_audio_with_video(
    tmp_path: Path, minutes: float
) -> None:
    clip = make_flashes(tmp_path / "flashes.ts")
    url, target = f"udp://127.0.0.1:{free_port()}", tmp_path / "out.mkv"
    with feed(clip, url, "mpegts"), carfilter("--live", url, target, "-stats_period", "60") as run:
        wait_for(run, b"model ")
        memory_over(run, 5)  # the first frames allocate what all use
        samples = memory_over(run, minutes * 60)
        code, text = stop(run, signal.SIGTERM)
    assert code == 143, text
    resident, own = (tenths(list(column)) for column in zip(*samples, strict=True))
    partial = tmp_path / "out.partial.mkv"
    seen, heard = flashes(partial), beeps(partial)
    apart = [min((beep - at for beep in heard), key=abs) for at in seen[1:-1]]
    print(  # noqa: T201 (the figures of a long run)
        f"\n{text.strip().splitlines()[-1]}"
        f"\n{len(samples)} samples: {describe(resident)} resident, {describe(own)} without files"
        f"\n{len(seen)} flashes, {len(heard)} beeps; audio behind video by"
        f" {apart[0] * 1000:+.1f} ms at the start, {apart[-1] * 1000:+.1f} ms at the end,"
        f" at most {max(apart, key=abs) * 1000:+.1f} ms"
    )
    fills = _FIFO if minutes < 5 else 0
    assert max(own) <= 1.05 * own[0] + fills
    assert resident[-1] <= 1.05 * resident[0] + fills
    assert len(seen) >= minutes * 60 / FLASH_SECONDS - 5
    assert max(map(abs, apart)) <= FRAME
