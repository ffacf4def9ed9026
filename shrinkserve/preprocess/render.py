"""Make the network's input from a decoded image and its layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shrinkserve.preprocess.decode import MAX_PIXELS
from shrinkserve.preprocess.geometry import ImageLayout
from shrinkserve.preprocess.resize import Interpolation, Pixels, resize

if TYPE_CHECKING:
    from PIL import Image

Border = int | tuple[int, int, int]


def render(
    image: Image.Image, layout: ImageLayout, size: int, border: Border, interpolation: Interpolation, antialias: bool
) -> Pixels:
    """Return the input: uint8 [size, size, 3], or [size, size] for an image in mode L."""
    if layout.resized[0] * layout.resized[1] > MAX_PIXELS:
        return _render_shown_part(image, layout, size, border, interpolation, antialias)
    return _cut(resize(image, layout.box, layout.resized, interpolation, antialias), layout, size, border)


def _cut(resized: Pixels, layout: ImageLayout, size: int, border: Border) -> Pixels:
    """Cut the input out of the resized picture and fill its border."""
    width, height = layout.resized
    if min(width, height) >= size:
        return resized[layout.top : layout.top + size, layout.left : layout.left + size]
    canvas = np.empty((size, size, *resized.shape[2:]), dtype=np.uint8)
    canvas[:] = border
    left, top = max(0, layout.left), max(0, layout.top)
    x, y = max(0, -layout.left), max(0, -layout.top)
    canvas[y : y + min(height, size), x : x + min(width, size)] = resized[top : top + size, left : left + size]
    return canvas


def _render_shown_part(
    image: Image.Image, layout: ImageLayout, size: int, border: Border, interpolation: Interpolation, antialias: bool
) -> Pixels:
    """Resize only the part that the input shows, for panoramas whose resized picture would be huge.

    The part is cut in whole pixels of the original, so the result may be shifted by a fraction of a pixel.
    """
    factor = image.width / layout.resized[0]
    left = min(image.width - 1, int(max(0, layout.left) * factor))
    top = min(image.height - 1, int(max(0, layout.top) * factor))
    right = min(image.width, round((max(0, layout.left) + size) * factor))
    bottom = min(image.height, round((max(0, layout.top) + size) * factor))
    box = (left, top, max(left + 1, right), max(top + 1, bottom))
    width, height = (min(size, length) for length in layout.resized)
    part = resize(image, box, (width, height), interpolation, antialias)
    return _cut(part, ImageLayout(box, (width, height), min(0, layout.left), min(0, layout.top)), size, border)
