"""The DALI loader: decoding, resizing and augmentation by NVIDIA DALI, on a GPU or a CPU.

What is drawn for an image is drawn here, by `shrinkserve.data.augment`, and fed beside its bytes: the order, the
draws and where an epoch goes on are the portable loader's, and a batch depends on (seed, epoch, rank, number) only.
The evaluation pixels are those of `Preprocess` but for Pillow's rounding between the two passes of a resize.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkserve.concurrency import ordered_map
from shrinkserve.config import Recipe
from shrinkserve.data.augment import NO_NOISE, AugmentParams, draw, generator
from shrinkserve.data.bad import BadImages, one_line
from shrinkserve.data.batch import Batch
from shrinkserve.data.dali_pipeline import arguments, build
from shrinkserve.data.dataset import Dataset
from shrinkserve.data.order import Indices, epoch_batches, steps_per_epoch
from shrinkserve.data.pixels import image_size
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Preprocess, decode

Drawn = Callable[[int, int, int], AugmentParams]
"""What is done with the image at an index, of a width and height."""


class DaliLoader:
    """Augmented batches; see `shrinkserve.data.loaders.TrainLoader`. On a GPU, `images` is a torch tensor there."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, rank: int, world: int, workers: int, device: int | None
    ) -> None:
        """Args: see `train_loader`; `device` is the GPU's number, None for the CPU."""
        self._dataset, self._recipe, self._rank, self._world = dataset, recipe, rank, world
        self._workers, self._device = max(1, workers), device
        self._length = steps_per_epoch(dataset, recipe, world)
        self.bad: list[str] = []

    def __len__(self) -> int:
        return self._length

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        recipe = self._recipe
        size, default = recipe.model.input_size, recipe.input.interpolation
        order = epoch_batches(
            len(self._dataset),
            recipe.train.batch_size,
            seed=recipe.train.seed,
            epoch=number,
            rank=self._rank,
            world=self._world,
        )

        def drawn(index: int, width: int, height: int) -> AugmentParams:
            return draw(recipe.augment, generator(recipe.train.seed, number, index), width, height, size, default)

        bad = BadImages(int(recipe.data.max_bad_fraction * order.size))
        self.bad = bad.found
        run = _Run(self._dataset, drawn, size, self._workers, self._device, augment=True)
        for batch, messages in run.batches(list(order[start:])):
            bad.add(messages)
            yield batch


def evaluate(
    dataset: Dataset, preprocess: Preprocess, parts: Sequence[Indices], workers: int, device: int | None = None
) -> Iterator[Batch]:
    """Batches of the images of `parts` with the evaluation pixels; see `evaluation_batches`.

    Raises:
        DataError: an image that cannot be read.
    """

    def drawn(_: int, width: int, height: int) -> AugmentParams:
        box = preprocess.layout(width, height).box
        return AugmentParams(box, preprocess.interpolation, flip=False, colour=None, erase=None, noise=NO_NOISE)

    run = _Run(dataset, drawn, preprocess.size, max(1, workers), device, augment=False)
    for batch, messages in run.batches(parts):
        if messages:
            raise DataError(messages[0])
        yield batch


@dataclass(frozen=True)
class _Loaded:
    """A batch on its way into the pipeline: its samples' arguments, and what is told of it afterwards."""

    samples: list[tuple[Any, ...]]
    labels: Indices
    indices: Indices
    messages: list[str]


@dataclass(frozen=True)
class _Run:
    """One pass over some batches."""

    dataset: Dataset
    drawn: Drawn
    size: int
    threads: int
    device: int | None
    augment: bool

    def batches(self, parts: Sequence[Indices]) -> Iterator[tuple[Batch, list[str]]]:
        """Batches of the good images, with a message for each bad one.

        DALI gives up a pipeline at the first image that it cannot decode. That batch is then looked at image by
        image, and a new pipeline goes on from it.
        """
        done, looked_at = 0, -1
        while done < len(parts):
            try:
                for result in self._pass(parts[done:], look=looked_at == done):
                    done += 1
                    yield result
            except RuntimeError as exc:
                if looked_at == done:
                    advice = "set data.loader=portable, and report this"
                    raise DataError(f"DALI fails on a batch that Pillow decodes ({exc})", hint=advice) from exc
                looked_at = done

    def _pass(self, parts: Sequence[Indices], look: bool) -> Iterator[tuple[Batch, list[str]]]:
        first = parts[0]
        # One thread reads ahead, so that the training loop does not wait for the disk.
        loaded = ordered_map(lambda part: self._load(part, look=look and part is first), parts, workers=1)
        waiting: deque[_Loaded] = deque()

        def feed() -> list[list[Any]]:
            waiting.append(next(loaded))
            return [list(column) for column in zip(*waiting[-1].samples, strict=True)]

        try:
            pipeline = build(feed, max(map(len, parts)), self.size, self.threads, self.device, augment=self.augment)
            for _ in parts:
                (images,) = pipeline.run()
                batch = waiting.popleft()
                yield Batch(_handed_over(images, self.device), batch.labels, batch.indices), batch.messages
        finally:
            loaded.close()

    def _load(self, part: Indices, look: bool) -> _Loaded:
        """Read the images of a batch; with `look`, decode them to find those that cannot be."""
        samples, labels, good, messages = [], [], [], []
        for index in part.tolist():
            try:
                record = self.dataset.record(index)
                if look:
                    decode(record.encoded, record.name)
                samples.append(arguments(record, self.drawn(index, *image_size(record)), augment=self.augment))
            except DataError as exc:
                messages.append(one_line(exc))
                continue
            labels.append(record.label)
            good.append(index)
        if not samples:
            raise DataError(f"every image of a batch is bad, the last: {messages[-1]}")
        return _Loaded(samples, np.array(labels, dtype=np.int64), np.array(good, dtype=np.int64), messages)


def _handed_over(images: Any, device: int | None) -> Any:
    """DALI's output as an array, or a torch tensor on the GPU, that outlives the pipeline's buffer."""
    if device is None:
        return np.array(images.as_array())
    import torch.utils.dlpack

    return torch.utils.dlpack.from_dlpack(images.as_tensor()).clone()
