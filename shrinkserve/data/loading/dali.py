"""The DALI loader: decode, resize and augment with NVIDIA DALI, on a GPU or a CPU.

The augmentation of an image is drawn by `draw_augmentation` and given to DALI with its bytes. So the order, the draws
and the position within an epoch are those of the portable loader, and a batch depends only on (seed, epoch, rank,
number). The evaluation pixels equal those of `Preprocess`, except for Pillow's rounding between the two passes of a
resize.

DALI decodes plain JPEGs. Every other image is decoded by Pillow, so both loaders decode it the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkserve.concurrency import ordered_map
from shrinkserve.config import Recipe
from shrinkserve.data.batch import Batch, Labels, TrainBatch
from shrinkserve.data.dataset import Dataset, Record
from shrinkserve.data.loading.augment import draw_augmentation, generator
from shrinkserve.data.loading.bad import BadImages, one_line, with_skip_hint
from shrinkserve.data.loading.dali_pipeline import Argument, DaliPipeline, augment_arguments, resize_arguments
from shrinkserve.data.loading.order import EpochOrder, Indices, evaluation_order
from shrinkserve.data.loading.pixels import plain_jpeg_size
from shrinkserve.errors import DataError
from shrinkserve.preprocess import MAX_PIXELS, ImageLayout, Preprocess, decode
from shrinkserve.preprocess.decode import as_bmp

Arguments = Callable[[int, Record, bool], tuple[Argument, ...]]
"""Return the pipeline's arguments for (index, record); True to decode the image with Pillow first."""


class DaliLoader:
    """Augmented batches; see `shrinkserve.data.loaders.TrainLoader`. On a GPU, `images` is a torch tensor there."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, rank: int, world: int, workers: int, device: int | None
    ) -> None:
        """Args: see `train_loader`; `device` is the GPU's number, None for the CPU."""
        self._recipe = recipe
        self._order = EpochOrder.of(dataset, recipe, rank, world)
        # Training images are RGB and antialiased, whatever the evaluation preprocessing says: only the size matters.
        preprocess = Preprocess(recipe.preprocess.size)
        self._passes = _Passes(dataset, preprocess, max(1, workers), device, augment=True)
        self.bad: list[str] = []

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainBatch]:
        recipe = self._recipe
        preprocess = recipe.preprocess
        order = self._order.batches(number)

        def arguments(index: int, record: Record, by_pillow: bool) -> tuple[Argument, ...]:
            encoded, width, height = _for_dali(record, by_pillow=by_pillow, apply_exif=preprocess.apply_exif)
            rng = generator(recipe.train.seed, number, index)
            drawn = draw_augmentation(recipe.augment, rng, width, height, preprocess.size, preprocess.interpolation)
            return augment_arguments(encoded, drawn)

        bad = BadImages(recipe.data.max_bad_fraction, order.size)
        self.bad = bad.found
        for images, part in self._passes.batches(list(order[start:]), arguments):
            bad.add(part.messages)
            yield TrainBatch(images, part.labels, part.indices)


def dali_batches(
    dataset: Dataset, preprocess: Preprocess, parts: Sequence[Indices], workers: int, device: int | None = None
) -> Iterator[Batch]:
    """Yield batches of the images of `parts` with the evaluation pixels; see `evaluation_batches`.

    Raises:
        DataError: an image that cannot be read.
    """

    def arguments(_: int, record: Record, by_pillow: bool) -> tuple[Argument, ...]:
        encoded, width, height = _for_dali(record, by_pillow=by_pillow, apply_exif=preprocess.apply_exif)
        layout = preprocess.layout(width, height)
        if layout.resized[0] * layout.resized[1] > MAX_PIXELS:
            encoded, layout = _prepared(record, preprocess)
        return resize_arguments(encoded, layout, preprocess.interpolation)

    passes = _Passes(dataset, preprocess, max(1, workers), device, augment=False)
    for images, part in passes.batches(parts, arguments):
        if part.messages:
            raise with_skip_hint(DataError(part.messages[0]))
        yield Batch(images, part.labels, part.indices)


def decoder_difference(dataset: Dataset, preprocess: Preprocess, limit: int = 64) -> float:
    """Return the mean difference, of 255, between DALI's evaluation pixels and those of `preprocess`.

    Args:
        dataset: sample images.
        preprocess: the network's preprocessing.
        limit: number of images, spread evenly over the dataset.

    Raises:
        DataError: an image that cannot be read.
    """
    order = evaluation_order(len(dataset), rank=0, world=1, limit=limit)
    total = count = 0.0
    for batch in dali_batches(dataset, preprocess, [order[i : i + 16] for i in range(0, len(order), 16)], workers=1):
        for index, theirs in zip(batch.indices.tolist(), batch.images, strict=True):
            record = dataset.record(index)
            ours = preprocess.evaluate_bytes(record.encoded, record.name)
            total += float(np.abs(theirs.astype(np.float32) - ours).mean())
            count += 1
    return total / count


