"""Decode and augment training images, as fast as a CPU can.

Evaluation uses Pillow only (`Preprocess.evaluate_bytes`), so that its pixels are exact. Training does not need exact
pixels: it decodes with libjpeg-turbo directly, at a half, quarter or eighth of the size if the crop stays large enough,
and resizes with torch's vectorised uint8 kernel, which takes a fifth of Pillow's time.

```
encoded --libjpeg-turbo or Pillow--> numpy --torch: crop and resize--> numpy --Pillow: colour--> numpy: flip, erase
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shrinkserve.config import AugmentConfig
from shrinkserve.data.augment import AugmentParams, Colour, draw_augmentation
from shrinkserve.data.dataset import Record
from shrinkserve.data.rand_augment import rand_augmented
from shrinkserve.preprocess import MAX_BYTES, MAX_PIXELS, Box, Interpolation, Pixels, Preprocess, decode

if TYPE_CHECKING:
    from PIL import Image


def augmented(record: Record, config: AugmentConfig, rng: np.random.Generator, preprocess: Preprocess) -> Pixels:
    """Decode and augment an image.

    Args:
        record: the image.
        config: the augmentation.
        rng: from `shrinkserve.data.augment.generator`.
        preprocess: size of the result, interpolation and EXIF orientation.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DataError: not an intact image.
    """
    size, default = preprocess.size, preprocess.interpolation
    plain = None if preprocess.apply_exif else plain_jpeg_size(record.encoded)
    if plain is not None:
        drawn = draw_augmentation(config, rng, *plain, size, default)
        pixels, box = _decode_jpeg(record, plain, drawn.crop, size)
    else:
        pixels = np.array(decode(record.encoded, record.name, apply_exif=preprocess.apply_exif))
        drawn = draw_augmentation(config, rng, pixels.shape[1], pixels.shape[0], size, default)
        box = drawn.crop
    return _finish(resize_uint8(pixels, box, size, drawn.interpolation), drawn, config.rand_augment)


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG that libjpeg-turbo converts to RGB itself; None for all other images.

    ImageNet has a PNG with the name of a JPEG, and CMYK pictures. Those are decoded by Pillow.
    """
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    plain = colours in ("YCbCr", "Gray", "RGB") and width * height <= MAX_PIXELS and len(encoded) <= MAX_BYTES
    return (width, height) if plain else None


def _decode_jpeg(record: Record, original: tuple[int, int], crop: Box, size: int) -> tuple[Pixels, Box]:
    """Return the decoded picture, scaled down if the crop allows it, and the position of `crop` in it."""
    import simplejpeg

    (width, height), (left, top, right, bottom) = original, crop
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(right - left, bottom - top) >= f * size)
    try:
        pixels = simplejpeg.decode_jpeg(
            record.encoded, min_width=-(-width // factor), min_height=-(-height // factor), min_factor=factor
        )
    except ValueError:
        # libjpeg also rejects images that are usable. Pillow decides, as it does in evaluation.
        return np.array(decode(record.encoded, record.name)), crop
    return pixels, (left // factor, top // factor, right // factor, bottom // factor)


def resize_uint8(pixels: Pixels, box: Box, size: int, interpolation: Interpolation) -> Pixels:
    """Resize part of an image, antialiased where it shrinks.

    Args:
        pixels: uint8 [height, width, 3].
        box: the part: left, top, right, bottom.
        size: height and width of the result.
        interpolation: the filter. "bicubic_tf1" is treated as "bicubic".
    """
    left, top, right, bottom = box
    if interpolation == "lanczos":  # torch has no Lanczos filter
        from PIL import Image

        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS, box=box))
    import torch
    from torch.nn.functional import interpolate

    part = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    if interpolation == "nearest":
        resized = interpolate(part, (size, size), mode="nearest-exact")
    else:
        mode = "bicubic" if interpolation == "bicubic_tf1" else interpolation
        resized = interpolate(part, (size, size), mode=mode, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _finish(pixels: Pixels, drawn: AugmentParams, policy: str) -> Pixels:
    """Change colours, flip, apply RandAugment and erase."""
    if drawn.colour is not None:
        from PIL import Image

        pixels = np.asarray(recolour(Image.fromarray(pixels), drawn.colour))
    if drawn.flip:
        pixels = pixels[:, ::-1]
    if drawn.policy_seed is not None:
        pixels = rand_augmented(np.ascontiguousarray(pixels), policy, drawn.policy_seed)
    if drawn.erase is not None:
        left, top, right, bottom = drawn.erase
        pixels = pixels.copy()
        pixels[top:bottom, left:right] = drawn.noise
    return pixels


def recolour(image: Image.Image, colour: Colour) -> Image.Image:
    """Apply an affine colour map to an RGB image."""
    # The histogram gives the exact mean in one pass in C, several times faster than a mean over the array.
    counts = np.array(image.histogram()).reshape(3, 256)
    mean = counts @ np.arange(256) / (image.width * image.height)
    return image.convert("RGB", tuple(colour.matrix(mean).ravel().tolist()))
