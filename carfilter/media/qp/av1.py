"""The quantiser of AV1's pictures, as the headers of their frames tell it.

FFmpeg's decoders read it and export it not. The names in comments are those of the syntax elements
of clauses 5.5 and 5.9 of the AV1 Bitstream & Decoding Process Specification,
https://aomediacodec.github.io/av1-spec/: what stands before base_q_idx has to be read to know where
that is. Blocks and segments may move away from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from carfilter.media.qp.nal import Bits

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # obu_type, clause 6.2.2
_KEY, _INTRA_ONLY, _SWITCH = 0, 2, 3  # frame_type, clause 6.8.2
_SLOTS = 8  # NUM_REF_FRAMES
_REFERENCES = 7  # REFS_PER_FRAME
_LAST, _GOLDEN = 0, 3  # of those, the ones that short signaling names
_MOST_TILES = 64  # MAX_TILE_COLS, MAX_TILE_ROWS
_TILE_WIDTH, _TILE_AREA = 4096, 4096 * 2304  # MAX_TILE_WIDTH, MAX_TILE_AREA
_HEADER_BYTES = 512  # of an OBU, more than what is read of it takes

_Size = tuple[int, int]  # width and height
_Layer = tuple[int, int]  # temporal_id and spatial_id


@dataclass(frozen=True)
class _Sequence:
    """What a sequence header tells of the frame headers to come. Bits are 0 of what is absent."""

    reduced: bool  # reduced_still_picture_header
    layers: int  # OperatingPointIdc
    models: list[int] | None  # operating_point_idc of those with a model; None without any
    removal_bits: int
    presentation_bits: int
    size_bits: _Size
    size: _Size
    id_bits: int
    id_delta_bits: int
    large_blocks: bool  # use_128x128_superblock
    order_bits: int
    frame_vectors: bool  # enable_ref_frame_mvs
    screen_content: bool | None  # None where each frame tells
    whole_vectors: bool | None  # seq_force_integer_mv, alike
    superres: bool


@dataclass(frozen=True)
class _Frame:
    """What is kept of a frame in each slot that it takes."""

    kind: int
    size: _Size  # as shown, before superres makes it narrower
    quantiser: int


@dataclass
class Av1Qp:
    """Reads the quantiser of each picture from its packet, a temporal unit.

    Args:
        extradata: of the decoder: in av1C, or OBUs alone.
    """

    extradata: bytes = b""
    _sequence: _Sequence | None = None
    _slots: list[_Frame | None] = field(default_factory=lambda: [None] * _SLOTS)

    def __post_init__(self) -> None:
        # AV1 Codec ISO Media File Format Binding, 2.3: av1C begins with 0x81, OBUs from byte 4 on.
        self.read(self.extradata[4 if self.extradata[:1] == b"\x81" else 0 :])

    def read(self, data: bytes) -> tuple[str, int] | None:
        """Return I or P and base_q_idx, 0..255, of the frame that a packet shows: of the highest
        layer, where it has some; None where it shows none, or a header of it is damaged."""
        shown = None
        try:
            for kind, layer, body in _split(data):
                sequence = self._sequence
                if kind == _SEQUENCE:
                    self._sequence = _read_sequence(Bits(body))
                elif sequence is None or kind not in (_FRAME_HEADER, _FRAME):
                    continue
                elif _is_chosen(layer, sequence.layers):
                    shown = self._frame(Bits(body), sequence, layer) or shown
        except (EOFError, ValueError):
            self._slots = [None] * _SLOTS  # which of them it would have taken is unknown
            return None
        return None if shown is None else ("PI"[_is_intra(shown.kind)], shown.quantiser)

    def _frame(self, bits: Bits, sequence: _Sequence, layer: _Layer | None) -> _Frame | None:
        """Read a frame header, and return its frame if that is shown; clauses 7.20 and 7.21."""
        if not sequence.reduced and bits.flag():  # show_existing_frame
            existing = self._slots[bits.take(3)]
            if existing is not None and existing.kind == _KEY:
                self._slots = [existing] * _SLOTS
            return existing
        frame, refresh, is_shown = _read_frame(bits, sequence, layer, self._slots)
        for index in range(_SLOTS):
            if refresh >> index & 1:
                self._slots[index] = frame
        return frame if is_shown else None


def _split(data: bytes) -> Iterator[tuple[int, _Layer | None, bytes]]:
    """Yield the type of each OBU, its layer where it is of one, and its first bytes: clause 5.3."""
    at = 0
    while at < len(data):
        header = data[at]
        if header >> 7:  # obu_forbidden_bit
            raise ValueError("no OBU")
        at += 1
        layer = None
        if header >> 2 & 1:  # obu_extension_flag
            extension = data[at] if at < len(data) else 0
            layer = (extension >> 5, extension >> 3 & 3)
            at += 1
        end = len(data)
        if header >> 1 & 1:  # obu_has_size_field
            size, at = _leb128(data, at)
            end = min(at + size, end)
        yield header >> 3 & 15, layer, data[at : min(at + _HEADER_BYTES, end)]
        at = end


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that stands there, and where it ends: clause 4.10.5."""
    value = 0
    for place, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * place
        if not byte >> 7:
            return value, at + place + 1
    raise EOFError


