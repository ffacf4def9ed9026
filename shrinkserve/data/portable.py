"""The portable loader: Pillow and numpy in threads, on any machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from shrinkserve.config import Recipe
from shrinkserve.data.augment import generator
from shrinkserve.data.batch import Batch
from shrinkserve.data.dataset import Dataset, Record
from shrinkserve.data.loaders import available_workers
from shrinkserve.data.order import Indices, epoch_batches, evaluation_order
from shrinkserve.data.pixels import augmented
from shrinkserve.errors import DataError
from shrinkserve.preprocess import Pixels, Preprocess

T = TypeVar("T")
R = TypeVar("R")


class PortableLoader:
    """Augmented batches; see `shrinkserve.data.loaders.TrainLoader`."""

    def __init__(self, dataset: Dataset, recipe: Recipe, *, rank: int = 0, world: int = 1) -> None:
        self._dataset, self._recipe, self._rank, self._world = dataset, recipe, rank, world
        self._workers = available_workers() if recipe.data.workers is None else recipe.data.workers
        self._length = len(dataset) // (recipe.train.batch_size * world)
        if not self._length:
            raise DataError(
                f"{dataset.root}: too few training images for one step",
                expected=f"at least {recipe.train.batch_size} x {world} processes",
                found=len(dataset),
                do="set a smaller train.batch_size",
            )

    def __len__(self) -> int:
        return self._length

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        recipe = self._recipe
        batches = epoch_batches(
            len(self._dataset),
            recipe.train.batch_size,
            seed=recipe.train.seed,
            epoch=number,
            rank=self._rank,
            world=self._world,
        )

        def load(indices: Indices) -> Batch:
            return _batch(self._dataset, indices, recipe.model.input_size, image)

        def image(record: Record, index: int) -> Pixels:
            rng = generator(recipe.train.seed, number, index)
            return augmented(record, recipe.augment, rng, recipe.model.input_size, recipe.input.interpolation)

        return ordered_map(load, batches[start:], self._workers)


def evaluate(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    *,
    rank: int,
    world: int,
    workers: int,
    limit: int | None,
    start: int = 0,
) -> Iterator[Batch]:
    """See `shrinkserve.data.loaders.evaluation_batches`."""
    order = evaluation_order(len(dataset), rank=rank, world=world, limit=limit)[start:]

    def load(indices: Indices) -> Batch:
        return _batch(dataset, indices, preprocess.size, image)

    def image(record: Record, _: int) -> Pixels:
        return preprocess.evaluate_bytes(record.encoded, record.name)

    return ordered_map(load, (order[i : i + batch_size] for i in range(0, len(order), batch_size)), workers)


def _batch(dataset: Dataset, indices: Indices, size: int, image: Callable[[Record, int], Pixels]) -> Batch:
    images = np.empty((len(indices), size, size, 3), dtype=np.uint8)
    labels = np.empty(len(indices), dtype=np.int64)
    for position, index in enumerate(indices.tolist()):
        record = dataset.record(index)
        images[position] = image(record, index)
        labels[position] = record.label
    return Batch(images, labels, indices)


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` in `workers` threads, results in order, at most ``workers + 1`` of them ahead of the reader.

    Closing the iterator early stops the threads after what they are at.
    """
    if workers == 0:
        yield from map(function, items)
        return
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        pending: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(source, workers + 1))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
