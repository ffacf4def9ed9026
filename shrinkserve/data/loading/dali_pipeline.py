"""The DALI graph, and its arguments for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.data.loading.augment import AugmentParams
from shrinkserve.preprocess import DALI_FILTERS, ImageLayout, Preprocess
from shrinkserve.preprocess.resize import Interpolation

Argument = npt.NDArray[np.generic]
DARK = np.zeros((1, 1, 3), dtype=np.uint8)
INPUTS = ("encoded", "start", "shape", "filter")
CUT_INPUTS = ("resized", "place")
AUGMENT_INPUTS = ("flip", "pixel", "mean", "offset", "anchor", "erased", "noise_place", "noise")


def resize_arguments(encoded: bytes, layout: ImageLayout, interpolation: Interpolation) -> tuple[Argument, ...]:
    """Return the arguments of an evaluation image, in the order of `INPUTS` and `CUT_INPUTS`."""
    width, height = layout.resized
    return (
        *_basic(encoded, layout.box, interpolation),
        np.array([height, width], dtype=np.float32),
        np.array([layout.top, layout.left], dtype=np.int32),
    )


def augment_arguments(encoded: bytes, drawn: AugmentParams) -> tuple[Argument, ...]:
    """Return the arguments of a training image, in the order of `INPUTS` and `AUGMENT_INPUTS`."""
    colour = drawn.colour
    affine = (
        (np.eye(3), np.zeros((3, 3)), np.zeros(3)) if colour is None else (colour.pixel, colour.mean, colour.offset)
    )
    x, y, x_end, y_end = drawn.erase or (0, 0, 0, 0)
    return (
        *_basic(encoded, drawn.crop, drawn.interpolation),
        np.array(drawn.flip, dtype=np.int32),
        *(np.asarray(part, dtype=np.float32) for part in affine),
        np.array([y, x], dtype=np.float32),
        np.array([y_end - y, x_end - x], dtype=np.float32),
        np.array([-y, -x], dtype=np.int32),
        drawn.noise if drawn.erase else DARK,
    )


def _basic(encoded: bytes, box: tuple[int, int, int, int], interpolation: Interpolation) -> tuple[Argument, ...]:
    from nvidia.dali import types

    left, top, right, bottom = box
    return (
        np.frombuffer(encoded, dtype=np.uint8),
        np.array([top, left], dtype=np.int32),
        np.array([bottom - top, right - left], dtype=np.int32),
        np.array(int(getattr(types, DALI_FILTERS[interpolation])), dtype=np.int32),
    )


class DaliPipeline:
    """A built pipeline whose output is the images, uint8 [N, size, size, channels]."""

    def __init__(
        self,
        source: Callable[[], Sequence[tuple[Argument, ...]]],
        preprocess: Preprocess,
        *,
        augment: bool,
        batch_size: int,
        threads: int,
        device: int | None,
    ) -> None:
        """Build the graph.

        Args:
            source: returns the arguments of the next batch's images; DALI calls it ahead of `run`.
            preprocess: size, channel order, antialiasing and border of the result.
            augment: with flip, colour and erasing, instead of a cut out of the resized picture.
            batch_size: images per batch, at most.
            threads: CPU threads.
            device: the GPU's number, None for the CPU.
        """
        from nvidia.dali import Pipeline, fn, types

        names = (*INPUTS, *(AUGMENT_INPUTS if augment else CUT_INPUTS))

        def columns() -> list[list[Argument]]:
            return [list(column) for column in zip(*source(), strict=True)]

        pipeline = Pipeline(batch_size=batch_size, num_threads=threads, device_id=device)
        with pipeline:
            inputs = dict(zip(names, fn.external_source(columns, num_outputs=len(names)), strict=True))
            images = _decoded(inputs["encoded"], preprocess, device)
            region = {}
            if preprocess.antialias and not augment:
                # As in Pillow, the filter reads the pixels behind the edge of the crop.
                start = fn.cast(inputs["start"], dtype=types.FLOAT)
                region = {"roi_start": start, "roi_end": start + fn.cast(inputs["shape"], dtype=types.FLOAT)}
            else:
                images = fn.slice(images, start=inputs["start"], shape=inputs["shape"], axes=[0, 1])
            size = [preprocess.size, preprocess.size] if augment else inputs["resized"]
            images = fn.resize(
                images,
                size=size,
                interp_type=fn.cast(inputs["filter"], dtype=types.INTERP_TYPE),
                antialias=preprocess.antialias,
                dtype=types.UINT8,
                **region,
            )
            images = (
                _augmented(images, preprocess.size, device, inputs) if augment else _cut(images, preprocess, inputs)
            )
            pipeline.set_outputs(images)
        pipeline.build()
        self._pipeline, self._device = pipeline, device

    def run(self) -> Any:
        """Return the next batch: an array, or a torch tensor on the GPU.

        Raises:
            RuntimeError: DALI cannot decode an image. The pipeline cannot be used any more.
        """
        if self._device is None:
            (images,) = self._pipeline.run()
            return np.array(images.as_array())
        import torch
        from nvidia.dali.plugin.pytorch import feed_ndarray

        # Everything is ordered by torch's stream: DALI reuses the memory of a batch only after the copy of it, and the
        # host does not wait.
        stream = torch.cuda.current_stream(self._device)
        (images,) = self._pipeline.run(stream)
        found = images.as_tensor()
        copied = torch.empty(found.shape(), dtype=torch.uint8, device=torch.device("cuda", self._device))
        return feed_ndarray(found, copied, cuda_stream=stream)

    def restart(self) -> None:
        """Prepare for another pass, after `source` has raised StopIteration and all batches were returned."""
        self._pipeline.reset()


def _decoded(encoded: Any, preprocess: Preprocess, device: int | None) -> Any:
    """Decode to the network's channel order."""
    from nvidia.dali import fn, types

    kind = types.BGR if preprocess.channel_order == "BGR" else types.RGB
    decoder = "cpu" if device is None else "mixed"
    # The EXIF orientation is not applied here: images that need it are decoded by Pillow.
    images = fn.decoders.image(encoded, device=decoder, output_type=kind, adjust_orientation=False)
    if preprocess.channel_order == "L":
        images = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return images