def _is_chosen(layer: _Layer | None, chosen: int) -> bool:
    """Say whether an OBU is of the operating point `chosen`: clause 5.3.1."""
    if layer is None or not chosen:
        return True
    temporal, spatial = layer
    return bool(chosen >> temporal & 1 and chosen >> 8 + spatial & 1)


def _is_intra(kind: int) -> bool:
    return kind in (_KEY, _INTRA_ONLY)


def _read_sequence(bits: Bits) -> _Sequence:
    """Read sequence_header_obu(), clause 5.5, as far as it is needed."""
    bits.take(4)  # seq_profile, still_picture
    reduced = bits.flag()
    points, models, removal_bits, presentation_bits = [0], None, 0, 0
    if reduced:
        bits.take(5)  # seq_level_idx
    else:
        points, models, removal_bits, presentation_bits = _read_points(bits)
    size_bits = (bits.take(4) + 1, bits.take(4) + 1)
    size = (bits.take(size_bits[0]) + 1, bits.take(size_bits[1]) + 1)
    id_bits = id_delta_bits = 0
    if not reduced and bits.flag():  # frame_id_numbers_present_flag
        id_delta_bits = bits.take(4) + 2
        id_bits = id_delta_bits + bits.take(3) + 1
    large_blocks = bits.flag()
    bits.take(2)  # enable_filter_intra, enable_intra_edge_filter
    order_bits, frame_vectors = 0, False
    screen_content: bool | None = None
    whole_vectors: bool | None = None
    if not reduced:
        bits.take(4)  # enable_interintra_compound to enable_dual_filter
        has_order = bits.flag()
        if has_order:
            bits.take(1)  # enable_jnt_comp
            frame_vectors = bits.flag()
        if not bits.flag():  # seq_choose_screen_content_tools
            screen_content = bits.flag()
        if screen_content is not False and not bits.flag():  # seq_choose_integer_mv
            whole_vectors = bits.flag()
        if has_order:
            order_bits = bits.take(3) + 1
    superres = bits.flag()
    return _Sequence(
        reduced, points[0], models, removal_bits, presentation_bits, size_bits, size, id_bits,
        id_delta_bits, large_blocks, order_bits, frame_vectors, screen_content, whole_vectors,
        superres,
    )  # fmt: skip


