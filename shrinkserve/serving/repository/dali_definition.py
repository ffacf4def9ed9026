# mypy: ignore-errors
"""Evaluation preprocessing as a DALI pipeline.

A copy of this file is the main part of the ``dali.py`` in model repositories, so it imports DALI and the standard
library only, and works with DALI 1.x as well. It has no annotations, as DALI has no types for graph nodes.
"""

import struct

from nvidia import dali
from nvidia.dali import fn, math, types

PIPELINE_INPUT = "DALI_INPUT_0"
EXIF = {} if dali.__version__.startswith("1.") else {"adjust_orientation": False}
"""DALI 2 rotates images by their EXIF orientation; DALI 1 never does and lacks the argument."""


def pixels(size, crop_fraction, interpolation):
    """Return the output of the pipeline for encoded images: uint8 [size, size, 3].

    Args:
        size: height and width.
        crop_fraction: the kept part of height and width.
        interpolation: member of ``nvidia.dali.types``.
    """
    encoded = fn.external_source(name=PIPELINE_INPUT, ndim=1, dtype=types.UINT8)
    image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB, **EXIF)
    start, end = crop_box(encoded, crop_fraction)
    return fn.resize(
        image,
        size=[size, size],
        interp_type=getattr(types, interpolation),
        antialias=True,
        roi_start=start,
        roi_end=end,
        roi_relative=False,
    )


def crop_box(encoded, fraction):
    """Return top left and bottom right of the central crop, rows before columns, rounded as Python does."""
    size = fn.peek_image_shape(encoded, **EXIF)
    shape = fn.cast(fn.slice(size, 0, 2, axes=[0]), dtype=types.FLOAT64)
    parts = [shape * types.Constant(part, dtype=types.FLOAT64) for part in single_precision_parts(fraction)]
    exact = (parts[2] + parts[1]) + parts[0]
    floor = math.floor(exact)
    # Python rounds halves to the even neighbour.
    odd = floor - 2.0 * math.floor(floor / 2.0)
    up = (exact - floor > 0.5) | ((exact - floor == 0.5) & (odd == 1.0))
    kept = math.max(floor + up, 1.0)
    start = math.floor((shape - kept) / 2.0)
    return fn.cast(start, dtype=types.FLOAT), fn.cast(start + kept, dtype=types.FLOAT)


def single_precision_parts(value):
    """Return three single-precision numbers with the sum `value`: DALI stores constants in single precision."""
    parts = []
    for _ in range(3):
        parts.append(struct.unpack("f", struct.pack("f", value - sum(parts)))[0])
    return parts
