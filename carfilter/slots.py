"""The buffers of a batch on its way through the network, and on CUDA the streams it travels on."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carfilter.network import QP_UNKNOWN
from carfilter.pictures import MACROBLOCK, Luma, Picture


class Slot:
    """The buffers of one batch in flight: on CUDA pinned on the host, and their twins there."""

    def __init__(self, device: torch.device, batch: list[Picture], batch_size: int) -> None:
        first = batch[0].luma
        self.cuda = device.type == "cuda"
        self.depth = 1 if self.cuda else 0  # batches in flight beside the one being filled
        self.dtype = torch.uint8 if first.dtype == np.uint8 else torch.int16
        shape = (batch_size, *first.shape)
        qp_shape = (batch_size, -(-shape[1] // MACROBLOCK), -(-shape[2] // MACROBLOCK))
        self.count = 0
        self.knows_qp = False
        self.host = torch.empty(shape, dtype=self.dtype, pin_memory=self.cuda)
        self.host_qp = torch.empty(qp_shape, dtype=torch.int8, pin_memory=self.cuda)
        self.host_out = torch.empty(shape, dtype=self.dtype, pin_memory=self.cuda)
        if self.cuda:
            self.device_luma = torch.empty(shape, dtype=self.dtype, device=device)
            self.device_qp = torch.empty(qp_shape, dtype=torch.int8, device=device)
            self.device_out = torch.empty(shape, dtype=self.dtype, device=device)
            self.upload_stream, self.compute_stream, self.download_stream = _streams(device)
            new_event: Any = torch.cuda.Event  # torch does not type its constructor
            self.uploaded, self.computed, self.downloaded = new_event(), new_event(), new_event()

    def fits(self, batch: list[Picture]) -> bool:
        """Say whether a batch has the size and sample type of these buffers."""
        luma = batch[0].luma
        same_type = (luma.dtype == np.uint8) == (self.dtype == torch.uint8)
        return same_type and luma.shape == self.host.shape[1:] and len(batch) <= len(self.host)

    def fill(self, batch: list[Picture], *, with_qp: bool) -> None:
        """Copy a batch in; its QP maps only where wanted and at least one is known."""
        self.count = len(batch)
        self.knows_qp = with_qp and any(picture.qp is not None for picture in batch)
        luma, qp = self.host.numpy(), self.host_qp.numpy()
        for i, picture in enumerate(batch):
            np.copyto(luma[i], picture.luma.view(luma.dtype))
            if self.knows_qp:
                qp[i] = QP_UNKNOWN if picture.qp is None else picture.qp

    def luma(self) -> Tensor:
        """uint8 or int16 [N, H, W], where the network runs."""
        return (self.device_luma if self.cuda else self.host)[: self.count]

    def qp(self) -> Tensor | None:
        """int8 [N, h, w] per macroblock, -1 for unknown; None where no map is known or wanted."""
        if not self.knows_qp:
            return None
        return (self.device_qp if self.cuda else self.host_qp)[: self.count]

    def store(self, restored: Tensor) -> None:
        """Keep the result, of the dtype and shape of luma()."""
        (self.device_out if self.cuda else self.host_out)[: self.count].copy_(restored)

    def upload(self) -> None:
        """Start the copy to the GPU; `uploaded` tells when it is done."""
        n = self.count
        with torch.cuda.stream(self.upload_stream):
            self.device_luma[:n].copy_(self.host[:n], non_blocking=True)
            if self.knows_qp:
                self.device_qp[:n].copy_(self.host_qp[:n], non_blocking=True)
            self.uploaded.record(self.upload_stream)

    def download(self) -> None:
        """Start the copy back as soon as the batch is computed."""
        n = self.count
        with torch.cuda.stream(self.download_stream):
            self.download_stream.wait_event(self.computed)
            self.host_out[:n].copy_(self.device_out[:n], non_blocking=True)
            self.downloaded.record(self.download_stream)

    def wait(self) -> None:
        """Block until the results are on the host."""
        if self.cuda:
            self.downloaded.synchronize()

    def results(self) -> Iterator[Luma]:
        """Yield copies: the slot is filled again while the caller still holds them."""
        kind = np.uint8 if self.dtype == torch.uint8 else np.uint16
        for i in range(self.count):
            luma: Any = self.host_out[i].numpy().view(kind).copy()
            yield luma


_device_streams: dict[torch.device, tuple[Any, Any, Any]] = {}


def _streams(device: torch.device) -> tuple[Any, Any, Any]:
    """Return the upload, compute and download streams, the same for all slots of a device."""
    if device not in _device_streams:
        make: Any = torch.cuda.Stream  # torch does not type its constructor
        _device_streams[device] = (make(device), make(device), make(device))
    return _device_streams[device]
