"""Which image goes where: the order of an epoch, and each rank's part of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shrinkserve.config import Recipe
from shrinkserve.data.dataset import Dataset
from shrinkserve.errors import DataError

Indices = npt.NDArray[np.int64]


def steps_per_epoch(dataset: Dataset, recipe: Recipe, world: int) -> int:
    """Whole batches that each of `world` ranks gets in an epoch.

    Raises:
        DataError: not even one.
    """
    steps = len(dataset) // (recipe.train.batch_size * world)
    if not steps:
        raise DataError(
            f"{dataset.root}: too few training images for one step",
            expected=f"at least {recipe.train.batch_size} x {world} processes",
            found=len(dataset),
            hint="set a smaller train.batch_size",
        )
    return steps


def epoch_batches(count: int, batch_size: int, *, seed: int, epoch: int, rank: int, world: int) -> Indices:
    """The batches of one rank in one epoch: int64 [batches, batch_size].

    A permutation of all images by `(seed, epoch)`, cut into steps of ``world * batch_size`` images. The ranks of a
    step are neighbours, so that the union over ranks does not depend on their number. The images left
    after the last whole step are other ones in each epoch.
    """
    steps = count // (batch_size * world)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch)))).permutation(count)
    return order[: steps * world * batch_size].reshape(steps, world, batch_size)[:, rank]


def evaluation_order(count: int, *, rank: int, world: int, limit: int | None = None) -> Indices:
    """The images of one rank in increasing order; over all ranks every image once.

    Args:
        count: images in the dataset.
        rank: this process.
        world: number of processes.
        limit: only so many images in all, spread evenly over the dataset, as folders are sorted by class.
    """
    if limit is None or limit >= count:
        return np.arange(rank, count, world)
    return np.arange(rank, limit, world) * count // limit
