"""From encoded bytes to a training image, as fast as a CPU can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shrinkserve.config import AugmentConfig
from shrinkserve.data.augment import Colour, draw
from shrinkserve.data.dataset import Record
from shrinkserve.preprocess import Interpolation, Pixels, decode

if TYPE_CHECKING:
    from PIL import Image


def augmented(
    record: Record, config: AugmentConfig, rng: np.random.Generator, size: int, default: Interpolation
) -> Pixels:
    """Decode and augment: uint8 [size, size, 3]; raises `DataError` for what is not a whole image."""
    from PIL import Image

    image = decode(record.encoded, record.name)
    drawn = draw(config, rng, *image.size, size, default)
    image = image.resize((size, size), Image.Resampling[drawn.interpolation.upper()], box=drawn.crop)
    if drawn.colour is not None:
        image = recolour(image, drawn.colour)
    pixels = np.array(image)
    if drawn.flip:
        pixels = pixels[:, ::-1]
    if drawn.erase is not None:
        left, top, right, bottom = drawn.erase
        pixels[top:bottom, left:right] = drawn.noise
    return pixels


def recolour(image: Image.Image, colour: Colour) -> Image.Image:
    """Apply an affine colour map to an RGB image."""
    # The histogram gives the exact mean in one pass of C, several times faster than a mean over the array.
    counts = np.array(image.histogram()).reshape(3, 256)
    mean = counts @ np.arange(256) / (image.width * image.height)
    return image.convert("RGB", tuple(colour.matrix(mean).ravel().tolist()))
