"""Geometry: which part of an image the network sees, and at which scale."""

from __future__ import annotations

from typing import Literal, NamedTuple

Geometry = Literal["squash", "stretch", "center", "resize_crop", "tpu", "letterbox"]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels."""
TPU_PADDING = 32
"""Pixels that Google's EfficientNet code adds to the network's size before it computes the crop."""


class ImageLayout(NamedTuple):
    """Steps from one image to the network's input: resize `box` to `resized`, then cut out the input.

    Attributes:
        box: the part of the original that is resized.
        resized: width and height after the resize.
        left: column of the resized picture where the input begins; negative where the input has a border.
        top: row of the resized picture where the input begins; negative where the input has a border.
    """

    box: Box
    resized: tuple[int, int]
    left: int
    top: int


def crop_box(width: int, height: int, fraction: float) -> Box:
    """Return the central crop of `fraction` of the width and of the height."""
    kept_w = max(1, round(width * fraction))
    kept_h = max(1, round(height * fraction))
    left, top = (width - kept_w) // 2, (height - kept_h) // 2
    return left, top, left + kept_w, top + kept_h


def tensorflow_crop_box(width: int, height: int, fraction: float) -> Box:
    """Return the crop of ``tf.image.central_crop``, which rounds the border instead of the kept part."""
    left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
    return left, top, width - left, height - top


def tpu_box(width: int, height: int, size: int) -> Box:
    """Return the square crop of Google's EfficientNet code: size / (size + 32) of the shorter side."""
    side = max(1, int(size / (size + TPU_PADDING) * min(width, height)))
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    return left, top, left + side, top + side


def cut_layout(width: int, height: int, shorter: int, size: int) -> ImageLayout:
    """Return torchvision's ``Resize(shorter)`` followed by ``CenterCrop(size)``."""
    tall = width <= height
    resized = (shorter, int(shorter * height / width)) if tall else (int(shorter * width / height), shorter)
    return ImageLayout((0, 0, width, height), resized, _offset(resized[0], size), _offset(resized[1], size))


def letterbox_layout(width: int, height: int, size: int) -> ImageLayout:
    """Return the layout that fits the whole image into the input, with a border on two sides."""
    factor = min(size / width, size / height)
    resized = (max(1, round(width * factor)), max(1, round(height * factor)))
    return ImageLayout((0, 0, width, height), resized, -((size - resized[0]) // 2), -((size - resized[1]) // 2))


def _offset(length: int, size: int) -> int:
    return -((size - length) // 2) if length < size else round((length - size) / 2)
