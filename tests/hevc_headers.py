"""HEVC parameter sets and slice headers as no encoder of PyAV's writes them, drawn at random.

Written after the syntax tables of ITU-T H.265, 7.3; FFmpeg's trace_headers reads them alike.
"""

from random import Random

Deltas = list[tuple[int, bool]]  # POC of a reference less that of the picture, and whether used


class Writer:
    """Bits of a unit."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, count: int, value: int) -> None:
        self.bits += f"{value:0{int(count)}b}" if count else ""

    def ue(self, *values: int) -> None:
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code

    def se(self, *values: int) -> None:
        for value in values:
            self.ue(2 * value - 1 if value > 0 else -2 * value)

    def unit(self, *header: int) -> bytes:
        """Return the unit with a start code and its header's bytes, escaped."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        body = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        out, zeros = bytearray([0, 0, 1, *header]), 0
        for byte in body:
            if zeros == 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


class Drawn:
    """Headers whose flags are drawn, each as likely as not."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def _flag(self) -> bool:
        return self.rng.random() < 0.5


class Stream(Drawn):
    """Parameter sets that are drawn once, and slices after them."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self.layers = rng.randrange(3)
        self.chroma = rng.choice((0, 1, 1, 2))
        self.poc_bits = rng.randrange(6, 12)
        self.offsets, self.vectors = self._flag(), self._flag()
        self.long_term = [self._flag() for _ in range(rng.randrange(4))] if self._flag() else None
        self.output_flag, self.extra = self._flag(), rng.randrange(3)
        self.cabac_init, self.reordered = self._flag(), self._flag()
        self.defaults = (rng.randrange(1, 4), rng.randrange(1, 4))
        self.init_qp = rng.randrange(15, 40)
        self.weighted = (self._flag(), self._flag())
        self.sets: list[Deltas] = []

    def parameter_sets(self) -> bytes:
        """Return the sequence and the picture parameter set."""
        return self._sps() + self._pps()

    def _sps(self) -> bytes:
        w, rng = Writer(), self.rng
        w.u(4, 0)
        w.u(3, self.layers)
        w.u(1, 1)
        self._profile(w)
        w.ue(0, self.chroma, 416, 240)
        w.u(1, 1)
        w.ue(0, 1, 0, 1)  # the window
        w.ue(0, 0, self.poc_bits - 4)
        present = self._flag()
        w.u(1, present)
        for _ in range(self.layers + 1 if present else 1):
            w.ue(4, 2, 0)
        w.ue(0, 2, 0, 3, 1, 1)
        scaled = self._flag()
        w.u(1, scaled)
        if scaled:
            w.u(1, 1)
            self._scaling(w)
        w.u(1, 1)
        w.u(1, self.offsets)
        pcm = self._flag()
        w.u(1, pcm)
        if pcm:
            w.u(8, 0x77)
            w.ue(0, 1)
            w.u(1, 0)
        count = rng.randrange(1, 6)
        w.ue(count)
        while len(self.sets) < count:
            self.sets.append(self._reference_set(w, in_slice=False))
        w.u(1, self.long_term is not None)
        if self.long_term is not None:
            w.ue(len(self.long_term))
            for index, used in enumerate(self.long_term):
                w.u(self.poc_bits, index)
                w.u(1, used)
        w.u(1, self.vectors)
        w.u(3, 0)  # strong intra smoothing, VUI, extensions: none
        return w.unit(33 << 1, 1)

    def _profile(self, w: Writer) -> None:
        w.u(8, 0x01)  # Main
        w.u(32, 0x60000000)
        w.u(48, 0x900000000000)
        w.u(8, 93)
        present = [(self._flag(), self._flag()) for _ in range(self.layers)]
        for profile, level in present:
            w.u(1, profile)
            w.u(1, level)
        if self.layers:
            w.u(2 * (8 - self.layers), 0)
        for profile, level in present:
            w.u(88 * profile, 0x0160000000900000000000)
            w.u(8 * level, 90)

    def _scaling(self, w: Writer) -> None:
        for size in range(4):
            for matrix in range(0, 6, 3 if size == 3 else 1):
                own = self._flag()
                w.u(1, own)
                if not own:
                    w.ue(self.rng.randrange(matrix // (3 if size == 3 else 1) + 1))
                    continue
                if size > 1:
                    w.se(8)
                w.se(*(self.rng.randrange(-2, 3) for _ in range(16 if size == 0 else 64)))

    def _pps(self) -> bytes:
        w = Writer()
        w.ue(0, 0)
        w.u(1, 0)
        w.u(1, self.output_flag)
        w.u(3, self.extra)
        w.u(1, 0)
        w.u(1, self.cabac_init)
        w.ue(*(count - 1 for count in self.defaults))
        w.se(self.init_qp - 26)
        w.u(2, 0)
        w.u(1, 1)
        w.ue(1)
        w.se(-2, 3)
        w.u(1, 0)
        w.u(2, 2 * self.weighted[0] + self.weighted[1])
        w.u(1, 0)
        tiles, uniform = self._flag(), self._flag()
        w.u(1, tiles)
        w.u(1, self._flag())
        if tiles:
            w.ue(2, 1)
            w.u(1, uniform)
            if not uniform:
                w.ue(3, 2, 4)
            w.u(1, 1)
        w.u(1, 0)
        deblocked = self._flag()
        w.u(1, deblocked)
        if deblocked:
            w.u(2, 0)
            w.se(-1, 2)
        scaled = self._flag()
        w.u(1, scaled)
        if scaled:
            self._scaling(w)
        w.u(1, self.reordered)
        w.ue(0)
        w.u(2, 0)
        return w.unit(34 << 1, 1)

    def _reference_set(self, w: Writer, *, in_slice: bool) -> Deltas:
        rng = self.rng
        if self.sets:
            derived = self._flag()
            w.u(1, derived)
            if derived:
                return self._derived_set(w, in_slice=in_slice)
        before, after = rng.randrange(1, 4), rng.randrange(3)
        w.ue(before, after)
        found: Deltas = []
        for sign, count in ((-1, before), (1, after)):
            delta = 0
            for _ in range(count):
                step, used = rng.randrange(3), rng.random() < 0.8
                w.ue(step)
                w.u(1, used)
                delta += sign * (step + 1)
                found.append((delta, used))
        return found

    def _derived_set(self, w: Writer, *, in_slice: bool) -> Deltas:
        """Equations 7-61 and 7-62."""
        rng = self.rng
        back = rng.randrange(len(self.sets)) if in_slice else 0
        if in_slice:
            w.ue(back)
        base = self.sets[-1 - back]
        moved = rng.choice((-3, -2, -1, 1, 2))
        w.u(1, moved < 0)
        w.ue(abs(moved) - 1)
        marks = []
        for _ in range(len(base) + 1):
            used = rng.random() < 0.6
            kept = used or self._flag()
            w.u(1, used)
            if not used:
                w.u(1, kept)
            marks.append((used, kept))
        lower = [(i, delta) for i, (delta, _) in enumerate(base) if delta < 0]
        upper = [(i, delta) for i, (delta, _) in enumerate(base) if delta > 0]
        own = [(len(base), 0)]
        orders = (upper[::-1] + own + lower, lower[::-1] + own + upper)
        found: Deltas = []
        for sign, order in zip((-1, 1), orders, strict=True):
            for i, delta in order:
                used, kept = marks[i]
                if kept and (delta + moved) * sign > 0:
                    found.append((delta + moved, used))
        return found

    def slice(self) -> tuple[bytes, str, int]:
        """Return a slice of a picture with its type and its QP."""
        rng, w = self.rng, Writer()
        kind = rng.choice((1, 1, 1, 19, 21))
        slice_type = 2 if kind == 19 else rng.randrange(3)
        qp = rng.randrange(0, 52)
        w.u(1, 1)
        if kind >= 16:
            w.u(1, 0)
        w.ue(0)
        w.u(self.extra, 0)
        w.ue(slice_type)
        w.u(self.output_flag, 1)
        used, vectors = 0, False
        if kind != 19:
            used = self._references(w)
            if self.vectors:
                vectors = self._flag()
                w.u(1, vectors)
        if self.offsets:
            w.u(2 if self.chroma else 1, 0)
        if slice_type < 2:
            self._prediction(w, slice_type, used, vectors=vectors)
        w.se(qp - self.init_qp)
        w.u(24, rng.randrange(1 << 24))
        return w.unit(kind << 1, 1), "BPI"[slice_type], qp

    def _references(self, w: Writer) -> int:
        rng = self.rng
        w.u(self.poc_bits, rng.randrange(1 << self.poc_bits))
        own = self._flag()
        w.u(1, not own)
        if own:
            chosen = self._reference_set(w, in_slice=True)
        else:
            index = rng.randrange(len(self.sets))
            w.u((len(self.sets) - 1).bit_length(), index)
            chosen = self.sets[index]
        used = sum(used for _, used in chosen)
        if self.long_term is None:
            return used
        of_sequence = rng.randrange(2) if self.long_term else 0
        if self.long_term:
            w.ue(of_sequence)
        own_count = rng.randrange(2)
        w.ue(own_count)
        for number in range(of_sequence + own_count):
            if number < of_sequence:
                index = rng.randrange(len(self.long_term))
                w.u((len(self.long_term) - 1).bit_length(), index)
                used += self.long_term[index]
            else:
                flag = self._flag()
                w.u(self.poc_bits, 5)
                w.u(1, flag)
                used += flag
            distant = self._flag()
            w.u(1, distant)
            if distant:
                w.ue(rng.randrange(4))
        return used

    def _prediction(self, w: Writer, slice_type: int, used: int, *, vectors: bool) -> None:
        rng, is_b = self.rng, slice_type == 0
        counts = list(self.defaults[: 2 if is_b else 1])
        given = self._flag()
        w.u(1, given)
        if given:
            counts = [rng.randrange(1, 5) for _ in counts]
            w.ue(*(count - 1 for count in counts))
        if self.reordered and used > 1:
            for count in counts:
                moved = self._flag()
                w.u(1, moved)
                for _ in range(count * moved):
                    w.u((used - 1).bit_length(), rng.randrange(used))
        if is_b:
            w.u(1, 0)
        w.u(self.cabac_init, 1)
        if vectors:
            first = not is_b or self._flag()
            if is_b:
                w.u(1, first)
            if counts[0 if first else 1] > 1:
                w.ue(rng.randrange(counts[0 if first else 1]))
        if self.weighted[is_b]:
            self._weights(w, counts)
        w.ue(rng.randrange(5))

    def _weights(self, w: Writer, counts: list[int]) -> None:
        w.ue(6)
        if self.chroma:
            w.se(-1)
        for count in counts:
            luma = [self._flag() for _ in range(count)]
            chroma = [self._flag() for _ in range(count)] if self.chroma else [False] * count
            for flag in (*luma, *(chroma if self.chroma else ())):
                w.u(1, flag)
            for of_luma, of_chroma in zip(luma, chroma, strict=True):
                w.se(*((self.rng.randrange(-20, 20), 3) if of_luma else ()))
                w.se(*((-7, 30, 5, -60) if of_chroma else ()))
