"""H.264 parameter sets and slice headers as no encoder of PyAV's writes them, drawn at random.

Written after the syntax tables of ITU-T H.264, 7.3; FFmpeg's trace_headers reads them alike.
"""

from random import Random

from hevc_headers import Drawn, Writer

_P, _B, _I, _SP, _SI = range(5)


class Stream(Drawn):
    """Parameter sets that are drawn once, and slices after them."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self.profile = rng.choice((66, 88, 100, 122, 244))
        self.chroma = rng.choice((0, 1, 2, 3)) if self.profile >= 100 else 1
        self.apart = self.chroma == 3 and self._flag()
        self.number_bits, self.order_bits = rng.randrange(4, 17), rng.randrange(4, 17)
        self.order, self.no_deltas = rng.randrange(3), self._flag()
        self.frames_only = self._flag()
        self.cabac, self.field_orders, self.redundant = self._flag(), self._flag(), self._flag()
        self.defaults = (rng.randrange(1, 4), rng.randrange(1, 4))
        self.weighted, self.biweighted = self._flag(), rng.randrange(3)
        self.init_qp = rng.randrange(15, 40)

    def parameter_sets(self) -> bytes:
        """Return the sequence and the picture parameter set."""
        return self._sps() + self._pps()

    def _sps(self) -> bytes:
        w, rng = Writer(), self.rng
        w.u(24, self.profile << 16 | 40)
        w.ue(0)
        if self.profile >= 100:
            w.ue(self.chroma)
            w.u(self.chroma == 3, self.apart)
            w.ue(0, 0)
            w.u(1, 0)
            lists = self._flag()
            w.u(1, lists)
            for index in range(lists * (12 if self.chroma == 3 else 8)):
                self._scaling(w, 16 if index < 6 else 64)
        w.ue(self.number_bits - 4, self.order)
        if self.order == 0:
            w.ue(self.order_bits - 4)
        elif self.order == 1:
            w.u(1, self.no_deltas)
            w.se(-3, 1)
            cycle = rng.randrange(4)
            w.ue(cycle)
            w.se(*(rng.randrange(-9, 9) for _ in range(cycle)))
        w.ue(4)
        w.u(1, 0)
        w.ue(9, 9)
        w.u(1, self.frames_only)
        w.u(not self.frames_only, 0)
        w.u(3, 4)
        return w.unit(0x67)

    def _scaling(self, w: Writer, size: int) -> None:
        if not self._flag():
            w.u(1, 0)
            return
        w.u(1, 1)
        ends, last = self.rng.randrange(size + 1), 8  # 0 at the first: the default list
        for at in range(size):
            scale = self.rng.randrange(1, 256) if at != ends else 0
            w.se((scale - last + 128) % 256 - 128)
            if not scale:
                return
            last = scale

    def _pps(self) -> bytes:
        w, rng = Writer(), self.rng
        w.ue(0, 0)
        w.u(2, self.cabac << 1 | self.field_orders)
        groups = rng.choice((1, 2, 3)) if self.profile in (66, 88) else 1
        w.ue(groups - 1)
        if groups > 1:
            self._groups(w, groups)
        w.ue(self.defaults[0] - 1, self.defaults[1] - 1)
        w.u(3, self.weighted << 2 | self.biweighted)
        w.se(self.init_qp - 26, 0, -2)
        w.u(3, 4 | self.redundant)
        return w.unit(0x68)

    def _groups(self, w: Writer, groups: int) -> None:
        kind = self.rng.choice((0, 1, 2, 6))
        w.ue(kind)
        if kind == 0:
            w.ue(*range(groups))
        elif kind == 2:
            w.ue(*(corner for at in range(groups - 1) for corner in (at, at + 20)))
        elif kind == 6:
            w.ue(99)
            for _ in range(100):
                w.u(1 if groups == 2 else 2, self.rng.randrange(groups))

    def slice(self) -> tuple[bytes, str, int]:
        """Return a picture's first slice, its type and its QP."""
        w, rng = Writer(), self.rng
        idr, reference = rng.random() < 0.2, True
        kind = _I if idr else rng.choice((_P, _B, _I, _SP, _SI))
        if not idr:
            reference = self._flag()
        qp = rng.randrange(0, 52)
        w.ue(0, kind + rng.choice((0, 5)), 0)
        w.u(2 * self.apart, 1)
        w.u(self.number_bits, 0 if idr else rng.getrandbits(self.number_bits))
        field = not self.frames_only and self._flag()
        w.u(not self.frames_only, field)
        w.u(field, self._flag())
        if idr:
            w.ue(rng.randrange(9))
        self._order(w, both=self.field_orders and not field)
        if kind in (_P, _B, _SP):
            self._references(w, kind)
        if reference:
            self._marking(w, idr=idr)
        if self.cabac and kind in (_P, _B, _SP):
            w.ue(rng.randrange(3))
        w.se(qp - self.init_qp)
        w.u(kind == _SP, 0)
        if kind in (_SP, _SI):
            w.se(0)  # slice_qs_delta
        w.ue(1)  # no loop filter
        w.u(64, rng.getrandbits(64))
        return w.unit(reference << 5 | (5 if idr else 1)), "PBIPI"[kind], qp

    def _order(self, w: Writer, *, both: bool) -> None:
        if self.order == 0:
            w.u(self.order_bits, self.rng.getrandbits(self.order_bits))
        deltas = both if self.order == 0 else (1 + both) * (self.order == 1 and not self.no_deltas)
        w.se(*(self.rng.randrange(-9, 9) for _ in range(deltas)))
        if self.redundant:
            w.ue(0)

    def _references(self, w: Writer, kind: int) -> None:
        rng, lists = self.rng, 1 + (kind == _B)
        w.u(kind == _B, 1)
        counts = self.defaults[:lists]
        override = self._flag()
        w.u(1, override)
        if override:
            counts = tuple(rng.randrange(1, 5) for _ in counts)
            w.ue(*(count - 1 for count in counts))
        for _ in counts:
            moved = self._flag()
            w.u(1, moved)
            for _ in range(moved * rng.randrange(1, 4)):
                w.ue(rng.randrange(3), rng.randrange(4))
            if moved:
                w.ue(3)
        if self.biweighted == 1 if kind == _B else self.weighted:
            self._weights(w, sum(counts))

    def _weights(self, w: Writer, count: int) -> None:
        has_chroma = self.chroma != 0 and not self.apart
        w.ue(*[5] * (1 + has_chroma))
        for _ in range(count):
            for values in (2, 4)[: 1 + has_chroma]:
                given = self._flag()
                w.u(1, given)
                w.se(*(self.rng.randrange(-60, 60) for _ in range(given * values)))

    def _marking(self, w: Writer, *, idr: bool) -> None:
        if idr:
            w.u(2, 0)
            return
        adaptive = self._flag()
        w.u(1, adaptive)
        if adaptive:
            for operation in self.rng.choices((1, 2, 3, 4, 5, 6), k=self.rng.randrange(4)):
                values = {3: 2, 5: 0}.get(operation, 1)
                w.ue(operation, *(self.rng.randrange(4) for _ in range(values)))
            w.ue(0)
