"""Decode and augment training images, as fast as a CPU can.

Evaluation uses Pillow only (`Preprocess.evaluate_bytes`), so that its pixels are exact. Training does not need exact
pixels: it decodes with libjpeg-turbo directly, at a half, quarter or eighth of the size if the crop stays large enough,
and resizes with torch's vectorised uint8 kernel, which takes a fifth of Pillow's time.

```
encoded --libjpeg-turbo or Pillow--> numpy --torch: crop, resize, flip--> numpy --Pillow: colour--> numpy: erase
```

Where the batches go to a GPU, the colour step is left to it: see `uncoloured` and `shrinkserve.training.update.colour`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shrinkserve.config import AugmentConfig
from shrinkserve.data.dataset import Record
from shrinkserve.data.loading.augment import AugmentParams, Colour, Matrix, draw_augmentation
from shrinkserve.data.loading.rand_augment import rand_augmented
from shrinkserve.preprocess import MAX_BYTES, MAX_PIXELS, Box, Interpolation, Pixels, Preprocess, decode

NO_CHANGE = np.eye(3, 4)
NO_BOX: Box = (0, 0, 0, 0)


def augmented(record: Record, config: AugmentConfig, rng: np.random.Generator, preprocess: Preprocess) -> Pixels:
    """Decode and augment an image.

    Args:
        record: the image.
        config: the augmentation.
        rng: from `shrinkserve.data.loading.augment.generator`.
        preprocess: size of the result, interpolation and EXIF orientation.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DataError: not an intact image.
    """
    pixels, drawn = _resized(record, config, rng, preprocess)
    if drawn.colour is not None:
        pixels = recolour(pixels, drawn.colour)
    if drawn.policy_seed is not None:
        pixels = rand_augmented(pixels, config.rand_augment, drawn.policy_seed)
    _erase(pixels, drawn)
    return pixels


def uncoloured(
    record: Record, config: AugmentConfig, rng: np.random.Generator, preprocess: Preprocess
) -> tuple[Pixels, npt.NDArray[np.float32], Box]:
    """Decode and augment an image without a policy of RandAugment, but leave its colours unchanged.

    Args:
        record: the image.
        config: the augmentation.
        rng: from `shrinkserve.data.loading.augment.generator`; the draws are those of `augmented`.
        preprocess: size of the result, interpolation and EXIF orientation.

    Returns:
        uint8 [size, size, 3]; the colour map that makes the pixels of `augmented` of it, float32 [3, 4]; and the
        erased box, whose colours stay as they are.

    Raises:
        DataError: not an intact image.
    """
    pixels, drawn = _resized(record, config, rng, preprocess)
    matrix = NO_CHANGE if drawn.colour is None else drawn.colour.matrix(mean_colour(pixels))
    _erase(pixels, drawn)
    return pixels, matrix.astype(np.float32), drawn.erase or NO_BOX


def _resized(
    record: Record, config: AugmentConfig, rng: np.random.Generator, preprocess: Preprocess
) -> tuple[Pixels, AugmentParams]:
    """Return the cropped, resized and flipped image, and what was drawn for it."""
    size, default = preprocess.size, preprocess.interpolation
    plain = None if preprocess.apply_exif else plain_jpeg_size(record.encoded)
    if plain is not None:
        drawn = draw_augmentation(config, rng, *plain, size, default)
        pixels, box = _decode_jpeg(record, plain, drawn.crop, size)
    else:
        pixels = np.array(decode(record.encoded, record.name, apply_exif=preprocess.apply_exif))
        drawn = draw_augmentation(config, rng, pixels.shape[1], pixels.shape[0], size, default)
        box = drawn.crop
    pixels = resize_uint8(pixels, box, size, drawn.interpolation)
    return (mirrored(pixels) if drawn.flip else pixels), drawn


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

        return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS, box=box))
    import torch
    from torch.nn.functional import interpolate

    part = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)[None]
    if interpolation == "nearest":
        resized = interpolate(part, (size, size), mode="nearest-exact")
    else:
        mode = "bicubic" if interpolation == "bicubic_tf1" else interpolation
        resized = interpolate(part, (size, size), mode=mode, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def mirrored(pixels: Pixels) -> Pixels:
    """Swap left and right; torch takes a tenth of NumPy's time for it."""
    import torch

    flipped: Pixels = torch.from_numpy(pixels).flip(1).numpy()
    return flipped


def _erase(pixels: Pixels, drawn: AugmentParams) -> None:
    """Overwrite the erased box with noise."""
    if drawn.erase is not None:
        left, top, right, bottom = drawn.erase
        pixels[top:bottom, left:right] = drawn.noise


def recolour(pixels: Pixels, colour: Colour) -> Pixels:
    """Apply an affine colour map to an image uint8 [height, width, 3]."""
    from PIL import Image

    matrix = colour.matrix(mean_colour(pixels))
    return np.array(Image.fromarray(pixels).convert("RGB", tuple(matrix.ravel().tolist())))


def mean_colour(pixels: Pixels) -> Matrix:
    """Return the exact mean of red, green and blue: [3]."""
    # Adding up rows of integers first is vectorised: a thirtieth of the time of a mean over both axes.
    mean: Matrix = pixels.sum(0, dtype=np.uint32).sum(0, dtype=np.uint64) / (pixels.shape[0] * pixels.shape[1])
    return mean
