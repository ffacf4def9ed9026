"""Resampling: Pillow's antialiased filters, the same filters without antialiasing, and TensorFlow 1's bicubic.

Pillow antialiases every filter but ``nearest``. The others are computed here with fixed kernels, as torch and OpenCV
do: bilinear (2 taps), bicubic (4 taps, a = -0.75) and Lanczos (6 taps), all at half-pixel centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from shrinkserve.preprocess.geometry import Box

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "bicubic_tf1"]
Pixels = npt.NDArray[np.uint8]
TapWeights = npt.NDArray[np.float32]
TapIndices = npt.NDArray[np.int64]
Distance = npt.NDArray[np.float64]

DALI_FILTERS: dict[Interpolation, str] = {
    "nearest": "INTERP_NN",
    "bilinear": "INTERP_LINEAR",
    "bicubic": "INTERP_CUBIC",
    "lanczos": "INTERP_LANCZOS3",
    "bicubic_tf1": "INTERP_CUBIC",
}
"""Members of ``nvidia.dali.types``; the last is an approximation."""

A = -0.75
"""Parameter of the cubic kernel without antialiasing, in torch, OpenCV and TensorFlow 1."""
TF1_TABLE = 1024
"""TensorFlow 1 rounds the position between two pixels to this many steps."""


def resize(
    image: Image.Image, box: Box, size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> Pixels:
    """Resize part of an image.

    Args:
        image: in mode RGB or L.
        box: the part that is resized.
        size: width and height of the result.
        interpolation: the filter.
        antialias: widen the filter where the image shrinks.

    Returns:
        uint8 [height, width, 3], or [height, width] for mode L.
    """
    if interpolation != "bicubic_tf1" and (antialias or interpolation == "nearest"):
        from PIL import Image as pil

        return np.asarray(image.resize(size, pil.Resampling[interpolation.upper()], box=box), dtype=np.uint8)
    left, top, right, bottom = box
    pixels = np.asarray(image)[top:bottom, left:right].astype(np.float32)
    pixels = _apply(pixels, *_taps(bottom - top, size[1], interpolation))
    columns = _apply(pixels.swapaxes(0, 1), *_taps(right - left, size[0], interpolation))
    return np.rint(columns.swapaxes(0, 1)).clip(0, 255).astype(np.uint8)


def _apply(values: TapWeights, indices: TapIndices, weights: TapWeights) -> TapWeights:
    """Return the weighted sum over the first axis."""
    shape = (-1,) + (1,) * (values.ndim - 1)
    total = np.zeros((len(indices), *values.shape[1:]), dtype=np.float32)
    for tap in range(indices.shape[1]):
        total += values[indices[:, tap]] * weights[:, tap].reshape(shape)
    return total


def _taps(length: int, size: int, interpolation: Interpolation) -> tuple[TapIndices, TapWeights]:
    """Return the input positions and their weights for each output position: [size, taps] each."""
    position: Distance
    if interpolation == "bicubic_tf1":
        position = (np.arange(size, dtype=np.float32) * np.float32(length / size)).astype(np.float64)
        first = np.floor(position)
        fraction: Distance = np.round((position - first) * TF1_TABLE) / TF1_TABLE
        reach = 2
    else:
        position = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float64)
        first = np.floor(position)
        fraction = position - first
        reach = {"bilinear": 1, "bicubic": 2, "lanczos": 3}[interpolation]
    offsets = np.arange(1 - reach, reach + 1)
    distance: Distance = np.abs(fraction[:, None] - offsets)
    weights = {"bilinear": _linear, "lanczos": _lanczos}.get(interpolation, _cubic)(distance)
    if interpolation == "lanczos":
        weights /= weights.sum(axis=1, keepdims=True)
    indices: TapIndices = (first[:, None] + offsets).astype(np.int64).clip(0, length - 1)
    return indices, weights.astype(np.float32)


def _linear(distance: Distance) -> Distance:
    return np.maximum(0.0, 1.0 - distance, dtype=np.float64)


def _cubic(x: Distance) -> Distance:
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Distance) -> Distance:
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
