"""Which compressed versions are made of a clip: the paper's twelve, plain ones, a random mix."""

import zlib
from dataclasses import dataclass

import numpy as np

PAPER_SIZE = (910, 512)
PAPER_CRFS = (29, 35, 41, 47)
PAPER_CAPS = (2_000_000, 1_500_000, 1_000_000)  # bits per second
_PAPER_RATE = 910 * 512 * 25  # pixels per second for which the caps are meant with --scale-caps
_MIXED_CRFS = (18, 51)
_MIXED_PRESETS = ("veryfast", "faster", "fast", "medium", "slow")


@dataclass(frozen=True)
class Variant:
    """One way to encode with x264; None leaves x264's own default."""

    name: str
    crf: int
    preset: str = "medium"
    maxrate: int | None = None  # bits per second
    bufsize: int | None = None  # bits
    gop: int | None = None  # frames; x264's default is 250
    bframes: int | None = None

    def options(self) -> dict[str, str]:
        """Return libx264's options as FFmpeg spells them."""
        named = {
            "crf": self.crf,
            "preset": self.preset,
            "maxrate": self.maxrate,
            "bufsize": self.bufsize,
            "g": self.gop,
            "bf": self.bframes,
        }
        return {key: str(value) for key, value in named.items() if value is not None}


@dataclass(frozen=True)
class Settings:
    """What carfilter-degrade makes of each clip."""

    variants: str = "paper"  # paper, mixed or plain
    crfs: tuple[int, ...] = PAPER_CRFS  # of plain
    per_clip: int = 8  # of mixed, for videos
    per_photo: int = 4  # of mixed, for photographs
    preset: str = "medium"  # of paper and plain
    gop: int | None = None  # of paper and plain
    bframes: int | None = None  # of paper and plain
    size: tuple[int, int] | None = None  # width, height; None keeps the clip's own
    scale: str = "before"  # the encoder, or after it
    bufsize_seconds: float = 1.0  # VBV buffer in seconds of the cap
    scale_caps: bool = False
    noise: tuple[float, ...] = (0.0,)  # standard deviations in grey levels, a version for each
    seed: int = 0
    photo_frames: int = 8
    photo_camera: str = "pan"  # or still: a fixed view that pieces of other photographs cross
    max_frames: int | None = None


def plan_variants(settings: Settings, clip: str, pixel_rate: float, photo: bool) -> list[Variant]:
    """Return the variants of one clip; the mixed ones depend on the seed and the clip's name alone.

    Args:
        pixel_rate: width x height x frames per second, for caps that fit the picture.
    """
    if settings.variants == "mixed":
        count = settings.per_photo if photo else settings.per_clip
        return _mixed(count, generator_for(settings.seed, clip, "variants"), pixel_rate, settings)
    fixed = {"preset": settings.preset, "gop": settings.gop, "bframes": settings.bframes}
    if settings.variants == "plain":
        return [Variant(f"crf{crf}", crf, **fixed) for crf in settings.crfs]  # type: ignore[arg-type]
    factor = pixel_rate / _PAPER_RATE if settings.scale_caps else 1.0
    return [
        Variant(
            f"crf{crf}-max{cap // 1000}k",
            crf,
            maxrate=round(cap * factor),
            bufsize=round(cap * factor * settings.bufsize_seconds),
            **fixed,  # type: ignore[arg-type]
        )
        for crf in PAPER_CRFS
        for cap in PAPER_CAPS
    ]


def _mixed(
    count: int, rng: np.random.Generator, pixel_rate: float, settings: Settings
) -> list[Variant]:
    """Draw variants whose CRFs are spread evenly over 18..51, one in each of `count` strata."""
    edges = np.linspace(_MIXED_CRFS[0], _MIXED_CRFS[1] + 1, count + 1)
    variants = []
    for index in range(count):
        crf = int(rng.uniform(edges[index], edges[index + 1]))
        cap = None
        if (
            rng.random() < 0.35
        ):  # cameras are often capped; 0.01..0.16 bits per pixel is their range
            cap = round(pixel_rate * 0.01 * 2 ** rng.uniform(0, 4))
        variants.append(
            Variant(
                name=f"v{index}-crf{crf}",
                crf=crf,
                preset=str(rng.choice(_MIXED_PRESETS)),
                maxrate=cap,
                bufsize=None if cap is None else round(cap * settings.bufsize_seconds),
                gop=250 if rng.random() < 0.15 else int(rng.integers(12, 61)),
                bframes=int(rng.integers(0, 4)),
            )
        )
    return variants


def generator_for(seed: int, clip: str, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each clip and purpose, whatever else is drawn."""
    return np.random.default_rng((seed, zlib.crc32(clip.encode()), zlib.crc32(purpose.encode())))
