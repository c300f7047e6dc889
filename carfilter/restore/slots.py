"""The buffers of a batch on its way through the network, and on CUDA the streams it travels on."""

from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carfilter.pictures import MACROBLOCK, Area, Picture, cut
from carfilter.restore.motion import card
from carfilter.restore.motion.arrays import BLOCK
from carfilter.restore.network import QP_UNKNOWN
from carfilter.restore.planes import Plane
from carfilter.restore.ring import Ring


@dataclass(frozen=True)
class Inputs:
    """What a network is called with, all of one size, where it runs.

    Luma is uint8, or int16 that carries uint16; QP maps are int8, one value per macroblock, -1 for
    unknown. No map stands for none known or wanted.
    """

    luma: Tensor  # [N, H, W]
    qp: Tensor | None = None  # [N, h, w]
    references: Tensor | None = None  # [N, R, H, W]
    reference_qp: Tensor | None = None  # [N, R, h, w]

    @classmethod
    def of(cls, pictures: list[Picture], references: int) -> "Inputs":
        """Return what a network takes of pictures on a CPU, so many references with each."""
        slot = Slot(torch.device("cpu"), pictures, len(pictures), references)
        slot.fill(pictures, with_qp=True)
        return slot.inputs()

    def __len__(self) -> int:
        return len(self.luma)

    def parts(self, size: int) -> "list[Inputs]":
        """Return the batch in parts of so many pictures, the last one of what is left."""
        planes = (self.luma, self.qp, self.references, self.reference_qp)
        return [
            Inputs(*(None if plane is None else plane[i : i + size] for plane in planes))  # type: ignore[arg-type]
            for i in range(0, len(self), size)
        ]

    def crop(self, area: Area) -> "Inputs":
        """Return a part of each picture."""
        return Inputs(
            cut(self.luma, area),
            cut(self.qp, area, MACROBLOCK),
            cut(self.references, area),
            cut(self.reference_qp, area, MACROBLOCK),
        )


