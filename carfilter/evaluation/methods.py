"""The rows of an evaluation: nothing done, spp as the paper had it and at its best, networks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from carfilter.evaluation import baselines
from carfilter.media.clips import Clip
from carfilter.pictures import Picture
from carfilter.restore.network import config_of
from carfilter.restore.restorer import RestoreOptions, Restorer
from carfilter.restore.weights import Model

_B_FRAME = 3  # of Clip.types
_TYPICAL_QP = 34.0  # for spp where no stream tells the QP


@dataclass(frozen=True)
class Method:
    """What makes a restored clip of a decoded one; the clean one is for tuned baselines only."""

    name: str
    key: str  # everything the result depends on besides the clips
    restore: Callable[[Clip, Clip], Clip]
    about: str
    is_model: bool = False
    sha256: str = ""
    blind: bool = False  # needs the measured QP of a clip whose decoder tells it, too


def decode() -> Method:
    """Do nothing: the compressed video as it is."""
    return Method("decode", "decode", lambda coded, _clean: coded, "the decoded video, untouched")


def given(name: str, clip: Clip) -> Method:
    """Show what somebody else restored."""
    return Method(name, f"given-{name}", lambda _coded, _clean: clip, "as given", is_model=True)


def spp_rows(*, as_paper: bool = True) -> list[Method]:
    """Return FFmpeg's spp filter at QP/4, as in the paper's time, and at its best strength.

    Args:
        as_paper: with the first, which wants the QP of H.264.
    """
    tool = baselines.ffmpeg_version()

    def by_quarter(coded: Clip, _clean: Clip) -> Clip:
        return _with_spp(coded, baselines.paper_strength(_reference_qp(coded)))

    def tuned(coded: Clip, clean: Clip) -> Clip:
        return _with_spp(coded, baselines.tuned_strength(clean.luma, coded.luma))

    rows = [
        Method(
            "spp (QP/4)",
            f"spp-quarter-1-{tool}",
            by_quarter,
            "FFmpeg's spp, strength forced to a quarter of the mean QP of I and P frames",
        ),
        Method(
            "spp (tuned)",
            f"spp-tuned-1-{tool}",
            tuned,
            "FFmpeg's spp at the strength of the best PSNR for each clip and column, for which"
            " it was shown the clean clip",
        ),
    ]
    return rows if as_paper else rows[1:]


def _with_spp(coded: Clip, strength: int) -> Clip:
    return replace(coded, luma=baselines.spp(coded.luma, strength))


def _reference_qp(coded: Clip) -> float:
    if coded.qp is None:
        return _TYPICAL_QP
    if coded.types is None:
        return float(coded.qp.mean())
    return float(coded.qp[coded.types != _B_FRAME].mean())


def network(
    model: Model, options: RestoreOptions | None = None, *, blind: bool = False, past: bool = False
) -> Method:
    """Run a checkpoint.

    Args:
        blind: without the QP maps of the decoder; QP is measured, as the filter does.
        past: let a multi-frame network see no later frames, as in live use.
    """
    options = options or RestoreOptions()
    if past:
        options = replace(options, lookahead=0)
    noted = [*(["QP unknown"] if blind else []), *(["past only"] if past else [])]

    def restore(coded: Clip, _clean: Clip) -> Clip:
        height, width = coded.luma.shape[1:]
        restorer = Restorer(model, options, (height, width), codec=coded.codec)
        restored = restorer.restore(_pictures(coded, blind=blind))
        return replace(coded, luma=np.stack(list(restored)).astype(np.uint8, copy=False))

    # The batch is part of no key: it changes results by rounding at most.
    how = f"{options.device}-{options.precision}-{options.strength}"
    if blind:
        how += f"-measured1-qp{options.qp}"
    if model.network.references:
        how += f"-ahead{options.lookahead}-steady4-moved3"
    if model.int8_ranges:
        how += "-int8-2"
    key = f"network-6-{_weights_digest(model)}-{how}"
    uses_qp = model.network.uses_qp and not blind
    return Method(
        f"{model.name} ({', '.join(noted)})" if noted else model.name,
        f"{key}-{'blind' if blind else 'qp'}",
        restore,
        f"network {model.network.name}, {'with' if uses_qp else 'without'} QP maps"
        + (f", looking {options.lookahead} frames ahead" if model.network.references else ""),
        is_model=True,
        sha256=model.sha256,
        blind=blind,
    )


def _weights_digest(model: Model) -> str:
    """Return a checksum of what computes: a file keeps its scores when only its notes change."""
    digest = hashlib.sha256()
    for one in (model, *model.others.values()):
        about = (one.network.name, config_of(one.network), one.int8_ranges)
        digest.update(f"{one.suits}{about!r}".encode())
        for name, tensor in sorted(one.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pictures(coded: Clip, *, blind: bool) -> list[Picture]:
    maps = coded.measured_qp if blind or coded.qp is None else coded.qp
    return [
        Picture(
            luma,
            qp=None if maps is None else maps[index].astype(np.int16),
            frame_type=0 if coded.types is None else int(coded.types[index]),
        )
        for index, luma in enumerate(coded.luma)
    ]
