"""The portable training loader: worker processes on any machine.

Processes rather than threads, by measurement: two of them make 1.6 times as many 32x32 images as one, where two
threads that contend for the interpreter make fewer than one; at 224x224 they are equal, but leave the
interpreter to the training loop.
"""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np

from shrinkserve.config import Recipe
from shrinkserve.data.augment import generator
from shrinkserve.data.bad import BadImages, one_line
from shrinkserve.data.batch import Batch
from shrinkserve.data.dataset import Dataset
from shrinkserve.data.order import Indices, epoch_batches, steps_per_epoch
from shrinkserve.data.pixels import augmented
from shrinkserve.errors import DataError

_running: WeakSet[Generator[Batch, None, None]] = WeakSet()


@cache
def _stop_workers_at_exit() -> None:
    """Let the workers of epochs that nobody finished go when the program ends.

    multiprocessing would end them by the signal that they leave to their parent, and wait for ever. To be called once
    torch is there: functions run in the reverse order of their registration, and torch's would forbid the shutdown.
    """

    @atexit.register
    def stop_workers() -> None:
        for batches in list(_running):
            batches.close()


class PortableLoader:
    """Augmented batches; see `shrinkserve.data.loaders.TrainLoader`."""

    def __init__(self, dataset: Dataset, recipe: Recipe, *, rank: int, world: int, workers: int) -> None:
        self._dataset, self._recipe, self._rank, self._world, self._workers = dataset, recipe, rank, world, workers
        self._length = steps_per_epoch(dataset, recipe, world)
        self.bad: list[str] = []

    def __len__(self) -> int:
        return self._length

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        batches = self._batches(number, start)
        _running.add(batches)
        return batches

    def _batches(self, number: int, start: int) -> Generator[Batch, None, None]:
        recipe = self._recipe
        order = epoch_batches(
            len(self._dataset),
            recipe.train.batch_size,
            seed=recipe.train.seed,
            epoch=number,
            rank=self._rank,
            world=self._world,
        )
        bad = BadImages(int(recipe.data.max_bad_fraction * order.size))
        self.bad = bad.found
        for images, labels, indices, messages in self._parts(_Epoch(self._dataset, recipe, number, order), start):
            bad.add(messages)
            if not len(labels):
                raise DataError(f"every image of a batch is bad, the last: {messages[-1]}")
            yield Batch(np.asarray(images), np.asarray(labels), np.asarray(indices))

    def _parts(self, epoch: Any, start: int) -> Iterator[Any]:
        numbers = range(start, self._length)
        if self._workers == 0 or not numbers:
            yield from map(epoch.__getitem__, numbers)
            return
        import torch
        from torch.utils.data import DataLoader

        _stop_workers_at_exit()
        yield from DataLoader(
            epoch,
            batch_size=None,
            sampler=numbers,
            num_workers=min(self._workers, len(numbers)),
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            worker_init_fn=_belong_to_the_parent,
            generator=torch.Generator(),  # it draws a seed for its workers, which must not touch the trainer's stream
        )


@dataclass(frozen=True)
class _Epoch:
    """The batches of one rank's epoch by their number, as `torch.utils.data.DataLoader` takes them."""

    dataset: Dataset
    recipe: Recipe
    number: int
    order: Indices

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Any, Any, Any, list[str]]:
        """Images, labels and indices of the good images, and a message for each bad one."""
        recipe, batch = self.recipe, self.order[position]
        size = recipe.model.input_size
        images = np.empty((len(batch), size, size, 3), dtype=np.uint8)
        labels = np.empty(len(batch), dtype=np.int64)
        good: list[int] = []
        messages: list[str] = []
        for index in batch.tolist():
            rng = generator(recipe.train.seed, self.number, index)
            try:
                record = self.dataset.record(index)
                images[len(good)] = augmented(record, recipe.augment, rng, size, recipe.input.interpolation)
            except DataError as exc:
                messages.append(one_line(exc))
                continue
            labels[len(good)] = record.label
            good.append(index)
        return images[: len(good)], labels[: len(good)], np.array(good, dtype=np.int64), messages


def _belong_to_the_parent(_: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The trainer then ends its step and writes a
    # checkpoint, for which it needs its batches; it stops the workers itself, and they stop when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = _told_unless_the_parent_is_gone


def _told_unless_the_parent_is_gone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Errors of images travel to the trainer; this hook gets those of the thread that hands batches over.

    It would print a traceback for each worker whose trainer was killed while it fetched a batch, beside the one line
    that tells the user what happened.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
