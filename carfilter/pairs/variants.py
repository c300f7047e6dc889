"""Which compressed versions are made of a clip: the paper's twelve, plain ones, a random mix.

Hardware encoders in cameras are not x264 at its defaults: they look at one picture before, spend
no bits by psychovisual rules, and hold a bitrate or a QP. `camera` draws such settings.
"""

import zlib
from dataclasses import dataclass, field, replace

import numpy as np

PAPER_SIZE = (910, 512)
PAPER_CRFS = (29, 35, 41, 47)
PAPER_CAPS = (2_000_000, 1_500_000, 1_000_000)  # bits per second
_PAPER_RATE = 910 * 512 * 25  # pixels per second for which the caps are meant with --scale-caps
_MIXED_CRFS = (18, 51)
_MIXED_PRESETS = ("veryfast", "faster", "fast", "medium", "slow")


@dataclass(frozen=True)
class Codec:
    """How one of FFmpeg's encoders is told what is wanted.

    Attributes:
        finest, coarsest: quality of mixed variants, on the encoder's own scale.
        steps: qualities on it at which an evaluation measures.
        fixed: options that all its variants have.
        plain: further options that stand for a hardware encoder in a camera.
    """

    encoder: str
    finest: int
    coarsest: int
    steps: tuple[int, ...]
    fixed: dict[str, str] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)

    @property
    def by_quantiser(self) -> bool:
        """Whether its quality is a quantiser, as `-q:v` of FFmpeg, instead of a CRF."""
        return self.encoder in ("mpeg4", "mjpeg")

    @property
    def has_presets(self) -> bool:
        """Whether it takes x264's presets, and is held to a bitrate or a QP alike."""
        return self.encoder in ("libx264", "libx265")

    @property
    def ends(self) -> tuple[int, int]:
        """The finest and the coarsest quality that there are; encoders take worse ones for them."""
        if self.by_quantiser:
            return 1, 31
        return (0, 51) if self.has_presets else (0, 63)

    @property
    def scale(self) -> str:
        """What its quality is called: CRF, or q as in `-q:v`."""
        return "q" if self.by_quantiser else "CRF"