def _read_points(bits: Bits) -> tuple[list[int], list[int] | None, int, int]:
    """Read from timing_info_present_flag on up to the last operating point, clause 5.5.1.

    Returns:
        operating_point_idc of all points; of those with a decoder model, None where there is none;
        the bits of buffer_removal_time and of frame_presentation_time.
    """
    models: list[int] | None = None
    delay_bits = removal_bits = presentation_bits = 0
    if bits.flag():  # timing_info_present_flag
        bits.take(64)
        is_even = bits.flag()  # equal_picture_interval
        if is_even:
            bits.unsigned()  # uvlc(), which is as ue(v) is
        if bits.flag():  # decoder_model_info_present_flag
            models = []
            delay_bits = bits.take(5) + 1
            bits.take(32)
            removal_bits = bits.take(5) + 1
            presentation_bits = bits.take(5) + 1
            if is_even:
                presentation_bits = 0
    has_delays = bits.flag()  # initial_display_delay_present_flag
    points = []
    for _ in range(bits.take(5) + 1):
        points.append(bits.take(12))
        if bits.take(5) > 7:  # seq_level_idx
            bits.take(1)
        if models is not None and bits.flag():  # decoder_model_present_for_this_op
            models.append(points[-1])
            bits.take(2 * delay_bits + 1)
        if has_delays and bits.flag():
            bits.take(4)
    return points, models, removal_bits, presentation_bits


def _read_frame(
    bits: Bits, sequence: _Sequence, layer: _Layer | None, slots: list[_Frame | None]
) -> tuple[_Frame, int, bool]:
    """Read uncompressed_header(), clause 5.9.2, after show_existing_frame.

    Returns:
        the frame, refresh_frame_flags and whether the frame is shown.
    """
    kind, is_shown, resilient = _KEY, True, True
    if not sequence.reduced:
        kind, is_shown = bits.take(2), bits.flag()
        bits.take(sequence.presentation_bits if is_shown else 1)  # showable_frame
        resilient = kind == _SWITCH or (kind == _KEY and is_shown) or bits.flag()
    keeps_cdf = bits.flag()  # disable_cdf_update
    screen_content = sequence.screen_content
    if screen_content is None:
        screen_content = bits.flag()
    whole_vectors = sequence.whole_vectors if screen_content else False
    if whole_vectors is None:
        whole_vectors = bits.flag()
    bits.take(sequence.id_bits)
    own_size = kind == _SWITCH or (not sequence.reduced and bits.flag())
    bits.take(sequence.order_bits)
    if not _is_intra(kind) and not resilient:
        bits.take(3)  # primary_ref_frame
    if sequence.models is not None and bits.flag():  # buffer_removal_time_present_flag
        chosen = sum(not idc or _is_chosen(layer or (0, 0), idc) for idc in sequence.models)
        bits.take(chosen * sequence.removal_bits)
    refresh = 255 if kind == _SWITCH or (kind == _KEY and is_shown) else bits.take(8)
    if resilient and (not _is_intra(kind) or refresh != 255):
        bits.take(_SLOTS * sequence.order_bits)  # ref_order_hint
    if _is_intra(kind):
        size, width = _read_size(bits, sequence, own_size=own_size)
        if screen_content and size[0] == width:
            bits.take(1)  # allow_intrabc
    else:
        references = _read_references(bits, sequence, slots)
        if own_size and not resilient:
            size, width = _read_size_with_references(bits, sequence, references)
        else:
            size, width = _read_size(bits, sequence, own_size=own_size)
        if not whole_vectors:
            bits.take(1)  # allow_high_precision_mv
        if not bits.flag():  # is_filter_switchable
            bits.take(2)
        bits.take(1)  # is_motion_mode_switchable
        if sequence.frame_vectors and not resilient:
            bits.take(1)  # use_ref_frame_mvs
    if not sequence.reduced and not keeps_cdf:
        bits.take(1)  # disable_frame_end_update_cdf
    _skip_tiles(bits, (width, size[1]), large_blocks=sequence.large_blocks)
    return _Frame(kind, size, bits.take(8)), refresh, is_shown


def _read_references(
    bits: Bits, sequence: _Sequence, slots: list[_Frame | None]
) -> list[set[_Size | None]]:
    """Return the sizes that each reference may have, None among them where one is unknown."""
    sizes = [None if slot is None else slot.size for slot in slots]
    found: list[set[_Size | None]]
    is_short = bool(sequence.order_bits) and bits.flag()  # frame_refs_short_signaling
    if is_short:
        # Clause 7.8 finds the others by the order of the slots: any of them, here.
        found = [set(sizes) for _ in range(_REFERENCES)]
        found[_LAST], found[_GOLDEN] = {sizes[bits.take(3)]}, {sizes[bits.take(3)]}
        bits.take(_REFERENCES * sequence.id_delta_bits)
        return found
    found = []
    for _ in range(_REFERENCES):
        found.append({sizes[bits.take(3)]})
        bits.take(sequence.id_delta_bits)
    return found