class Slot:
    """The buffers of one batch in flight: on CUDA pinned on the host, and their twins there.

    Args:
        references: that go with each picture.
        ring: of what was brought to the card before; only what it lacks is uploaded. Where there is
            one, results stay on the card.
    """

    def __init__(
        self,
        device: torch.device,
        batch: list[Picture],
        batch_size: int,
        references: int = 0,
        ring: Ring | None = None,
    ) -> None:
        first = batch[0].luma
        self.cuda = device.type == "cuda"
        self.dtype = torch.uint8 if first.dtype == np.uint8 else torch.int16
        size = first.shape
        # The pictures first, then their references: one copy across the bus takes all.
        shape = (batch_size, 1 + references, *size)
        qp_shape = (*shape[:2], -(-size[0] // MACROBLOCK), -(-size[1] // MACROBLOCK))
        self.references, self.size = references, batch_size
        self.count, self.bits = 0, batch[0].depth  # bits of a sample
        self.knows_qp = False
        self.host = torch.empty(shape, dtype=self.dtype, pin_memory=self.cuda)
        self.host_qp = torch.empty(qp_shape, dtype=torch.int8, pin_memory=self.cuda)
        self._restored: Tensor | None = None  # the network's own buffer, where it is not copied
        self._awaited: list[futures.Future[Tensor]] = []  # parts of it that others compute
        self.ring = ring
        if ring is not None:
            self._new: list[int] = []  # places in the ring of the planes that wait in `host`
            self._order = torch.empty(shape[:2], dtype=torch.int64, pin_memory=self.cuda)
            self._moves: list[tuple[int, int]] = []  # of `host_fields`, which wait as well
            fields_shape = (*shape[:2], *(-(-side // BLOCK) for side in size), 2)
            self._fields = torch.empty(fields_shape, dtype=torch.int16, pin_memory=self.cuda)
        if self.cuda:
            if ring is None:
                out_shape = (batch_size, *size)
                self.host_out = torch.empty(out_shape, dtype=self.dtype, pin_memory=True)
                self.device_out = torch.empty(out_shape, dtype=self.dtype, device=device)
            else:
                self._device_order = torch.empty(shape[:2], dtype=torch.int64, device=device)
            self.device_luma = torch.empty(shape, dtype=self.dtype, device=device)
            self.device_qp = torch.empty(qp_shape, dtype=torch.int8, device=device)
            self.upload_stream, self.compute_stream, self.download_stream = streams(device)
            new_event: Any = torch.cuda.Event  # torch does not type its constructor
            self.uploaded, self.computed, self.downloaded = new_event(), new_event(), new_event()

    def fits(self, batch: list[Picture]) -> bool:
        """Say whether a batch has the size and sample type of these buffers."""
        luma = batch[0].luma
        same_type = (luma.dtype == np.uint8) == (self.dtype == torch.uint8)
        return same_type and luma.shape == self.host.shape[2:] and len(batch) <= len(self.host)

    def fill(self, batch: list[Picture], *, with_qp: bool) -> None:
        """Copy a batch in; its QP maps only where wanted and at least one is known.

        A reference that is missing is the picture itself.
        """
        self.count, self.bits = len(batch), batch[0].depth
        seen = [p for picture in batch for p in (picture, *picture.references) if p is not None]
        self.knows_qp = with_qp and any(picture.qp is not None for picture in seen)
        luma, qp = self.host.numpy(), self.host_qp.numpy()
        if self.ring is not None:
            self._new.clear()
            self._moves.clear()
        for i, picture in enumerate(batch):
            others = picture.references or (None,) * self.references
            for j, other in enumerate((picture, *others)[: 1 + self.references]):
                shown = picture if other is None else other
                self._fill_plane(luma, (i, j), shown)
                if self.knows_qp:
                    qp[i, j] = QP_UNKNOWN if shown.qp is None else shown.qp

    def _fill_plane(self, host: Any, at: tuple[int, int], shown: Picture) -> None:
        luma = shown.luma
        if self.ring is None:
            np.copyto(host[at], luma.view(host.dtype))
            return
        place, is_new = self.ring.place(luma)
        if is_new:
            waiting = host.reshape(-1, *luma.shape)[len(self._new)]
            np.copyto(waiting, luma.view(host.dtype))
            self._new.append(place)
        self._order[at] = place
        if shown.along is not None:
            np.copyto(self._fields.numpy()[at], shown.along)
            self._moves.append(at)

    def inputs(self) -> Inputs:
        """Return what was filled in, where the network runs."""
        luma = (self.device_luma if self.cuda else self.host)[: self.count]
        qp = (
            (self.device_qp if self.cuda else self.host_qp)[: self.count] if self.knows_qp else None
        )
        own = Inputs(luma[:, 0], None if qp is None else qp[:, 0])
        if not self.references:
            return own
        return replace(own, references=luma[:, 1:], reference_qp=None if qp is None else qp[:, 1:])

    def store(self, restored: Tensor) -> None:
        """Keep the result, of the dtype and shape of the luma; nobody may write to it any more."""
        if self.cuda and self.ring is None:
            self.device_out[: self.count].copy_(restored)
        else:
            self._restored = restored

    def store_later(self, parts: list[futures.Future[Tensor]]) -> None:
        """Keep what is to become the result, on a CPU; wait() waits for it."""
        self._awaited = parts

    def upload(self) -> None:
        """Start the copy to the GPU; `uploaded` tells when it is done."""
        n = self.count
        with torch.cuda.stream(self.upload_stream):
            if self.ring is None:
                self.device_luma[:n].copy_(self.host[:n], non_blocking=True)
            else:
                self._upload_new(self.ring)
            if self.knows_qp:
                self.device_qp[:n].copy_(self.host_qp[:n], non_blocking=True)
            self.uploaded.record(self.upload_stream)

    def _upload_new(self, ring: Ring) -> None:
        """Bring to the ring what it lacks; all batches do so, and read it, in this one stream."""
        for place, plane in zip(self._new, self.host.flatten(0, 1), strict=False):
            ring.planes[place].copy_(plane, non_blocking=True)
        n = self.count
        self._device_order[:n].copy_(self._order[:n], non_blocking=True)
        wanted, planes = self._device_order[:n].flatten(), self.device_luma[:n].flatten(0, 1)
        torch.index_select(ring.planes, 0, wanted, out=planes)
        for i, j in self._moves:
            field = self._fields[i, j].to(ring.planes.device, non_blocking=True)
            luma, other = self.device_luma[i, 0], self.device_luma[i, j]
            other.copy_(card.move(luma, other, field, self.bits)[0])

    def download(self) -> None:
        """Start the copy back, of what does not stay there, as soon as the batch is computed."""
        if self.ring is not None:
            return
        n = self.count
        with torch.cuda.stream(self.download_stream):
            self.download_stream.wait_event(self.computed)
            self.host_out[:n].copy_(self.device_out[:n], non_blocking=True)
            self.downloaded.record(self.download_stream)

    def wait(self) -> None:
        """Block until the results are where they belong; raise what computing them raised."""
        if self.cuda:
            (self.downloaded if self.ring is None else self.computed).synchronize()
        elif self._awaited:
            futures.wait(self._awaited)  # all of them: a part that still runs reads these buffers
            awaited, self._awaited = self._awaited, []
            self._restored = torch.cat([part.result() for part in awaited])

    def results(self) -> Iterator[Plane]:
        """Yield planes that stay as they are when the slot is filled again."""
        kind = np.uint8 if self.dtype == torch.uint8 else np.uint16
        restored, self._restored = self._restored, None
        if restored is not None and self.ring is not None:
            yield from restored
            return
        for i in range(self.count):
            kept = self.host_out[i].clone() if restored is None else restored[i]
            yield kept.numpy().view(kind)


_device_streams: dict[torch.device, tuple[Any, Any, Any]] = {}


def streams(device: torch.device) -> tuple[Any, Any, Any]:
    """Return the upload, compute and download streams, the same for all slots of a device."""
    if device not in _device_streams:
        make: Any = torch.cuda.Stream  # torch does not type its constructor
        _device_streams[device] = (make(device), make(device), make(device))
    return _device_streams[device]
