"""The training loop, the same code for one process and for many.

An update depends only on the checkpoint before it and on (seed, epoch, rank, batch number), so a killed run that is
resumed ends as an unbroken one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from shrinkserve.artifact import Card
from shrinkserve.config import Recipe
from shrinkserve.errors import DataError, ShrinkServeError
from shrinkserve.training.events import Callback, EventKind, StepFigures, TrainEvent
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.processes.signals import StopRequest, Watchdog
from shrinkserve.training.run import Run
from shrinkserve.training.run_folder import checkpoints, provenance
from shrinkserve.training.run_folder.folder import RunFolder
from shrinkserve.training.run_folder.metrics_log import MetricsLog
from shrinkserve.training.run_folder.result import write_result
from shrinkserve.training.run_folder.trackers import Tracker
from shrinkserve.training.update.metrics import Evaluation, evaluate_network
from shrinkserve.training.update.prefetch import on_device
from shrinkserve.training.update.schedule import learning_rate
from shrinkserve.training.update.train_state import device_name

LOG_STEPS = 10
"""Updates between two records of the training loss. Reading it drains a GPU's queue."""

SHOWN_BAD_IMAGES = 20
"""Bad images that are named per epoch; `data verify` names all."""

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - a requested stop is not an error
    """A signal stopped the run at a checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class TrainingLoop(Run):
    """Training on one rank. The constructor checks recipe and data, and writes nothing.

    Args:
        recipe: the run.
        data: root of the dataset.
        folder: the run's folder.
        ranks: the processes of the run.
        callback: called on rank 0 for each event.
        stop: checked after each update.
        watchdog: gets a report for each update and batch.

    Raises:
        ConfigError, SpecError, DataError: the run is not possible.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        folder: RunFolder,
        ranks: DistContext,
        callback: Callback,
        stop: StopRequest,
        watchdog: Watchdog,
    ) -> None:
        super().__init__(recipe, data, folder, ranks)
        self._callback, self._stop, self._watchdog = callback, stop, watchdog

    def run(self, tracker: Tracker | None = None) -> Card | None:
        """Train to the last epoch, and write the weights and the card. Collective.

        Args:
            tracker: gets a copy of all metrics.

        Returns:
            The card on rank 0, None on the others.
        """
        out, position = self.folder.out, self.position
        if self.ranks.first:
            threads = torch.get_num_threads()
            device, loader = device_name(self.ranks), self.loader or ""
            provenance.add_start(out, device=device, processes=self.ranks.world, threads=threads, loader=loader)
        self.log = MetricsLog(out, position.step, position.epoch, enabled=self.ranks.first, tracker=tracker)
        self.began = time.monotonic() - position.seconds
        with self.log:
            while position.epoch < self.recipe.schedule.epochs:
                self._epoch()
        networks = {"ema": self.state.averaged(), "raw": self.state.network}
        metrics = {**position.figures, "epochs": position.epoch, "seconds": round(self.seconds(), 1)}
        card = None
        if self.ranks.first:
            data = self.inputs.training.root
            inputs, parents = self.inputs, self.parents | (self.teacher.parents if self.teacher else {})
            card = write_result(out, data, inputs.spec, self.recipe, inputs.classes, networks, metrics, parents)
        self.ranks.wait()
        return card

    def say(self, message: str) -> None:
        """Send a message to the callback."""
        self._notify(EventKind.MESSAGE, message=message)

    def _epoch(self) -> None:
        """Run the rest of an epoch, its evaluation and its checkpoint."""
        position, epochs = self.position, self.recipe.schedule.epochs
        rate = self._updates()
        due = (position.epoch + 1) % self.recipe.train.evaluate_every == 0 or position.epoch + 1 == epochs
        if due:
            self.save()  # an evaluation may take longer than a scheduler's grace period
        evaluation = self._evaluate() if due else None
        loss, top1 = self.state.running.report_epoch(self.ranks)
        figures = StepFigures(loss, top1, rate, position.images / max(position.epoch_seconds, 1e-9))
        self.log.write("epoch", position.step, position.epoch, asdict(figures))
        position.epoch, position.images, position.epoch_seconds = position.epoch + 1, 0, 0.0
        left = self.seconds() / position.epoch * (epochs - position.epoch)
        self._notify(EventKind.EPOCH, figures=figures, evaluation=evaluation, seconds_left=left)
        self.save()

    def _updates(self) -> float:
        """Run the rest of an epoch's updates. Return the last learning rate."""
        recipe, position, epoch = self.recipe, self.position, self.position.epoch
        head_only = epoch < recipe.train.head_epochs
        self.state.backbone_factor = 0.0 if head_only else recipe.optimizer.backbone_lr
        done, last = position.images // self.total_batch, 0
        first, began, before = done, time.monotonic(), position.epoch_seconds
        rate, reported = learning_rate(recipe, epoch, max(0, done - 1) / self.steps, self.total_batch), began
        batches = on_device(
            self.inputs.loader(epoch).epoch(epoch, start=done * recipe.train.accumulate), self.ranks.device
        )
        if self.teacher is not None:
            batches = self.teacher.taught(batches)
        for group in islice(full_groups(batches, recipe.train.accumulate), self.steps - done):
            rate = learning_rate(recipe, epoch, done / self.steps, self.total_batch)
            self.state.update(group, position.step + 1, rate)
            done, position.step, position.images = done + 1, position.step + 1, position.images + self.total_batch
            position.epoch_seconds = before + time.monotonic() - began
            self._watchdog.progress(f"update {position.step}")
            self._notify(EventKind.STEP, step=done)
            if done % LOG_STEPS == 0 or done == self.steps:
                now = time.monotonic()
                self._report(done, rate, (done - max(first, last)) * self.total_batch / (now - reported))
                last, reported = done, now
            self._stop_if_requested()
            if recipe.train.checkpoint_steps and position.step % recipe.train.checkpoint_steps == 0:
                self.save()
        self._report_bad_images()
        return rate

    def _report_bad_images(self) -> None:
        """Name the images that all ranks left out in this epoch."""
        found = [
            line
            for text in self.ranks.texts("\n".join(self.inputs.loader(self.position.epoch).bad))
            for line in text.splitlines()
        ]
        if found:
            lines = [f"left out {len(found)} bad images of epoch {self.position.epoch + 1}:"]
            self.say("\n  ".join([*lines, *found[:SHOWN_BAD_IMAGES]]))
            self.log.write("data", self.position.step, self.position.epoch, {"bad_images": len(found)})

    def _report(self, done: int, rate: float, speed: float) -> None:
        """Log the updates since the last report."""
        self.check_loss()
        figures = StepFigures(*self.state.running.report(self.ranks), rate, speed)
        self._notify(EventKind.FIGURES, step=done, figures=figures)
        self.log.write("train", self.position.step, self.position.epoch, asdict(figures))

    def _evaluate(self) -> Evaluation:
        position, recipe = self.position, self.recipe
        try:
            found = evaluate_network(
                self.state.averaged(),
                self.inputs.validation,
                recipe.preprocess,
                self.ranks,
                batch_size=recipe.train.batch_size,
                workers=recipe.data.workers,
                progress=self._watchdog.progress,
            )
        except DataError:
            raise
        except ShrinkServeError as exc:  # the checkpoint of this step has the same weights
            if self.ranks.first:
                checkpoints.path_of(self.checkpoints, position.step).unlink(missing_ok=True)
            raise self.diverged(exc.what) from exc
        position.figures = found.figures
        if position.best is None or found.top1 > position.best[0]:
            position.best = (found.top1, position.step)
        self.log.write("validation", position.step, position.epoch, found.figures)
        return found

    def _stop_if_requested(self) -> None:
        """Stop after this update, on all ranks, if any of them got a signal."""
        # Ranks get a signal at different updates; the exchange makes all stop at the same one.
        if number := self.ranks.highest(self._stop.signal):
            path = self.save()
            self.ranks.wait()  # a scheduler may kill all processes when the first one ends
            name, step = signal.Signals(number).name, self.position.step
            self.say(f"{name}: stopped after step {step}; wrote {path}; give --resume to continue")
            raise Stopped(number)

    def _notify(
        self,
        kind: EventKind,
        *,
        step: int = 0,
        figures: StepFigures | None = None,
        evaluation: Evaluation | None = None,
        seconds_left: float = 0.0,
        message: str = "",
    ) -> None:
        if self.ranks.first:
            epochs, epoch = self.recipe.schedule.epochs, self.position.epoch
            self._callback(
                TrainEvent(kind, epoch, epochs, step, self.steps, figures, evaluation, seconds_left, message)
            )


def full_groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Return consecutive lists of `size` items; the rest at the end is dropped."""
    while len(group := list(islice(items, size))) == size:
        yield group
