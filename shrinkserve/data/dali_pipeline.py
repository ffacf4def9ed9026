"""The DALI graph, and what it is fed for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shrinkserve.data.augment import AugmentParams
from shrinkserve.data.dataset import Record
from shrinkserve.preprocess import Interpolation

FILTERS: dict[Interpolation, str] = {
    "nearest": "INTERP_NN",
    "bilinear": "INTERP_LINEAR",
    "bicubic": "INTERP_CUBIC",
    "lanczos": "INTERP_LANCZOS3",
}
DARK = np.zeros((1, 1, 3), dtype=np.uint8)


def arguments(record: Record, drawn: AugmentParams, *, augment: bool) -> tuple[Any, ...]:
    """What the graph of `build` takes for one image: its bytes, then crop, filter and, with `augment`, all else."""
    from nvidia.dali import types

    left, top, right, bottom = drawn.crop
    basic = (
        np.frombuffer(record.encoded, dtype=np.uint8),
        np.array([top, left], dtype=np.int32),
        np.array([bottom - top, right - left], dtype=np.int32),
        np.array(int(getattr(types, FILTERS[drawn.interpolation])), dtype=np.int32),
    )
    if not augment:
        return basic
    colour = drawn.colour
    affine = (
        (np.eye(3), np.zeros((3, 3)), np.zeros(3)) if colour is None else (colour.pixel, colour.mean, colour.offset)
    )
    x, y, x_end, y_end = drawn.erase or (0, 0, 0, 0)
    return (
        *basic,
        np.array(drawn.flip, dtype=np.int32),
        *(np.asarray(part, dtype=np.float32) for part in affine),
        np.array([y, x], dtype=np.float32),
        np.array([y_end - y, x_end - x], dtype=np.float32),
        np.array([-y, -x], dtype=np.int32),
        drawn.noise if drawn.erase else DARK,
    )


def build(
    feed: Callable[[], list[list[Any]]], batch_size: int, size: int, threads: int, device: int | None, *, augment: bool
) -> Any:
    """A built pipeline whose one output is the images, uint8 [N, size, size, 3].

    Args:
        feed: gives the columns of `arguments` of the next batch.
        batch_size: images a batch, at most.
        size: of the result, in pixels.
        threads: on the CPU.
        device: the GPU's number, None for the CPU.
        augment: with flip, colour and erasing.
    """
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=batch_size, num_threads=threads, device_id=device)
    with pipeline:
        encoded, start, shape, interpolation, *more = fn.external_source(feed, num_outputs=12 if augment else 4)
        # The EXIF orientation is left as it is, as in `preprocess.decode`.
        images = fn.decoders.image(
            encoded, device="cpu" if device is None else "mixed", output_type=types.RGB, adjust_orientation=False
        )
        interpolation = fn.cast(interpolation, dtype=types.INTERP_TYPE)
        images = fn.slice(images, start=start, shape=shape, axes=[0, 1])
        images = fn.resize(images, size=[size, size], interp_type=interpolation, antialias=True, dtype=types.UINT8)
        if augment:
            images = _augmented(images, size, device, *more)
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def _augmented(images: Any, size: int, device: int | None, *drawn: Any) -> Any:
    from nvidia.dali import fn, types

    flip, pixel, mean, offset, anchor, shape, place, noise = drawn
    if device is not None:
        noise = noise.gpu()
    images = fn.flip(images, horizontal=flip)
    means = fn.reshape(fn.reductions.mean(images, axes=[0, 1]), shape=[1, 1, 3])
    images = fn.coord_transform(images, M=pixel) + fn.coord_transform(means, M=mean, T=offset)
    images = fn.cast(images, dtype=types.UINT8)  # rounds and clips
    images = fn.erase(images, anchor=anchor, shape=shape, axes=[0, 1], fill_value=0)
    patch = fn.slice(noise, start=place, shape=[size, size], axes=[0, 1], out_of_bounds_policy="pad", fill_values=0)
    return images + patch
