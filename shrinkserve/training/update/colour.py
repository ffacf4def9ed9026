"""Changes of colour on the device of a rank, by the maps that a loader has drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured(images: Tensor, matrices: Tensor, erased: Tensor) -> Tensor:
    """Change the colours of images as Pillow's ``convert("RGB", matrix)`` does, outside of their erased boxes.

    The host does not wait for the device, and shapes depend on shapes only, so a CUDA graph can capture it.

    Args:
        images: uint8 [N, S, S, 3].
        matrices: float32 [N, 3, 4], see `shrinkserve.data.ColourMaps`.
        erased: int32 [N, 4], see `shrinkserve.data.ColourMaps`.

    Returns:
        uint8 [N, S, S, 3].
    """
    # Not a matrix product: those may use TF32, whose ten bits are too few for exact pixels.
    red, green, blue, offset = matrices.transpose(1, 2)[:, :, None, None].unbind(1)
    values = images[..., 0:1] * red
    values += images[..., 1:2] * green
    values += images[..., 2:3] * blue
    values += offset
    values += 0.5
    changed = values.clamp_(0, 255).to(torch.uint8)  # cuts off the fraction, so halves are rounded up
    return torch.where(_inside(erased, images.shape[1]), images, changed)


def _inside(boxes: Tensor, size: int) -> Tensor:
    """Return True for the pixels in each box, bool [N, size, size, 1]."""
    position = torch.arange(size, device=boxes.device)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns = (position >= left) & (position < right)
    rows = (position >= top) & (position < bottom)
    return (rows[:, :, None] & columns[:, None, :])[..., None]
