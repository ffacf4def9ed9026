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
from typing import TypeVar

import torch

from shrinkserve.artifact import Card
from shrinkserve.errors import DataError, ShrinkServeError
from shrinkserve.training.events import EventKind, StepFigures
from shrinkserve.training.processes.signals import StopRequest, Watchdog
from shrinkserve.training.run import Run
from shrinkserve.training.run_folder import checkpoints, provenance
from shrinkserve.training.run_folder.metrics_log import MetricsLog
from shrinkserve.training.run_folder.result import write_result
from shrinkserve.training.run_folder.trackers import Tracker
from shrinkserve.training.update.metrics import Evaluation, evaluate_network
from shrinkserve.training.update.prefetch import DeviceBatch, on_device
from shrinkserve.training.update.schedule import learning_rate

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


class TrainingLoop:
    """The epochs of a run on one rank.

    Args:
        run: the run, with its initial weights or those of a checkpoint.
        stop: checked after each update.
        watchdog: gets a report for each update and batch.
        tracker: gets a copy of all metrics.
    """

    def __init__(self, run: Run, stop: StopRequest, watchdog: Watchdog, tracker: Tracker | None = None) -> None:
        self._run, self._stop, self._watchdog, self._tracker = run, stop, watchdog, tracker

    def train(self) -> Card | None:
        """Train to the last epoch, and write the weights and the card. Collective.

        Returns:
            The card on rank 0, None on the others.
        """
        run, out, position = self._run, self._run.folder.out, self._run.position
        if run.ranks.first:
            threads = torch.get_num_threads()
            device, loader = run.ranks.device_name, run.loader or ""
            provenance.add_start(out, device=device, processes=run.ranks.world, threads=threads, loader=loader)
        self._log = MetricsLog(out, position.step, position.epoch, enabled=run.ranks.first, tracker=self._tracker)
        run.began = time.monotonic() - position.seconds
        with self._log:
            while position.epoch < run.recipe.schedule.epochs:
                self._epoch()
        networks = {"ema": run.state.averaged(), "raw": run.state.network}
        metrics = {**position.figures, "epochs": position.epoch, "seconds": round(run.seconds(), 1)}
        card = None
        if run.ranks.first:
            inputs, parents = run.inputs, run.parents | (run.teacher.parents if run.teacher else {})
            data = inputs.training.root
            card = write_result(out, data, inputs.spec, run.recipe, inputs.classes, networks, metrics, parents)
        run.ranks.wait()
        return card

    def _epoch(self) -> None:
        """Run the rest of an epoch, its evaluation and its checkpoint."""
        run, position, epochs = self._run, self._run.position, self._run.recipe.schedule.epochs
        rate = self._updates()
        due = (position.epoch + 1) % run.recipe.train.evaluate_every == 0 or position.epoch + 1 == epochs
        if due:
            run.save()  # an evaluation may take longer than a scheduler's grace period
        evaluation = self._evaluate() if due else None
        loss, top1 = run.state.running.report_epoch(run.ranks)
        figures = StepFigures(loss, top1, rate, position.images / max(position.epoch_seconds, 1e-9))
        self._log.write("epoch", position.step, position.epoch, asdict(figures))
        position.epoch, position.images, position.epoch_seconds = position.epoch + 1, 0, 0.0
        left = run.seconds() / position.epoch * (epochs - position.epoch)
        run.notify(EventKind.EPOCH, figures=figures, evaluation=evaluation, seconds_left=left)
        run.save()

    def _updates(self) -> float:
        """Run the rest of an epoch's updates. Return the last learning rate."""
        run, position = self._run, self._run.position
        recipe, epoch, steps, total_batch = run.recipe, position.epoch, run.steps, run.total_batch
        run.state.backbone_factor = 0.0 if epoch < recipe.train.head_epochs else recipe.optimizer.backbone_lr
        done = reported = position.images // total_batch
        began = reported_at = time.monotonic()
        seconds_before = position.epoch_seconds
        # A run that was killed in the evaluation resumes with no update left.
        rate = learning_rate(recipe, epoch, max(0, done - 1) / steps, total_batch)
        for group in islice(self._groups(done), steps - done):
            rate = learning_rate(recipe, epoch, done / steps, total_batch)
            run.state.update(group, position.step + 1, rate)
            done, position.step, position.images = done + 1, position.step + 1, position.images + total_batch
            now = time.monotonic()
            position.epoch_seconds = seconds_before + now - began
            self._watchdog.progress(f"update {position.step}")
            run.notify(EventKind.STEP, step=done)
            if done % LOG_STEPS == 0 or done == steps:
                self._report(done, rate, (done - reported) * total_batch / (now - reported_at))
                reported, reported_at = done, now
            self._stop_if_requested()
            if recipe.train.checkpoint_steps and position.step % recipe.train.checkpoint_steps == 0:
                run.save()
        self._report_bad_images()
        return rate

    def _groups(self, done: int) -> Iterator[list[DeviceBatch]]:
        """Yield the batches of each update of the epoch, after the first `done` updates."""
        run, epoch, accumulate = self._run, self._run.position.epoch, self._run.recipe.train.accumulate
        batches = on_device(run.inputs.loader(epoch).epoch(epoch, start=done * accumulate), run.ranks.device)
        return full_groups(batches if run.teacher is None else run.teacher.taught(batches), accumulate)

    def _report_bad_images(self) -> None:
        """Name the images that all ranks left out in this epoch."""
        run, position = self._run, self._run.position
        texts = run.ranks.texts("\n".join(run.inputs.loader(position.epoch).bad))
        if found := [line for text in texts for line in text.splitlines()]:
            title = f"left out {len(found)} bad images of epoch {position.epoch + 1}:"
            run.say("\n  ".join([title, *found[:SHOWN_BAD_IMAGES]]))
            self._log.write("data", position.step, position.epoch, {"bad_images": len(found)})

    def _report(self, done: int, rate: float, speed: float) -> None:
        """Log the updates since the last report."""
        run = self._run
        run.check_loss()
        figures = StepFigures(*run.state.running.report(run.ranks), rate, speed)
        run.notify(EventKind.FIGURES, step=done, figures=figures)
        self._log.write("train", run.position.step, run.position.epoch, asdict(figures))

    def _evaluate(self) -> Evaluation:
        run, position, recipe = self._run, self._run.position, self._run.recipe
        try:
            found = evaluate_network(
                run.state.averaged(),
                run.inputs.validation,
                recipe.preprocess,
                run.ranks,
                batch_size=recipe.train.batch_size,
                workers=recipe.data.workers,
                progress=self._watchdog.progress,
            )
        except DataError:
            raise
        except ShrinkServeError as exc:  # the checkpoint of this step has the same weights
            if run.ranks.first:
                checkpoints.path_of(run.checkpoints, position.step).unlink(missing_ok=True)
            raise run.diverged(exc.what) from exc
        position.figures = found.figures
        if position.best is None or found.top1 > position.best[0]:
            position.best = (found.top1, position.step)
        self._log.write("validation", position.step, position.epoch, found.figures)
        return found

    def _stop_if_requested(self) -> None:
        """Stop after this update, on all ranks, if any of them got a signal."""
        run = self._run
        # Ranks get a signal at different updates; the exchange makes all stop at the same one.
        if number := run.ranks.highest(self._stop.signal):
            path = run.save()
            run.ranks.wait()  # a scheduler may kill all processes when the first one ends
            name, step = signal.Signals(number).name, run.position.step
            run.say(f"{name}: stopped after step {step}; wrote {path}; give --resume to continue")
            raise Stopped(number)


def full_groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Return consecutive lists of `size` items; the rest at the end is dropped."""
    while len(group := list(islice(items, size))) == size:
        yield group