def _for_dali(record: Record, *, by_pillow: bool, apply_exif: bool) -> tuple[bytes, int, int]:
    """Return bytes that DALI decodes, with the image's width and height."""
    size = None if by_pillow or apply_exif else plain_jpeg_size(record.encoded)
    if size is not None:
        return record.encoded, *size
    image = decode(record.encoded, record.name, apply_exif=apply_exif)
    return as_bmp(image), *image.size


def _prepared(record: Record, preprocess: Preprocess) -> tuple[bytes, ImageLayout]:
    """Return the network's input itself, for an image whose resized picture would be too large."""
    from PIL import Image

    pixels = preprocess.evaluate_bytes(record.encoded, record.name)
    rgb = np.repeat(pixels, 3, axis=2) if preprocess.channels == 1 else pixels
    rgb = rgb[..., ::-1] if preprocess.channel_order == "BGR" else rgb
    size = preprocess.size
    return as_bmp(Image.fromarray(np.ascontiguousarray(rgb))), ImageLayout((0, 0, size, size), (size, size), 0, 0)


@dataclass(frozen=True)
class _Loaded:
    """A batch as it is given to DALI: the arguments of its good images, and a message for each bad one."""

    part: Indices
    samples: list[tuple[Argument, ...]]
    labels: Labels
    indices: Indices
    messages: list[str]


class _Source:
    """The function that a pipeline calls for the images of its next batch; each pass sets its own."""

    following: Callable[[], list[tuple[Argument, ...]]]

    def __call__(self) -> list[tuple[Argument, ...]]:
        return self.following()


class _Passes:
    """Passes over the images of a dataset. A pass that ends normally leaves its pipeline to the next one."""

    def __init__(
        self, dataset: Dataset, preprocess: Preprocess, threads: int, device: int | None, *, augment: bool
    ) -> None:
        self._dataset, self._preprocess, self._augment = dataset, preprocess, augment
        self._threads, self._device = threads, device
        self._kept: tuple[DaliPipeline, _Source, int] | None = None

    def batches(self, parts: Sequence[Indices], arguments: Arguments) -> Iterator[tuple[Any, _Loaded]]:
        """Yield the images of each batch, and what belongs to them.

        DALI stops at the first image that it cannot decode. The images of that batch are then decoded by Pillow, which
        names the bad ones, and a new pipeline continues.
        """
        fed: deque[_Loaded] = deque()  # given to DALI and not returned yet
        again: deque[_Loaded] = deque()  # to be given to a new pipeline
        size = max(map(len, parts), default=1)

        def load(part: Indices) -> _Loaded:
            return self._load(part, arguments)

        # One thread reads ahead, so that the training loop does not wait for the disk.
        with closing(ordered_map(load, parts, workers=1)) as loads:

            def following() -> list[tuple[Argument, ...]]:
                fed.append(again.popleft() if again else next(loads))
                return fed[-1].samples

            pipeline, source, size = self._pipeline(size)
            source.following = following
            for _ in parts:
                try:
                    images = pipeline.run()
                except RuntimeError as exc:
                    again.extend([self._load(fed[0].part, arguments, by_pillow=True), *list(fed)[1:]])
                    fed.clear()
                    pipeline, source, size = self._pipeline(size)
                    source.following = following
                    images = self._run_again(pipeline, fed, exc)
                yield images, fed.popleft()
            if parts:
                pipeline.restart()
            self._kept = pipeline, source, size

    def _pipeline(self, size: int) -> tuple[DaliPipeline, _Source, int]:
        """Return a pipeline for batches of `size` images: the one that the last pass has left, or a new one."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[2] >= size:
            return kept
        source = _Source()
        pipeline = DaliPipeline(
            source,
            self._preprocess,
            augment=self._augment,
            batch_size=size,
            threads=self._threads,
            device=self._device,
        )
        return pipeline, source, size

    def _run_again(self, pipeline: DaliPipeline, fed: deque[_Loaded], error: RuntimeError) -> Any:
        """Run a new pipeline on images that Pillow has decoded."""
        try:
            return pipeline.run()
        except RuntimeError:
            first = self._dataset.record(int(fed[0].indices[0])).name
            what = f"DALI fails on a batch of images that Pillow decodes, the first is {first}"
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"{what} ({reason})", hint="set data.loader=portable, and report this") from error

    def _load(self, part: Indices, arguments: Arguments, *, by_pillow: bool = False) -> _Loaded:
        """Read the images of a batch."""
        samples, labels, good, messages = [], [], [], []
        for index in part.tolist():
            try:
                record = self._dataset.record(index)
                samples.append(arguments(index, record, by_pillow))
            except DataError as exc:
                messages.append(one_line(exc))
            else:
                labels.append(record.label)
                good.append(index)
        if not samples:
            raise with_skip_hint(DataError(f"every image of a batch is bad, the last: {messages[-1]}"))
        return _Loaded(part, samples, np.array(labels, dtype=np.int64), np.array(good, dtype=np.int64), messages)
