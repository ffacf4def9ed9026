"""Copies of batches to a GPU, ahead of the updates that use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from shrinkserve.concurrency import ordered_map
from shrinkserve.data import TrainBatch
from shrinkserve.training.update.colour import coloured


@dataclass(frozen=True)
class DeviceBatch:
    """Images and labels on the device of a rank.

    Attributes:
        images: uint8 [N, S, S, 3] with their colours changed, not normalised.
        labels: int64 [N].
        teacher: logits of the teacher, float32 [N, classes]; None without one.
    """

    images: Tensor
    labels: Tensor
    teacher: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


def on_device(batches: Iterator[TrainBatch], device: torch.device) -> Iterator[DeviceBatch]:
    """Return the batches on a device.

    For a GPU, a thread copies the next batch to pinned memory, and starts its transfer and its changes of colour on a
    second stream, so that neither the host nor the GPU's main stream waits for it.
    """
    if device.type != "cuda":
        return (transferred(batch, device) for batch in batches)
    return _ahead(batches, device)


def transferred(batch: TrainBatch, device: torch.device) -> DeviceBatch:
    """Return a batch on a device, with the changes of colour that its loader left out. Does not wait for a GPU."""
    images = _moved(batch.images, device)
    if batch.colour is not None:
        images = coloured(images, _moved(batch.colour.matrices, device), _moved(batch.colour.erased, device))
    return DeviceBatch(images, _moved(batch.labels, device))


def _ahead(batches: Iterator[TrainBatch], device: torch.device) -> Iterator[DeviceBatch]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def transfer(batch: TrainBatch) -> tuple[DeviceBatch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return transferred(batch, device), stream.record_event()

    for moved, done in ordered_map(transfer, batches, 1):
        current = torch.cuda.current_stream(device)
        current.wait_event(done)
        for tensor in (moved.images, moved.labels):
            tensor.record_stream(current)  # its memory must not be reused before the update has read it
        yield moved


def _moved(values: object, device: torch.device) -> Tensor:
    tensor = torch.as_tensor(values)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
