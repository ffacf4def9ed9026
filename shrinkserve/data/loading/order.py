"""The order of images in an epoch, and each rank's part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shrinkserve.config import Recipe
from shrinkserve.data.dataset import Dataset
from shrinkserve.errors import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The full batches of one rank; `len` is their number in an epoch, the same on every rank.

    Attributes:
        count: images in the dataset.
        batch_size: images per batch.
        seed: the recipe's ``train.seed``.
        rank: this process.
        world: number of processes.
    """

    count: int
    batch_size: int
    seed: int
    rank: int
    world: int

    @classmethod
    def of(cls, dataset: Dataset, recipe: Recipe, rank: int, world: int) -> EpochOrder:
        """Return the order of a run.

        Raises:
            DataError: there is not even one batch for each rank.
        """
        order = cls(len(dataset), recipe.train.batch_size, recipe.train.seed, rank, world)
        if not len(order):
            raise DataError(
                f"{dataset.root}: too few training images for one step",
                expected=f"at least {order.batch_size} x {world} processes",
                found=len(dataset),
                hint="set a smaller train.batch_size",
            )
        return order

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world)

    def batches(self, epoch: int) -> Indices:
        """Return the images of each batch of an epoch: int64 [batches, batch_size].

        All images are permuted by `(seed, epoch)` and divided into steps of ``world * batch_size`` images. The ranks
        take neighbouring parts of a step, so a step's images do not depend on the number of ranks. The images after
        the last full step are left out; they differ from epoch to epoch.
        """
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, epoch))))
        order = rng.permutation(self.count)[: len(self) * self.world * self.batch_size]
        return order.reshape(len(self), self.world, self.batch_size)[:, self.rank]


def evaluation_order(count: int, *, rank: int, world: int, limit: int | None = None) -> Indices:
    """Return the images of one rank in increasing order. All ranks together have every image once.

    Args:
        count: images in the dataset.
        rank: this process.
        world: number of processes.
        limit: total number of images, spread evenly over the dataset, because folders are sorted by class.
    """
    if limit is None or limit >= count:
        return np.arange(rank, count, world)
    return np.arange(rank, limit, world) * count // limit
