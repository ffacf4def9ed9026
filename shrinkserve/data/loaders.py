"""The loaders' common face, and which one is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from shrinkserve.config import Recipe
from shrinkserve.data.batch import Batch
from shrinkserve.data.dataset import Dataset
from shrinkserve.preprocess import Preprocess


class TrainLoader(Protocol):
    """Augmented batches, the same for the same (seed, epoch, rank, world) whatever the number of workers."""

    def __len__(self) -> int:
        """Batches an epoch, the same on every rank."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on."""
        ...


def train_loader(dataset: Dataset, recipe: Recipe, *, rank: int = 0, world: int = 1) -> TrainLoader:
    """The loader that `recipe` asks for.

    Raises:
        DataError: fewer images than one step of all ranks needs.
    """
    from shrinkserve.data.portable import PortableLoader

    return PortableLoader(dataset, recipe, rank=rank, world=world)


def evaluation_batches(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    limit: int | None = None,
    start: int = 0,
) -> Iterator[Batch]:
    """Every image exactly once over all ranks, in increasing order; the last batch may be smaller.

    Args:
        dataset: from `open_dataset`.
        preprocess: what the network expects.
        batch_size: images a batch, at most.
        rank: this process.
        world: number of processes.
        workers: decoding threads; None for one a core that this process may use, 0 for none.
        limit: only so many images in all, spread evenly over the dataset.
        start: so many of this process's images are left out, to go on where another pass stopped.

    Raises:
        DataError: an image that cannot be read, named by file or by shard and offset.
    """
    from shrinkserve.data.portable import evaluate

    workers = available_workers() if workers is None else workers
    return evaluate(dataset, preprocess, batch_size, rank=rank, world=world, workers=workers, limit=limit, start=start)


def available_workers() -> int:
    """The cores that this process may use, shared with the other ranks on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