def _read_size(bits: Bits, sequence: _Sequence, *, own_size: bool) -> tuple[_Size, int]:
    """Read frame_size() and render_size(), clauses 5.9.5 and 5.9.6.

    Returns:
        the size, and the width that is coded of it.
    """
    size = sequence.size
    if own_size:
        size = (bits.take(sequence.size_bits[0]) + 1, bits.take(sequence.size_bits[1]) + 1)
    width = _read_width(bits, sequence, size)
    if bits.flag():  # render_and_frame_size_different
        bits.take(32)
    return size, width


def _read_size_with_references(
    bits: Bits, sequence: _Sequence, references: list[set[_Size | None]]
) -> tuple[_Size, int]:
    """Read frame_size_with_refs(), clause 5.9.7."""
    for sizes in references:
        if bits.flag():  # found_ref
            size = sizes.pop()
            if size is None or sizes:
                raise ValueError("a size that is not known")
            return size, _read_width(bits, sequence, size)
    return _read_size(bits, sequence, own_size=True)


def _read_width(bits: Bits, sequence: _Sequence, size: _Size) -> int:
    """Read superres_params(), clause 5.9.8."""
    if not sequence.superres or not bits.flag():
        return size[0]
    part = bits.take(3) + 9  # of so many parts eight are coded
    return (size[0] * 8 + part // 2) // part


def _skip_tiles(bits: Bits, size: _Size, *, large_blocks: bool) -> None:
    """Read tile_info(), clause 5.9.15."""
    side = 7 if large_blocks else 6  # the logarithm of a superblock's
    # MiCols and MiRows are even: a superblock begins with each side of 8 that is begun.
    columns, rows = (-(-length // (1 << side)) for length in size)
    most_wide, most_area = _TILE_WIDTH >> side, _TILE_AREA >> 2 * side
    least_columns = _log2(-(-columns // most_wide))
    least = max(least_columns, _log2(-(-rows * columns // most_area)))
    if bits.flag():  # uniform_tile_spacing_flag
        log2_columns = _read_increments(bits, least_columns, columns)
        log2_rows = _read_increments(bits, max(least - log2_columns, 0), rows)
    else:
        widths = _read_tiles(bits, columns, most_wide)
        area = rows * columns >> (least + 1 if least else 0)
        heights = _read_tiles(bits, rows, max(area // max(widths), 1))
        log2_columns, log2_rows = _log2(len(widths)), _log2(len(heights))
    if log2_columns or log2_rows:
        bits.take(log2_columns + log2_rows + 2)  # context_update_tile_id, tile_size_bytes_minus_1


def _read_increments(bits: Bits, least: int, blocks: int) -> int:
    """Read increment_tile_cols_log2 or increment_tile_rows_log2, and return the logarithm."""
    most = _log2(min(blocks, _MOST_TILES))
    while least < most and bits.flag():
        least += 1
    return least


def _read_tiles(bits: Bits, blocks: int, most: int) -> list[int]:
    """Read how many superblocks each tile takes, until all are taken."""
    found = []
    while blocks:
        found.append(_read_below(bits, min(blocks, most)) + 1)
        blocks -= found[-1]
    return found


def _read_below(bits: Bits, limit: int) -> int:
    """Read ns(n), a number below `limit`: clause 4.10.7."""
    width = limit.bit_length()
    short = (1 << width) - limit
    value = bits.take(width - 1)
    return value if value < short else 2 * value - short + bits.take(1)


def _log2(count: int) -> int:
    """Return the logarithm of the least power of two, `count` or more: tile_log2(), 5.9.16."""
    return (count - 1).bit_length()