# One thread each: with more the result may depend on their number.
CODECS = {
    "h264": Codec(
        "libx264",
        *_MIXED_CRFS,
        PAPER_CRFS,
        # x264's AVX-512 code for mbtree differs from run to run at some widths; this path does not.
        {"x264-params": "cpu-independent=1"},
        {"refs": "1", "psy": "0", "aq-mode": "0", "rc-lookahead": "0", "mbtree": "0"},
    ),
    "hevc": Codec(
        "libx265",
        16,
        47,
        (26, 32, 38, 44),
        {"x265-params": "log-level=none:pools=none:frame-threads=1"},
        {"x265-params": "log-level=none:pools=none:frame-threads=1:ref=1:psy-rd=0:psy-rdoq=0"
         ":aq-mode=0:rc-lookahead=0:cutree=0"},
    ),
    "av1": Codec("libsvtav1", 20, 60, (33, 41, 48, 56), {"preset": "10", "svtav1-params": "lp=1"}),
    "vp9": Codec(
        "libvpx-vp9", 20, 60, (33, 41, 48, 56), {"b": "0", "deadline": "good", "cpu-used": "5"}
    ),
    "mpeg4": Codec("mpeg4", 2, 24, (6, 12, 20)),
    # Limited range needs `strict`.
    "mjpeg": Codec("mjpeg", 3, 30, (8, 15, 25), {"strict": "unofficial"}),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One way to encode; None leaves the encoder's own default."""

    name: str
    crf: int  # or what stands for it on the codec's scale
    preset: str = "medium"
    maxrate: int | None = None  # bits per second
    cap: int | None = None  # of the paper's, which `maxrate` is for a picture of this size
    bufsize: int | None = None  # bits
    gop: int | None = None  # frames; x264's default is 250
    bframes: int | None = None
    codec: str = "h264"  # of CODECS
    rate: str = "crf"  # or qp, of all pictures; or cbr, which holds `maxrate`
    camera: bool = False  # as hardware encoders code

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return CODECS[self.codec].encoder

    def options(self) -> dict[str, str]:
        """Return the encoder's options as FFmpeg spells them."""
        codec = CODECS[self.codec]
        named: dict[str, object] = {
            "maxrate": self.maxrate,
            "bufsize": self.bufsize,
            "g": self.gop,
            "bf": self.bframes,
        }
        if codec.by_quantiser:
            named.update(qmin=self.crf, qmax=self.crf)
        elif self.rate == "cbr":
            named["b"] = self.maxrate
        else:
            named[self.rate] = self.crf
        if codec.has_presets:
            named["preset"] = self.preset
        given = {key: str(value) for key, value in named.items() if value is not None}
        return codec.fixed | (codec.plain if self.camera else {}) | given


@dataclass(frozen=True)
class Settings:
    """What carfilter-degrade makes of each clip."""

    variants: str = "paper"  # paper, mixed, camera or plain
    codecs: tuple[str, ...] = ("h264",)  # of mixed, camera and plain; see CODECS
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
    if settings.variants in ("mixed", "camera"):
        count = settings.per_photo if photo else settings.per_clip
        return _mixed(count, generator_for(settings.seed, clip, "variants"), pixel_rate, settings)
    fixed = {"preset": settings.preset, "gop": settings.gop, "bframes": settings.bframes}
    if settings.variants == "plain":
        return [
            Variant(f"{_tag(codec)}crf{crf}", crf, codec=codec, **fixed)  # type: ignore[arg-type]
            for codec in settings.codecs
            for crf in settings.crfs
        ]
    factor = pixel_rate / _PAPER_RATE if settings.scale_caps else 1.0
    return [
        Variant(
            f"crf{crf}-max{cap // 1000}k",
            crf,
            maxrate=round(cap * factor),
            cap=cap,
            bufsize=round(cap * factor * settings.bufsize_seconds),
            **fixed,  # type: ignore[arg-type]
        )
        for crf in PAPER_CRFS
        for cap in PAPER_CAPS
    ]


def _tag(codec: str) -> str:
    return "" if codec == "h264" else f"{codec}-"


def _mixed(
    count: int, rng: np.random.Generator, pixel_rate: float, settings: Settings
) -> list[Variant]:
    """Draw variants whose qualities are spread evenly, one in each of `count` strata."""
    draw = _drawn_camera if settings.variants == "camera" else _drawn
    variants = []
    for index in range(count):
        share = (index + rng.random()) / count  # of the way from the finest to the coarsest
        # 0.01..0.16 bits per pixel is the range of cameras.
        cap = round(pixel_rate * 0.01 * 2 ** rng.uniform(0, 4))
        name = settings.codecs[int(rng.integers(len(settings.codecs)))]
        codec = CODECS[name]
        crf = int(codec.finest + share * (codec.coarsest + 1 - codec.finest))
        variant = Variant(f"v{index}-{_tag(name)}crf{crf}", crf, codec=name)
        variants.append(draw(variant, cap, rng, settings))
    return variants


def _drawn(variant: Variant, cap: int, rng: np.random.Generator, settings: Settings) -> Variant:
    capped = rng.random() < 0.35 and CODECS[variant.codec].has_presets
    return replace(
        variant,
        preset=str(rng.choice(_MIXED_PRESETS[:3] if variant.codec == "hevc" else _MIXED_PRESETS)),
        maxrate=cap if capped else None,
        bufsize=round(cap * settings.bufsize_seconds) if capped else None,
        gop=250 if rng.random() < 0.15 else int(rng.integers(12, 61)),
        bframes=int(rng.integers(0, 4)) if CODECS[variant.codec].has_presets else None,
    )


def _drawn_camera(
    variant: Variant, cap: int, rng: np.random.Generator, _settings: Settings
) -> Variant:
    """Draw as cameras encode: a QP or a bitrate is held, a key frame every 0.5 to 10 seconds."""
    held = rng.random() < 0.5 and CODECS[variant.codec].has_presets
    free = "qp" if CODECS[variant.codec].has_presets else "crf"
    return replace(
        variant,
        preset="veryfast",
        rate="cbr" if held else free,
        maxrate=cap if held else None,
        bufsize=round(cap * rng.uniform(0.3, 1)) if held else None,
        gop=round(12.5 * 20 ** rng.random()),
        bframes=0 if CODECS[variant.codec].has_presets else None,
        camera=True,
    )


def generator_for(seed: int, clip: str, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each clip and purpose, whatever else is drawn."""
    return np.random.default_rng((seed, zlib.crc32(clip.encode()), zlib.crc32(purpose.encode())))
