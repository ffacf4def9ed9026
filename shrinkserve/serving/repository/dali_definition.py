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
CROPS = ("squash", "tpu")
"""Geometries that cut out whole pixels before they resize."""


def pixels(settings):
    """Return the output of the pipeline for encoded images: uint8 [size, size, channels].

    Args:
        settings: a dictionary with these keys.
            size: height and width.
            geometry: as in the preprocessing contract.
            crop_fraction: the kept part of height and width, for "squash".
            shorter: the shorter side after the resize, for "center" and "resize_crop".
            interpolation: member of ``nvidia.dali.types``.
            antialias: widen the filter where the image shrinks.
            channel_order: "RGB", "BGR" or "L".
            border: the border's colour, in the order of the channels.
            apply_exif: turn images by their EXIF orientation.
    """
    size, channel_order = settings["size"], settings["channel_order"]
    exif = {} if settings["apply_exif"] else EXIF
    encoded = fn.external_source(name=PIPELINE_INPUT, ndim=1, dtype=types.UINT8)
    kind = types.BGR if channel_order == "BGR" else types.RGB
    image = fn.decoders.image(encoded, device="cpu", output_type=kind, **exif)
    if channel_order == "L":
        image = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
    shape = fn.cast(fn.slice(fn.peek_image_shape(encoded, **exif), 0, 2, axes=[0]), dtype=types.FLOAT64)
    start, end, resized = region(shape, settings)
    if settings["geometry"] in CROPS and not settings["antialias"]:
        # As in TensorFlow, the filter repeats the crop's edge. The filter of a region reads the pixels behind the edge.
        kept = fn.cast(end - start, dtype=types.INT32)
        image = fn.slice(image, start=fn.cast(start, dtype=types.INT32), shape=kept, axes=[0, 1])
        start, end = start * 0.0, end - start
    image = fn.resize(
        image,
        size=[size, size] if resized is None else fn.cast(resized, dtype=types.FLOAT),
        interp_type=getattr(types, settings["interpolation"]),
        antialias=settings["antialias"],
        roi_start=fn.cast(start, dtype=types.FLOAT),
        roi_end=fn.cast(end, dtype=types.FLOAT),
        roi_relative=False,
    )
    if resized is None:
        return image
    place = fn.cast(0.0 - math.floor((size - resized) / 2.0), dtype=types.INT32)
    return fn.slice(
        image, start=place, shape=[size, size], axes=[0, 1], out_of_bounds_policy="pad", fill_values=settings["border"]
    )


def region(shape, settings):
    """Return the resized part of the image: start, end (rows before columns) and its size; None for the input's size.

    Only what the input shows is resized, so a panorama needs no more memory than another image.
    """
    size, geometry = settings["size"], settings["geometry"]
    sides = fn.cast(shape, dtype=types.FLOAT)  # reductions have no double precision; sides are exact
    shortest = fn.cast(fn.reductions.min(sides), dtype=types.FLOAT64)
    longest = fn.cast(fn.reductions.max(sides), dtype=types.FLOAT64)
    if geometry == "stretch":
        return shape * 0.0, shape, None
    if geometry == "tpu":
        side = math.max(math.floor(times(shortest, size / (size + 32))), 1.0)
        start = math.floor((shape - side + 1.0) / 2.0)
        return start, start + side, None
    if geometry == "letterbox":
        return shape * 0.0, shape, math.max(rounded(shape * (float(size) / longest)), 1.0)
    if geometry in ("center", "resize_crop"):
        resized = math.floor((shape * float(settings["shorter"])) / shortest)
        kept = math.min(resized, float(size))
        left = math.max(rounded((resized - float(size)) / 2.0), 0.0)
        return left * shape / resized, (left + kept) * shape / resized, kept
    kept = math.max(rounded(times(shape, settings["crop_fraction"])), 1.0)
    start = math.floor((shape - kept) / 2.0)
    return start, start + kept, None


def rounded(value):
    """Return the nearest integers; halves go to the even neighbour, as Python rounds."""
    floor = math.floor(value)
    odd = floor - 2.0 * math.floor(floor / 2.0)
    return floor + ((value - floor > 0.5) | ((value - floor == 0.5) & (odd == 1.0)))


def times(value, factor):
    """Return the product in double precision."""
    parts = [value * types.Constant(part, dtype=types.FLOAT64) for part in single_precision_parts(factor)]
    return (parts[2] + parts[1]) + parts[0]


def single_precision_parts(value):
    """Return three single-precision numbers with the sum `value`: DALI stores constants in single precision."""
    parts = []
    for _ in range(3):
        parts.append(struct.unpack("f", struct.pack("f", value - sum(parts)))[0])
    return parts
