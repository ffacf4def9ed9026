"""The portable training loader: worker processes on any Linux machine, threads elsewhere.

Processes are faster than threads: two of them produce 1.6 times as many 32x32 images as one, while two threads that
compete for the interpreter produce fewer than one. At 224x224 both are equal, but processes leave the interpreter to
the training loop.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from shrinkserve.concurrency import ordered_map
from shrinkserve.config import Recipe
from shrinkserve.data.batch import ColourMaps, Labels, TrainBatch
from shrinkserve.data.dataset import Dataset
from shrinkserve.data.loading.augment import changes_colour, generator
from shrinkserve.data.loading.bad import BadImages, one_line, with_skip_hint
from shrinkserve.data.loading.order import EpochOrder, Indices
from shrinkserve.data.loading.pixels import augmented, uncoloured
from shrinkserve.data.loading.rand_augment import rand_augment
from shrinkserve.data.loading.workers import in_processes
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels


class PortableLoader:
    """Augmented batches; see `shrinkserve.data.loaders.TrainLoader`, and `train_loader` for the arguments."""

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        *,
        rank: int,
        world: int,
        workers: int,
        colour_on_device: bool = False,
    ) -> None:
        self._dataset, self._recipe, self._workers = dataset, recipe, workers
        if policy := recipe.augment.rand_augment:
            rand_augment(policy, recipe.model.input_size)  # an error now rather than in a loader process
        # The operations of a policy come after the changes of colour, and only Pillow has them.
        self._colour_on_device = colour_on_device and changes_colour(recipe.augment) and not recipe.augment.rand_augment
        self._order = EpochOrder.of(dataset, recipe, rank, world)
        self.bad: list[str] = []

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainBatch]:
        order = self._order.batches(number)
        epoch = _Epoch(self._dataset, self._recipe, number, order, self._colour_on_device)
        bad = BadImages(self._recipe.data.max_bad_fraction, order.size)
        self.bad = bad.found
        with closing(self._parts(epoch, start)) as parts:
            for images, part in parts:
                bad.add(part.messages)
                if not len(part.labels):
                    raise with_skip_hint(DataError(f"every image of a batch is bad, the last: {part.messages[-1]}"))
                yield TrainBatch(images[: len(part.labels)], part.labels, part.indices, part.colour)

    def _parts(self, epoch: _Epoch, start: int) -> Generator[tuple[Pixels, _Part], None, None]:
        numbers = range(start, len(self))
        if self._workers == 0 or not numbers:
            return (epoch.load_new(position) for position in numbers)
        if sys.platform != "linux":  # fork is not safe there, and without it no memory is shared
            return ordered_map(epoch.load_new, numbers, self._workers)
        return in_processes(epoch.load, numbers, epoch.shape, self._workers)


@dataclass(frozen=True)
class _Part:
    """The good images of a batch: labels, indices and changes of colour. And a message for each bad one."""

    labels: Labels
    indices: Indices
    messages: list[str]
    colour: ColourMaps | None


@dataclass(frozen=True)
class _Epoch:
    """The batches of one rank's epoch by their number."""

    dataset: Dataset
    recipe: Recipe
    number: int
    order: Indices
    colour_on_device: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of a batch's images."""
        size = self.recipe.model.input_size
        return self.order.shape[1], size, size, 3

    def load_new(self, position: int) -> tuple[Pixels, _Part]:
        """Return the images of a batch and what belongs to them."""
        images = np.empty(self.shape, dtype=np.uint8)
        return images, self.load(position, images)

    def load(self, position: int, images: Pixels) -> _Part:
        """Write the good images of a batch to the beginning of `images`."""
        recipe, preprocess = self.recipe, self.recipe.preprocess
        colour = ColourMaps(np.empty((len(images), 3, 4), np.float32), np.empty((len(images), 4), np.int32))
        labels: list[int] = []
        good: list[int] = []
        messages: list[str] = []
        for index in self.order[position].tolist():
            rng, place = generator(recipe.train.seed, self.number, index), len(good)  # good images come first
            try:
                record = self.dataset.record(index)
                if self.colour_on_device:
                    images[place], colour.matrices[place], colour.erased[place] = uncoloured(
                        record, recipe.augment, rng, preprocess
                    )
                else:
                    images[place] = augmented(record, recipe.augment, rng, preprocess)
            except DataError as exc:
                messages.append(one_line(exc))
            else:
                labels.append(record.label)
                good.append(index)
        kept = ColourMaps(colour.matrices[: len(good)], colour.erased[: len(good)]) if self.colour_on_device else None
        return _Part(np.array(labels, dtype=np.int64), np.array(good, dtype=np.int64), messages, kept)
