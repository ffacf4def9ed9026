"""The training loaders' interface, the choice of a loader, and the evaluation batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, Protocol

import numpy as np

from shrinkserve.concurrency import ordered_map
from shrinkserve.config import Recipe
from shrinkserve.data.batch import Batch, TrainBatch
from shrinkserve.data.dataset import Dataset
from shrinkserve.data.loading.bad import with_skip_hint
from shrinkserve.data.loading.order import Indices, evaluation_order
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.machine import cores_each
from shrinkserve.preprocess import Preprocess

LoaderName = Literal["portable", "dali"]


class TrainLoader(Protocol):
    """Augmented batches. Equal (seed, epoch, rank, world) give equal batches, whatever the number of workers.

    Attributes:
        bad: messages of the bad images in the epoch so far. A batch is smaller by the bad images in it.
    """

    bad: list[str]

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on every rank."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of epoch `number` from batch `start` on.

        Raises:
            DataError: more bad images than the recipe's ``data.max_bad_fraction`` of the rank's epoch, or a loader
                process that failed.
        """
        ...


def train_loader(
    dataset: Dataset, recipe: Recipe, *, rank: int = 0, world: int = 1, colour_on_device: bool = False
) -> TrainLoader:
    """Return the loader that the recipe's ``data.loader`` names; the portable one for "auto".

    `shrinkserve.training.loader_choice` replaces "auto" by the faster loader. With DALI, `TrainBatch.images` is a torch
    tensor on this process's GPU, or an array if there is no GPU.

    Args:
        dataset: from `open_dataset`.
        recipe: the run.
        rank: this process.
        world: number of processes.
        colour_on_device: leave changes of colour to the reader, as `TrainBatch.colour`, so that the portable loader's
            cores have less to do. DALI changes the colours itself.

    Raises:
        ConfigError: DALI is requested and not installed, or RandAugment is not possible.
        DataError: fewer images than one step of all ranks needs.
    """
    workers = available_workers() if recipe.data.workers is None else recipe.data.workers
    if recipe.data.loader == "dali":
        if not dali_installed():
            what = "data.loader=dali: NVIDIA DALI is not installed"
            raise ConfigError(what, hint="pip install 'shrinkserve[dali]', or set data.loader=portable")
        if recipe.augment.rand_augment:
            raise ConfigError("augment.rand_augment: DALI's loader does not have it", hint="set data.loader=portable")
        from shrinkserve.data.loading.dali import DaliLoader

        return DaliLoader(dataset, recipe, rank=rank, world=world, workers=workers, device=_gpu())
    from shrinkserve.data.loading.portable import PortableLoader

    return PortableLoader(dataset, recipe, rank=rank, world=world, workers=workers, colour_on_device=colour_on_device)


def evaluation_batches(  # noqa: PLR0913 - all but three are options with a default
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    limit: int | None = None,
    start: int = 0,
    loader: LoaderName = "portable",
) -> Iterator[Batch]:
    """Yield every image exactly once over all ranks, in increasing order; the last batch may be smaller.

    Args:
        dataset: from `open_dataset`.
        preprocess: the network's preprocessing.
        batch_size: images per batch, at most.
        rank: this process.
        world: number of processes.
        workers: decoding threads; None for this process's share of the usable cores, 0 for none.
        limit: total number of images, spread evenly over the dataset.
        start: number of this process's images to skip, to continue an earlier pass.
        loader: "portable" gives exactly the pixels of `preprocess`. "dali" gives them on a CPU within rounding: on
            photographs the mean difference is below 0.5 of 255, and 98 % of the values differ by at most one. See
            `Preprocess.approximate_in_dali` for the filters that DALI lacks.

    Raises:
        DataError: an image that cannot be read, named by file or by shard and offset.
    """
    order = evaluation_order(len(dataset), rank=rank, world=world, limit=limit)[start:]

    def load(indices: Indices) -> Batch:
        images = np.empty((len(indices), *preprocess.shape), dtype=np.uint8)
        labels = np.empty(len(indices), dtype=np.int64)
        for position, index in enumerate(indices.tolist()):
            try:
                record = dataset.record(index)
                images[position] = preprocess.evaluate_bytes(record.encoded, record.name)
            except DataError as exc:
                raise with_skip_hint(exc) from exc
            labels[position] = record.label
        return Batch(images, labels, indices)

    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    workers = available_workers() if workers is None else workers
    if loader == "dali":
        from shrinkserve.data.loading.dali import dali_batches

        return dali_batches(dataset, preprocess, parts, workers)
    return ordered_map(load, parts, workers)


def dali_installed() -> bool:
    """Return True if NVIDIA DALI is installed; its libraries may still not load."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def _gpu() -> int | None:
    """Return the number of this process's GPU, None if there is none."""
    import torch

    return int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.is_available() else None


def available_workers() -> int:
    """Return this process's share of the usable cores, which the ranks on this machine divide evenly."""
    return cores_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
