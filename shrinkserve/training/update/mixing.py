"""Mixup and cutmix: training images are mixed with another image of their batch, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

from shrinkserve.config import AugmentConfig


@dataclass(frozen=True)
class MixedBatch:
    """Images that each consist of two images.

    Attributes:
        images: float [N, 3, S, S].
        labels: int64 [N], of the first image.
        others: int64 [N], of the second image.
        share: of the first image, in [0, 1]; the loss is ``share * loss(labels) + (1 - share) * loss(others)``.
    """

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float


def mix(images: Tensor, labels: Tensor, config: AugmentConfig) -> MixedBatch | None:
    """Mix each image with its counterpart in the reversed batch, as timm does.

    All draws come from torch's CPU generator, whose state is in the checkpoints, and none reads from a GPU.

    Args:
        images: float [N, 3, S, S].
        labels: int64 [N].
        config: `mixup` and `cutmix` are the parameters of the Beta distribution of the share.

    Returns:
        None if both are off.
    """
    if not config.mixup and not config.cutmix:
        return None
    paste = bool(config.cutmix) and (not config.mixup or bool(torch.rand(()) < 0.5))
    alpha = config.cutmix if paste else config.mixup
    share = float(Beta(alpha, alpha).sample())
    others = images.flip(0)
    if not paste:
        return MixedBatch(images.lerp(others, 1 - share), labels, labels.flip(0), share)
    top, bottom, left, right = _box(images.shape[2], images.shape[3], 1 - share)
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return MixedBatch(images, labels, labels.flip(0), kept)


def _box(height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Draw a rectangle with part `area` of the image, cut off at the border: top, bottom, left, right."""
    rows, columns = round(height * area**0.5), round(width * area**0.5)
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    return (
        max(0, row - rows // 2),
        min(height, row + (rows + 1) // 2),
        max(0, column - columns // 2),
        min(width, column + (columns + 1) // 2),
    )
