"""The QP of HEVC's pictures, as the headers of their slices tell it: ITU-T Recommendation H.265.

FFmpeg's decoder reads it and exports it not. The names in comments are those of the syntax elements
of clause 7.3, https://www.itu.int/rec/T-REC-H.265: what stands before slice_qp_delta has to be read
to know where that begins. Blocks may move away from the QP of their slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from carfilter.media.qp.nal import Bits, hvcc_units, keep_set, split_units, unescaped

_SPS, _PPS = 33, 34  # nal_unit_type, table 7-1
_IDR = (19, 20)
_B, _P, _I = 0, 1, 2  # slice_type, table 7-7
_SCREEN_PROFILES = (9, 11)  # whose slices have elements of their own
_HEADER_BYTES = 2048  # of a slice, more than any header but its last parts takes


@dataclass(frozen=True)
class _Sequence:
    """What a sequence parameter set tells of the slice headers to come."""

    poc_bits: int
    planes_apart: bool
    has_chroma: bool
    offsets: bool  # sample_adaptive_offset_enabled_flag
    short_term: list[_References]
    long_term: list[bool] | None  # used by the current picture; None where there are none
    temporal_vectors: bool


@dataclass(frozen=True)
class _Picture:
    """What a picture parameter set tells of them."""

    sequence: int
    output_flag: bool
    extra_bits: int
    cabac_init: bool
    references: tuple[int, int]  # by default, of both lists
    qp: int
    weighted: tuple[bool, bool]  # in P, in B
    reordered: bool  # lists_modification_present_flag


_References = list[tuple[int, bool]]
"""A set of reference pictures: how far each is away in POC, and whether this picture uses it."""


@dataclass
class HevcQp:
    """Reads the QP of each picture from its packet.

    Args:
        extradata: of the decoder: parameter sets with start codes, or in hvcC.
    """

    extradata: bytes = b""
    _sequences: dict[int, _Sequence] = field(default_factory=dict)
    _pictures: dict[int, _Picture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        units, self._length_bytes = hvcc_units(self.extradata)
        for unit in units:
            self._note(unit)

    def read(self, data: bytes) -> tuple[str, int] | None:
        """Return I, P or B and the QP, 0..51, of the first slice in a packet; None where its
        header, or a parameter set before it, is missing or damaged."""
        for unit in split_units(data, self._length_bytes):
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:  # not of the base layer
                continue
            kind = unit[0] >> 1
            if kind >= 32:
                self._note(unit)
                continue
            try:
                return self._slice(Bits(unescaped(unit[2:_HEADER_BYTES])), kind)
            except (EOFError, KeyError, IndexError):
                return None
        return None

    def _note(self, unit: bytes) -> None:
        kind = unit[0] >> 1 if len(unit) > 2 else 0
        if kind == _SPS:
            keep_set(self._sequences, _sequence, unit[2:])
        elif kind == _PPS:
            keep_set(self._pictures, _picture, unit[2:])

    def _slice(self, bits: Bits, kind: int) -> tuple[str, int] | None:
        if not bits.flag():  # first_slice_segment_in_pic_flag: that one is lost
            return None
        if 16 <= kind <= 23:
            bits.take(1)  # no_output_of_prior_pics_flag
        picture = self._pictures[bits.unsigned()]
        sequence = self._sequences[picture.sequence]
        bits.take(picture.extra_bits)
        slice_type = bits.unsigned()
        if slice_type > _I:
            return None
        bits.take(picture.output_flag + 2 * sequence.planes_apart)
        used, temporal_vectors = 0, False
        if kind not in _IDR:
            used = _used_references(bits, sequence)
            temporal_vectors = sequence.temporal_vectors and bits.flag()
        if sequence.offsets:
            bits.take(1 + sequence.has_chroma)
        if slice_type != _I:
            _skip_prediction(bits, picture, sequence, slice_type, used, temporal_vectors)
        qp = picture.qp + bits.signed()
        return "BPI"[slice_type], min(max(qp, 0), 51)


def _used_references(bits: Bits, sequence: _Sequence) -> int:
    """Return NumPicTotalCurr of equation 7-55, without the picture itself."""
    bits.take(sequence.poc_bits)  # slice_pic_order_cnt_lsb
    sets = sequence.short_term
    if not bits.flag():  # short_term_ref_pic_set_sps_flag
        chosen = _reference_set(bits, sets, in_slice=True)
    else:
        chosen = sets[bits.take(_width(len(sets)))]
    used = sum(used for _, used in chosen)
    if sequence.long_term is None:
        return used
    known = sequence.long_term
    of_sequence = bits.unsigned() if known else 0  # num_long_term_sps
    for index in range(of_sequence + bits.unsigned()):  # num_long_term_pics
        if index < of_sequence:
            used += known[bits.take(_width(len(known)))]
        else:
            bits.take(sequence.poc_bits)  # poc_lsb_lt
            used += bits.flag()  # used_by_curr_pic_lt_flag
        if bits.flag():  # delta_poc_msb_present_flag
            bits.unsigned()
    return used


def _skip_prediction(
    bits: Bits,
    picture: _Picture,
    sequence: _Sequence,
    slice_type: int,
    used: int,
    temporal_vectors: bool,
) -> None:
    """Read what P and B slices have before slice_qp_delta."""
    lists = 2 if slice_type == _B else 1
    counts = list(picture.references[:lists])
    if bits.flag():  # num_ref_idx_active_override_flag
        counts = [bits.unsigned() + 1 for _ in counts]
    if max(counts) > 16:
        raise EOFError
    if picture.reordered and used > 1:
        for count in counts:
            if bits.flag():  # ref_pic_list_modification_flag_l0, _l1
                bits.take(count * _width(used))
    bits.take((slice_type == _B) + picture.cabac_init)  # mvd_l1_zero_flag, cabac_init_flag
    if temporal_vectors:
        other = slice_type == _B and not bits.flag()  # collocated_from_l0_flag
        if counts[other] > 1:
            bits.unsigned()  # collocated_ref_idx
    if picture.weighted[slice_type == _B]:
        _skip_weights(bits, counts, sequence.has_chroma)
    bits.unsigned()  # five_minus_max_num_merge_cand


def _skip_weights(bits: Bits, counts: list[int], has_chroma: bool) -> None:
    """Read pred_weight_table()."""
    bits.unsigned()  # luma_log2_weight_denom
    if has_chroma:
        bits.signed()
    for count in counts:
        luma = sum(bits.flag() for _ in range(count))
        chroma = sum(bits.flag() for _ in range(count)) if has_chroma else 0
        for _ in range(2 * luma + 4 * chroma):  # a weight and an offset for each component
            bits.signed()


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    """Read a sequence parameter set as far as it is needed; return its number with it."""
    bits.take(4)  # sps_video_parameter_set_id
    layers = bits.take(3)  # sps_max_sub_layers_minus1
    bits.take(1)
    _skip_profile(bits, layers)
    number = bits.unsigned()
    chroma = bits.unsigned()  # chroma_format_idc
    planes_apart = chroma == 3 and bits.flag()
    bits.unsigned(), bits.unsigned()  # width, height
    if bits.flag():  # conformance_window_flag
        for _ in range(4):
            bits.unsigned()
    bits.unsigned(), bits.unsigned()  # bit depths
    poc_bits = bits.unsigned() + 4
    first = 0 if bits.flag() else layers  # sps_sub_layer_ordering_info_present_flag
    for _ in range(3 * (layers + 1 - first) + 6):  # buffering; sizes and depths of blocks
        bits.unsigned()
    if bits.flag() and bits.flag():  # scaling_list_enabled_flag, ..._data_present_flag
        _skip_scaling(bits)
    bits.take(1)  # amp_enabled_flag
    offsets = bits.flag()
    if bits.flag():  # pcm_enabled_flag
        bits.take(8)
        bits.unsigned(), bits.unsigned()
        bits.take(1)
    sets: list[_References] = []
    count = bits.unsigned()
    if count > 64 or poc_bits > 16:
        raise ValueError("no sequence parameter set")
    for _ in range(count):
        sets.append(_reference_set(bits, sets, in_slice=False))
    long_term: list[bool] | None = None
    if bits.flag():  # long_term_ref_pics_present_flag
        long_term = []
        for _ in range(bits.unsigned()):
            bits.take(poc_bits)
            long_term.append(bits.flag())
    has_chroma = chroma != 0 and not planes_apart
    told = (poc_bits, planes_apart, has_chroma, offsets, sets, long_term, bits.flag())
    return number, _Sequence(*told)


def _picture(bits: Bits) -> tuple[int, _Picture]:
    """Read a picture parameter set as far as it is needed; return its number with it."""
    number, sequence = bits.unsigned(), bits.unsigned()
    bits.take(1)  # dependent_slice_segments_enabled_flag
    output_flag, extra_bits = bits.flag(), bits.take(3)
    bits.take(1)  # sign_data_hiding_enabled_flag
    cabac_init = bits.flag()
    references = (bits.unsigned() + 1, bits.unsigned() + 1)
    qp = 26 + bits.signed()
    bits.take(2)  # constrained_intra_pred_flag, transform_skip_enabled_flag
    if bits.flag():  # cu_qp_delta_enabled_flag
        bits.unsigned()
    bits.signed(), bits.signed()  # offsets of chroma
    bits.take(1)
    weighted = (bits.flag(), bits.flag())
    bits.take(1)  # transquant_bypass_enabled_flag
    tiles = bits.flag()
    bits.take(1)  # entropy_coding_sync_enabled_flag
    if tiles:
        borders = bits.unsigned() + bits.unsigned()
        if not bits.flag():  # uniform_spacing_flag
            for _ in range(borders):
                bits.unsigned()
        bits.take(1)
    bits.take(1)  # pps_loop_filter_across_slices_enabled_flag
    if bits.flag():  # deblocking_filter_control_present_flag
        bits.take(1)
        if not bits.flag():  # pps_deblocking_filter_disabled_flag
            bits.signed(), bits.signed()
    if bits.flag():  # pps_scaling_list_data_present_flag
        _skip_scaling(bits)
    told = (sequence, output_flag, extra_bits, cabac_init, references, qp, weighted, bits.flag())
    return number, _Picture(*told)


def _reference_set(bits: Bits, sets: list[_References], *, in_slice: bool) -> _References:
    """Read st_ref_pic_set(), clause 7.3.7: the one after `sets`, or that of a slice itself."""
    if sets and bits.flag():  # inter_ref_pic_set_prediction_flag
        base = sets[-1 - bits.unsigned() if in_slice else -1]  # delta_idx_minus1
        sign = -1 if bits.flag() else 1
        moved = sign * (bits.unsigned() + 1)
        chosen = []
        for delta in (*(delta for delta, _ in base), 0):
            used = bits.flag()
            if (used or bits.flag()) and delta + moved:  # use_delta_flag
                chosen.append((delta + moved, used))
    else:
        chosen = []
        counts = (bits.unsigned(), bits.unsigned())  # before and after
        for sign, count in zip((-1, 1), counts, strict=True):
            delta = 0
            for _ in range(count):
                delta += sign * (bits.unsigned() + 1)
                chosen.append((delta, bits.flag()))
    # Those before and then those after, each from the nearest on: equations 7-61 and 7-62.
    return sorted(chosen, key=lambda one: (one[0] > 0, abs(one[0])))


def _skip_profile(bits: Bits, layers: int) -> None:
    """Read profile_tier_level(), clause 7.3.3."""
    bits.take(3)
    if bits.take(5) in _SCREEN_PROFILES:
        raise ValueError("screen content")
    bits.take(80 + 8)
    present = [(bits.flag(), bits.flag()) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)


def _skip_scaling(bits: Bits) -> None:
    """Read scaling_list_data(), clause 7.3.4."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not bits.flag():  # scaling_list_pred_mode_flag
                bits.unsigned()
                continue
            for _ in range((size > 1) + min(64, 16 << 2 * size)):
                bits.signed()


def _width(count: int) -> int:
    """Return Ceil(Log2(count)), the bits of a number below `count`."""
    return max(count - 1, 0).bit_length()
