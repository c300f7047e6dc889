"""AV1 sequence and frame headers as no encoder of PyAV's writes them, drawn at random.

Written after the syntax tables of the AV1 specification, 5.5 and 5.9; FFmpeg's trace_headers reads
them alike, but for layers that are not decoded, of which it knows nothing.
"""

from dataclasses import dataclass
from random import Random

from hevc_headers import Drawn, Writer

KEY, INTER, INTRA_ONLY, SWITCH = range(4)
CHOSEN = 0x303  # OperatingPointIdc: two temporal and two spatial layers


@dataclass(frozen=True)
class Slot:
    """What is kept of a frame."""

    kind: int
    index: int
    size: tuple[int, int]
    order: int


def obu(kind: int, body: bytes, layer: tuple[int, int] | None) -> bytes:
    """Return an OBU with its size, and with its temporal and spatial layer where it has one."""
    head = bytes([kind << 3 | (layer is not None) << 2 | 2])
    if layer is not None:
        head += bytes([layer[0] << 5 | layer[1] << 3])
    return head + bytes([len(body) & 127 | 128, len(body) >> 7]) + body


def whole_bytes(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def below(w: Writer, limit: int, value: int) -> None:
    """Write ns(n), clause 4.10.7."""
    width = limit.bit_length()
    short = (1 << width) - limit
    if value < short:
        w.u(width - 1, value)
    else:
        w.u(width - 1, (value + short) >> 1)
        w.u(1, (value + short) & 1)


class Stream(Drawn):
    """A sequence header that is drawn once, and temporal units after it."""

    def __init__(self, rng: Random, *, layers: bool) -> None:
        super().__init__(rng)
        self.layers = layers
        self.size = rng.choice(((416, 240), (1920, 1080), (7680, 4320)))
        self.points = [CHOSEN if layers else 0, 0x101 if layers else 0][: rng.randrange(1, 3)]
        self.timed, self.even, self.modelled = self._flag(), self._flag(), self._flag()
        self.modelled = self.modelled and self.timed
        self.models = [self._flag() for _ in self.points]
        self.ids, self.large, self.superres = self._flag(), self._flag(), self._flag()
        self.order_bits = rng.choice((0, 7))
        self.vectors = bool(self.order_bits) and self._flag()
        self.screen = rng.choice((None, False, True))  # None: told by each frame
        self.whole = None if self.screen is False else rng.choice((None, False, True))
        self.slots: list[Slot] = []
        self.order = 0

    def _flags(self, w: Writer, *values: bool) -> None:
        for value in values:
            w.u(1, value)

    def sequence(self) -> bytes:
        """Return the sequence header."""
        w = Writer()
        w.u(5, 0)  # profile 0, not still
        w.u(1, self.timed)
        if self.timed:
            w.u(32, 1)
            w.u(32, 25)
            w.u(1, self.even)
            if self.even:
                w.ue(3)
            w.u(1, self.modelled)
            if self.modelled:
                w.u(5, 9)
                w.u(32, 1)
                w.u(5, 11)  # bits of a removal time, less one
                w.u(5, 6)  # bits of a presentation time, less one
        w.u(1, 1)
        w.u(5, len(self.points) - 1)
        for idc, has_model in zip(self.points, self.models, strict=True):
            w.u(12, idc)
            w.u(5, 12)
            w.u(1, 0)
            if self.modelled:
                w.u(1, has_model)
                w.u(21 * has_model, 77)
            w.u(1, 1)
            w.u(4, 3)
        w.u(4, 12)
        w.u(4, 13)
        w.u(13, self.size[0] - 1)
        w.u(14, self.size[1] - 1)
        w.u(1, self.ids)
        w.u(7 * self.ids, 0b0110011)  # deltas of 8 bits, numbers of 12
        self._flags(w, self.large, False, True, False, False, False, True)
        self._flags(w, bool(self.order_bits))
        if self.order_bits:
            self._flags(w, False, self.vectors)
        self._flags(w, self.screen is None, *(() if self.screen is None else (self.screen,)))
        if self.screen is not False:
            self._flags(w, self.whole is None, *(() if self.whole is None else (self.whole,)))
        w.u(3 if self.order_bits else 0, self.order_bits - 1)
        self._flags(w, self.superres, False, False)
        w.u(8, 0)  # 8 bits, colour, no grain
        return obu(1, whole_bytes(w.bits + "1"), None)

    def unit(self) -> tuple[bytes, str, int]:
        """Return a temporal unit with the type and the index of the frame that it shows."""
        data, rng = b"\x12\x00", self.rng
        temporal = rng.randrange(2)
        spatial = range(2 if self.layers else 1)
        for place in spatial:
            layer = (temporal, place) if self.layers else None
            while self.slots and rng.random() < 0.3:
                data += self._frame(layer, shown=False)[0]
            if self.slots and rng.random() < 0.2:
                added, slot = self._existing(layer)
            else:
                added, slot = self._frame(layer, shown=True)
            data += added
        if self.layers:
            data += obu(6, rng.randbytes(20), (temporal, 2))  # is not decoded
        return data, "PI"[slot.kind in (KEY, INTRA_ONLY)], slot.index

    def _existing(self, layer: tuple[int, int] | None) -> tuple[bytes, Slot]:
        w, index = Writer(), self.rng.randrange(8)
        w.u(1, 1)
        w.u(3, index)
        self._presented(w)
        w.u(12 * self.ids, 99)
        if self.slots[index].kind == KEY:
            self.slots = [self.slots[index]] * 8
        return obu(3, whole_bytes(w.bits + "1"), layer), self.slots[index]

    def _presented(self, w: Writer) -> None:
        w.u(7 if self.modelled and not self.even else 0, 5)

    def _frame(self, layer: tuple[int, int] | None, *, shown: bool) -> tuple[bytes, Slot]:
        rng, w = self.rng, Writer()
        kind = rng.choice((KEY, INTER, INTER, INTER, INTRA_ONLY, SWITCH)) if self.slots else KEY
        restarts = kind == SWITCH or (kind == KEY and shown)
        w.u(1, 0)
        w.u(2, kind)
        w.u(1, shown)
        if shown:
            self._presented(w)
        else:
            w.u(1, 1)
        resilient = restarts or self._flag()
        if not restarts:
            w.u(1, resilient)
        keeps_cdf, own = self._flag(), kind == SWITCH or self._flag()
        w.u(1, keeps_cdf)
        screen, whole = self.screen, self.whole
        if screen is None:
            screen = self._flag()
            w.u(1, screen)
        if screen and whole is None:
            whole = self._flag()
            w.u(1, whole)
        w.u(12 * self.ids, 99)
        if kind != SWITCH:
            w.u(1, own)
        self.order = (self.order + 1) % 128 if self.order_bits else 0
        w.u(self.order_bits, self.order)
        intra = kind in (KEY, INTRA_ONLY)
        if not intra and not resilient:
            w.u(3, 7)
        if self.modelled:
            self._removed(w, layer)
        refresh = 255
        if not restarts:
            refresh = rng.randrange(255)
            w.u(8, refresh)
        if resilient and (not intra or refresh != 255):
            for slot in self.slots:
                w.u(self.order_bits, slot.order)
        if intra:
            size, narrow = self._size(w, own=own)
            if screen and not narrow:
                w.u(1, 0)
        else:
            size, narrow = self._references(w, by_reference=own and not resilient, own=own)
            if not (screen and whole):
                w.u(1, 0)
            filtered = self._flag()
            self._flags(w, filtered)
            w.u(0 if filtered else 2, 1)
            w.u(1, 0)
            if self.vectors and not resilient:
                w.u(1, 0)
        if not keeps_cdf:
            w.u(1, 0)
        self._tiles(w, (narrow or size[0], size[1]))
        slot = Slot(kind, rng.randrange(1, 256), size, self.order)
        w.u(8, slot.index)
        before = self.slots or [slot] * 8
        self.slots = [slot if refresh >> at & 1 else old for at, old in enumerate(before)]
        return obu(6, whole_bytes(w.bits) + bytes(12), layer), slot

    def _removed(self, w: Writer, layer: tuple[int, int] | None) -> None:
        told = self._flag()
        w.u(1, told)
        for idc, has_model in zip(self.points, self.models, strict=True):
            inside = layer is None or (idc >> layer[0] & 1 and idc >> 8 + layer[1] & 1)
            if told and has_model and inside:
                w.u(12, 1234)

    def _size(self, w: Writer, *, own: bool) -> tuple[tuple[int, int], int]:
        """Return the size, and the coded width where that is another, else 0."""
        size = self.size
        if own:
            size = (self.rng.randrange(16, size[0] + 1), self.rng.randrange(16, size[1] + 1))
            w.u(13, size[0] - 1)
            w.u(14, size[1] - 1)
        narrow = self._narrow(w, size)
        rendered = self._flag()
        w.u(1, rendered)
        w.u(32 * rendered, 0x00EF0077)
        return size, narrow

    def _narrow(self, w: Writer, size: tuple[int, int]) -> int:
        used = self.superres and self._flag()
        if self.superres:
            w.u(1, used)
        if not used:
            return 0
        part = self.rng.randrange(9, 17)
        w.u(3, part - 9)
        return (size[0] * 8 + part // 2) // part

    def _references(
        self, w: Writer, *, by_reference: bool, own: bool
    ) -> tuple[tuple[int, int], int]:
        rng, short = self.rng, False
        chosen = [rng.randrange(8) for _ in range(7)]
        if self.order_bits:
            short = self._flag()
            w.u(1, short)
            if short:
                w.u(3, chosen[0])
                w.u(3, chosen[3])
        for index in chosen:
            w.u(0 if short else 3, index)
            w.u(8 * self.ids, 3)
        if not by_reference:
            return self._size(w, own=own)
        # Of short signaling, LAST and GOLDEN: what the others are depends on the order.
        found = rng.choice((0, 3, 7)) if short else rng.randrange(8)
        w.u(found, 0)
        if found == 7:
            return self._size(w, own=True)
        w.u(1, 1)
        size = self.slots[chosen[found]].size
        return size, self._narrow(w, size)

    def _tiles(self, w: Writer, size: tuple[int, int]) -> None:
        """Clause 5.9.15."""
        rng, side = self.rng, 128 if self.large else 64
        columns, rows = -(-size[0] // side), -(-size[1] // side)
        widest, area = 4096 // side, 4096 * 2304 // side**2
        least_columns = least = 0
        while widest << least_columns < columns:
            least_columns += 1
        while area << least < rows * columns:
            least += 1
        least = max(least, least_columns)
        uniform = self._flag()
        w.u(1, uniform)
        if uniform:
            log2 = [self._halved(w, least_columns, columns)]
            log2.append(self._halved(w, max(least - log2[0], 0), rows))
        else:
            widths = self._cut(w, columns, widest)
            most = rows * columns >> (least + 1 if least else 0)
            heights = self._cut(w, rows, max(most // max(widths), 1))
            log2 = [(len(lengths) - 1).bit_length() for lengths in (widths, heights)]
        if sum(log2):
            w.u(sum(log2), 0)
            w.u(2, rng.randrange(4))

    def _halved(self, w: Writer, least: int, blocks: int) -> int:
        most = (min(blocks, 64) - 1).bit_length()
        while least < most:
            more = self._flag()
            w.u(1, more)
            if not more:
                break
            least += 1
        return least

    def _cut(self, w: Writer, blocks: int, most: int) -> list[int]:
        found = []
        while blocks:
            limit = min(blocks, most)
            found.append(self.rng.randrange(max(limit // 2, 1), limit + 1))
            below(w, limit, found[-1] - 1)
            blocks -= found[-1]
        return found
