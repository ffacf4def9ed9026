"""Training-time augmentation: draw its parameters for an image.

`draw_augmentation` needs only the size of an image, so all loaders apply the same parameters. All colour operations
are affine in RGB (hue and saturation act in YIQ, as in NVIDIA DALI). A chain of them is one affine map, so pixels are
rounded and clipped once, at the end.

Each image has a separate generator, so that its draws depend on nothing else. They are made image by image: of the
2,400 us that a loader's core needs for a 500x375 JPEG they take 65 us, and the parts that could be computed for a whole
batch (seeding and colours) take 1 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shrinkserve.config import AugmentConfig
from shrinkserve.preprocess import Box, Interpolation, Pixels

Matrix = npt.NDArray[np.float64]
IDENTITY = np.eye(3)
LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
YIQ_INVERSE = np.linalg.inv(YIQ)
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")
"""TensorFlow's resize methods that every loader has. Its fourth, area, is close to antialiased bilinear."""
CROP_ATTEMPTS = 10
NO_NOISE: Pixels = np.empty((0, 0, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Colour:
    """The map ``x -> pixel @ x + mean @ m + offset`` on RGB in [0, 255], where `m` is the image's mean colour [3].

    Attributes:
        pixel: [3, 3].
        mean: [3, 3]; not zero when there is a contrast operation, which pulls pixels to the mean.
        offset: [3].
    """

    pixel: Matrix
    mean: Matrix
    offset: Matrix

    def matrix(self, mean: Matrix) -> Matrix:
        """Return the map for an image of mean colour `mean` [3]: one [3, 4] matrix, whose last column is the offset."""
        return np.column_stack([self.pixel, self.mean @ mean + self.offset])


@dataclass(frozen=True)
class AugmentParams:
    """The augmentation of one image.

    Attributes:
        crop: box in the original.
        interpolation: filter that resizes the crop.
        flip: mirror left and right, after the crop.
        colour: colour map; None for no change.
        erase: box in the result that is overwritten; None for no change.
        noise: uint8 [height, width, 3], the new pixels of `erase`; else empty.
        policy_seed: of RandAugment, which follows the flip; None without it.
    """

    crop: Box
    interpolation: Interpolation
    flip: bool
    colour: Colour | None
    erase: Box | None
    noise: Pixels
    policy_seed: int | None = None


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the RNG for one image. It depends only on (seed, epoch, index), so every loader draws the same."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index))))


def draw_augmentation(
    config: AugmentConfig, rng: np.random.Generator, width: int, height: int, size: int, default: Interpolation
) -> AugmentParams:
    """Draw the augmentation of an image of `width` x `height` pixels that becomes `size` x `size`.

    Args:
        config: the ranges.
        rng: from `generator`.
        width: of the original, in pixels.
        height: of the original, in pixels.
        size: of the result, in pixels.
        default: the interpolation if the recipe draws none.
    """
    crop = _crop(config, rng, width, height)
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))] if config.random_interpolation else default
    flip = config.flip and rng.random() < 0.5
    colour = _colour(config, rng)
    erase, noise = None, NO_NOISE
    if rng.random() < config.erase_probability:
        erase = _rectangle(rng, size, size, config.erase_area, config.erase_aspect)
    if erase is not None:
        left, top, right, bottom = erase
        noise = _noise(rng, bottom - top, right - left)
    policy_seed = int(rng.integers(1 << 32)) if config.rand_augment else None
    return AugmentParams(crop, interpolation, flip, colour, erase, noise, policy_seed)


def _crop(config: AugmentConfig, rng: np.random.Generator, width: int, height: int) -> Box:
    """Draw a rectangle; if none fits, return the largest central one with an allowed aspect ratio."""
    box = _rectangle(rng, width, height, config.crop_area, config.crop_aspect)
    if box is not None:
        return box
    low, high = config.crop_aspect
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _rectangle(
    rng: np.random.Generator, width: int, height: int, area: tuple[float, float], aspect: tuple[float, float]
) -> Box | None:
    """Draw a rectangle inside `width` x `height`: its share of the area, and its aspect ratio (log-uniform)."""
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(CROP_ATTEMPTS):
        pixels = _uniform(rng, *area) * width * height
        ratio = math.exp(_uniform(rng, low, high))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return None


def changes_colour(config: AugmentConfig) -> bool:
    """Return True if brightness, saturation, contrast or hue are drawn."""
    return any((config.brightness, config.saturation != (1, 1), config.contrast != (1, 1), config.hue))


def _colour(config: AugmentConfig, rng: np.random.Generator) -> Colour | None:
    """Draw brightness, saturation, contrast and hue; return None if all of them are off.

    The published order is random. Without clipping in between the four operations commute, so the order is fixed here.
    """
    if not changes_colour(config):
        return None
    brightness = _uniform(rng, -config.brightness, config.brightness)
    saturation, contrast = _uniform(rng, *config.saturation), _uniform(rng, *config.contrast)
    return colour_map(brightness, saturation, contrast, _uniform(rng, -config.hue, config.hue))


def colour_map(brightness: float, saturation: float, contrast: float, turns: float) -> Colour:
    """Return the four operations as one map.

    Args:
        brightness: added to each channel, as a part of its range.
        saturation: factor of the distance to grey.
        contrast: factor of the distance to the mean of each channel.
        turns: see `turn_hue`.
    """
    hue, matrix = turn_hue(turns), saturation * IDENTITY + (1 - saturation) * LUMA
    offset = matrix @ np.full(3, 255 * brightness)
    return Colour(hue @ (contrast * matrix), hue @ ((1 - contrast) * matrix), hue @ offset)


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return the value of ``rng.uniform(low, high)``, in half of its time."""
    return low + (high - low) * rng.random()


def _noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Return the values of ``rng.integers(0, 256, (height, width, 3), np.uint8)``, in a third of their time."""
    count = height * width * 3
    words = rng.integers(0, 1 << 32, -(-count // 4), dtype=np.uint32).astype("<u4", copy=False)
    noise: Pixels = words.view(np.uint8)[:count].reshape(height, width, 3)
    return noise


def turn_hue(turns: float) -> Matrix:
    """Return the rotation of the chroma plane by `turns`, in the direction of DALI's `hue`: [3, 3] on RGB."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turned: Matrix = YIQ_INVERSE @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ YIQ
    return turned
