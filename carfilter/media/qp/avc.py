"""The QP of H.264's pictures, as the headers of their slices tell it: ITU-T Recommendation H.264.

FFmpeg's own decoder exports that of each macroblock, those of GPUs none. The names in comments are
those of the syntax elements of clause 7.3, https://www.itu.int/rec/T-REC-H.264: what stands before
slice_qp_delta has to be read to know where that begins. Blocks may move away from the QP of their
slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from carfilter.media.qp.nal import Bits, avcc_units, keep_set, split_units, unescaped

_SLICES = (1, 2, 5)  # nal_unit_type, table 7-1: whole slices, and the first of three partitions
_IDR, _SPS, _PPS = 5, 7, 8
_P, _B, _I, _SP = 0, 1, 2, 3  # slice_type, table 7-6, modulo 5; 4 is SI
_TYPES = "PBIPI"
_HEADER_BYTES = 1024  # of a slice, more than any header takes
_MOST_REFERENCES = 32
# The profiles whose sequences tell their format, clause 7.3.2.1.1.
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


@dataclass(frozen=True)
class _Sequence:
    """What a sequence parameter set tells of the slice headers to come."""

    planes_apart: bool
    has_chroma: bool
    frame_number_bits: int
    order_bits: int  # of pic_order_cnt_lsb; 0 where there is none
    order_deltas: bool  # delta_pic_order_cnt, as in pic_order_cnt_type 1
    has_fields: bool


@dataclass(frozen=True)
class _Picture:
    """What a picture parameter set tells of them."""

    sequence: int
    cabac: bool
    field_orders: bool  # bottom_field_pic_order_in_frame_present_flag
    references: tuple[int, int]  # by default, of both lists
    weighted: tuple[bool, bool]  # explicitly: in P, in B
    qp: int
    redundant: bool


@dataclass(frozen=True)
class _Slice:
    """What the first slice of a packet begins with."""

    kind: int  # slice_type, modulo 5
    picture: _Picture
    sequence: _Sequence
    frame_number: int
    field: int  # 1 of a top one, 2 of a bottom one; 0 of a frame


@dataclass
class AvcQp:
    """Reads the QP of each picture from its packet.

    Args:
        extradata: of the decoder: parameter sets with start codes, or in avcC.
    """

    extradata: bytes = b""
    _sequences: dict[int, _Sequence] = field(default_factory=dict)
    _pictures: dict[int, _Picture] = field(default_factory=dict)
    _first_field: tuple[int, int] = (0, 0)  # its parity and frame_num, until the second comes

    def __post_init__(self) -> None:
        units, self._length_bytes = avcc_units(self.extradata)
        for unit in units:
            self.note(unit)

    def read(self, data: bytes) -> tuple[str, int] | None:
        """Return I, P or B and the QP, 0..51 at any depth, of the first slice in a packet; None
        where its header, or a parameter set before it, is missing or damaged."""
        for unit in split_units(data, self._length_bytes):
            if len(unit) < 2 or unit[0] >> 7:  # forbidden_zero_bit
                continue
            if unit[0] & 31 not in _SLICES:
                self.note(unit)
                continue
            try:
                return self._slice(Bits(unescaped(unit[1:_HEADER_BYTES])), unit[0])
            except (EOFError, KeyError):
                return None
        return None

    def is_second_field(self, unit: bytes) -> bool:
        """Say whether a slice begins the second field of the frame whose first was given before;
        in MPEG-TS and raw streams each has a packet of its own."""
        if not any(sequence.has_fields for sequence in self._sequences.values()):
            return False
        try:
            begun = self._begin(Bits(unescaped(unit[1:_HEADER_BYTES])))
        except (EOFError, KeyError):
            begun = None
        if begun is None or not begun.field:
            self._first_field = (0, 0)
            return False
        # Clause 7.4.1.2.4: of the other parity and the same frame_num.
        is_second = self._first_field == (3 - begun.field, begun.frame_number)
        self._first_field = (0, 0) if is_second else (begun.field, begun.frame_number)
        return is_second

    def note(self, unit: bytes) -> None:
        """Keep what a parameter set tells."""
        kind = unit[0] & 31 if unit else 0
        if kind == _SPS:
            keep_set(self._sequences, _sequence, unit[1:])
        elif kind == _PPS:
            keep_set(self._pictures, _picture, unit[1:])

    def _slice(self, bits: Bits, header: int) -> tuple[str, int] | None:
        begun = self._begin(bits)
        if begun is None:
            return None
        picture, idr = begun.picture, header & 31 == _IDR
        _skip_order(bits, begun, idr=idr)
        if begun.kind in (_P, _B, _SP):
            _skip_prediction(bits, picture, begun.sequence, two_lists=begun.kind == _B)
        if header >> 5:  # nal_ref_idc
            _skip_marking(bits, idr=idr)
        if picture.cabac and begun.kind in (_P, _B, _SP):
            bits.unsigned()  # cabac_init_idc
        qp = picture.qp + bits.signed()
        return _TYPES[begun.kind], min(max(qp, 0), 51)

    def _begin(self, bits: Bits) -> _Slice | None:
        """Read which picture a slice is of."""
        bits.unsigned()  # first_mb_in_slice
        slice_type = bits.unsigned()
        if slice_type > 9:
            return None
        picture = self._pictures[bits.unsigned()]
        sequence = self._sequences[picture.sequence]
        bits.take(2 * sequence.planes_apart)  # colour_plane_id
        number = bits.take(sequence.frame_number_bits)
        parity = 0
        if sequence.has_fields and bits.flag():  # field_pic_flag
            parity = 1 + bits.take(1)  # bottom_field_flag
        return _Slice(slice_type % 5, picture, sequence, number, parity)


def _skip_order(bits: Bits, begun: _Slice, *, idr: bool) -> None:
    """Read when it is shown."""
    picture, sequence = begun.picture, begun.sequence
    if idr:
        bits.unsigned()  # idr_pic_id
    bits.take(sequence.order_bits)
    both = picture.field_orders and not begun.field
    # delta_pic_order_cnt_bottom, or both of delta_pic_order_cnt
    for _ in range(bool(sequence.order_bits and both) + sequence.order_deltas * (1 + both)):
        bits.signed()
    if picture.redundant:
        bits.unsigned()  # redundant_pic_cnt


def _skip_prediction(
    bits: Bits, picture: _Picture, sequence: _Sequence, *, two_lists: bool
) -> None:
    """Read what P and B slices have of their references."""
    bits.take(two_lists)  # direct_spatial_mv_pred_flag
    counts = list(picture.references[: 1 + two_lists])
    if bits.flag():  # num_ref_idx_active_override_flag
        counts = [bits.unsigned() + 1 for _ in counts]
    if max(counts) > _MOST_REFERENCES:
        raise EOFError
    for _ in counts:
        if bits.flag():  # ref_pic_list_modification_flag_l0, _l1
            while bits.unsigned() != 3:  # modification_of_pic_nums_idc
                bits.unsigned()
    if picture.weighted[two_lists]:
        _skip_weights(bits, counts, has_chroma=sequence.has_chroma)


def _skip_weights(bits: Bits, counts: list[int], *, has_chroma: bool) -> None:
    """Read pred_weight_table()."""
    for _ in range(1 + has_chroma):
        bits.unsigned()  # luma_log2_weight_denom, that of chroma
    for _ in range(sum(counts)):
        for components in (1, 2)[: 1 + has_chroma]:
            if bits.flag():  # luma_weight_l0_flag and its kin
                for _ in range(2 * components):  # a weight and an offset for each
                    bits.signed()


def _skip_marking(bits: Bits, *, idr: bool) -> None:
    """Read dec_ref_pic_marking()."""
    if idr:
        bits.take(2)
    elif bits.flag():  # adaptive_ref_pic_marking_mode_flag
        while operation := bits.unsigned():  # memory_management_control_operation
            for _ in range({3: 2, 5: 0}.get(operation, 1)):
                bits.unsigned()


def _sequence(bits: Bits) -> tuple[int, _Sequence]:
    """Read a sequence parameter set as far as it is needed; return its number with it."""
    profile = bits.take(8)
    bits.take(16)  # constraint_set flags, level_idc
    number = bits.unsigned()
    chroma, planes_apart = 1, False
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()  # chroma_format_idc
        planes_apart = chroma == 3 and bits.flag()
        bits.unsigned(), bits.unsigned()  # bit depths
        bits.take(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.flag():  # seq_scaling_matrix_present_flag
            for index in range(12 if chroma == 3 else 8):
                if bits.flag():
                    _skip_scaling(bits, 16 if index < 6 else 64)
    frame_number_bits = bits.unsigned() + 4
    order, order_bits, order_deltas = bits.unsigned(), 0, False  # pic_order_cnt_type
    if order == 0:
        order_bits = bits.unsigned() + 4
    elif order == 1:
        order_deltas = not bits.flag()  # delta_pic_order_always_zero_flag
        bits.signed(), bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    if max(frame_number_bits, order_bits) > 16 or order > 2 or chroma > 3:
        raise ValueError("no sequence parameter set")
    bits.unsigned()  # max_num_ref_frames
    bits.take(1)
    bits.unsigned(), bits.unsigned()  # width, height
    has_fields = not bits.flag()  # frame_mbs_only_flag
    has_chroma = chroma != 0 and not planes_apart
    told = (planes_apart, has_chroma, frame_number_bits, order_bits, order_deltas, has_fields)
    return number, _Sequence(*told)


def _picture(bits: Bits) -> tuple[int, _Picture]:
    """Read a picture parameter set as far as it is needed; return its number with it."""
    number, sequence = bits.unsigned(), bits.unsigned()
    cabac, field_orders = bits.flag(), bits.flag()
    groups = bits.unsigned() + 1
    if groups > 8:
        raise ValueError("no picture parameter set")
    if groups > 1:
        _skip_groups(bits, groups)
    references = (bits.unsigned() + 1, bits.unsigned() + 1)
    weighted = (bits.flag(), bits.take(2) == 1)
    qp = 26 + bits.signed()
    bits.signed(), bits.signed()  # pic_init_qs, chroma_qp_index_offset
    bits.take(2)  # deblocking_filter_control_present_flag, constrained_intra_pred_flag
    told = (sequence, cabac, field_orders, references, weighted, qp, bits.flag())
    return number, _Picture(*told)


def _skip_groups(bits: Bits, groups: int) -> None:
    """Read the slice groups of a picture parameter set."""
    map_type = bits.unsigned()
    if map_type == 0:
        for _ in range(groups):
            bits.unsigned()  # run_length_minus1
    elif map_type == 2:
        for _ in range(2 * (groups - 1)):
            bits.unsigned()  # top_left, bottom_right
    elif map_type in (3, 4, 5):
        bits.take(1)
        bits.unsigned()  # slice_group_change_rate_minus1
    elif map_type == 6:
        width = (groups - 1).bit_length()
        for _ in range(bits.unsigned() + 1):
            bits.take(width)  # slice_group_id


def _skip_scaling(bits: Bits, size: int) -> None:
    """Read scaling_list(), clause 7.3.2.1.1.1."""
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