def _cut(images: Any, preprocess: Preprocess, inputs: dict[str, Any]) -> Any:
    """Cut the network's input out of the resized picture, and fill its border."""
    from nvidia.dali import fn

    border = preprocess.border()
    fill = [border] if isinstance(border, int) else list(border)
    if preprocess.channel_order == "BGR":
        fill.reverse()
    size = [preprocess.size, preprocess.size]
    return fn.slice(
        images, start=inputs["place"], shape=size, axes=[0, 1], out_of_bounds_policy="pad", fill_values=fill
    )


def _augmented(images: Any, size: int, device: int | None, inputs: dict[str, Any]) -> Any:
    """Flip, change colours and erase."""
    from nvidia.dali import fn, types

    noise = inputs["noise"] if device is None else inputs["noise"].gpu()
    images = fn.flip(images, horizontal=inputs["flip"])
    means = fn.reshape(fn.reductions.mean(images, axes=[0, 1]), shape=[1, 1, 3])
    images = fn.coord_transform(images, M=inputs["pixel"]) + fn.coord_transform(
        means, M=inputs["mean"], T=inputs["offset"]
    )
    images = fn.cast(images, dtype=types.UINT8)  # rounds and clips
    # DALI erases with one colour: make the box black, then add noise that is black everywhere else.
    images = fn.erase(images, anchor=inputs["anchor"], shape=inputs["erased"], axes=[0, 1], fill_value=0)
    start = inputs["noise_place"]
    patch = fn.slice(noise, start=start, shape=[size, size], axes=[0, 1], out_of_bounds_policy="pad", fill_values=0)
    return images + patch
