"""The training loop.

One code path for a process and for many: read the batch, update, log, and at the end of an epoch evaluate the EMA
weights and write a checkpoint. Everything that the next update depends on is in the checkpoint, and a batch
depends only on (seed, epoch, rank, number), so that a run which was killed ends as if it never had been.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from shrinkserve import arch
from shrinkserve.arch.serialise import to_dict
from shrinkserve.arch.spec import Spec
from shrinkserve.artifact import CARD, Card, read_card
from shrinkserve.config import Recipe
from shrinkserve.data import Dataset, TrainLoader, open_dataset, train_loader
from shrinkserve.errors import ArtifactError, ConfigError, DataError, ShrinkServeError
from shrinkserve.text import check_class_names
from shrinkserve.training import checkpoints, run_folder
from shrinkserve.training.checkpoints import TrainingSnapshot
from shrinkserve.training.distributed import DistContext, StopRequest, join
from shrinkserve.training.logs import Log
from shrinkserve.training.metrics import Evaluation, evaluate
from shrinkserve.training.progress import Display, duration
from shrinkserve.training.schedule import learning_rate
from shrinkserve.training.train_state import TrainState, environment

LOG_STEPS = 10
"""Updates between two records of the training loss; reading it makes a GPU's queue run empty."""

SHOWN_BAD_IMAGES = 20
"""So many are named each epoch; `data verify` names all."""

T = TypeVar("T")


@dataclass
class Position:
    """How far a run is.

    Attributes:
        step: updates so far.
        epoch: the epoch that is worked on, from 0.
        images: images of that epoch that all ranks have seen.
        seconds: time spent, over all processes that worked on the run one after the other.
        best: top-1 of the best epoch and the step at its end.
        world: number of processes.
        figures: of the last evaluation.
    """

    step: int = 0
    epoch: int = 0
    images: int = 0
    seconds: float = 0.0
    best: tuple[float, int] | None = None
    world: int = 1
    figures: dict[str, float] = field(default_factory=dict)


class Stopped(Exception):  # noqa: N818 - what was asked for is not an error
    """A signal ended the run at a checkpoint; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_changes: bool = False,
) -> Card:
    """Train a network and write its run folder.

    Args:
        recipe: the run.
        data: root of the dataset.
        out: the run's folder.
        resume: go on with the run that is in `out`; begin where there is none.
        overwrite: begin again where a run is in `out`.
        allow_changes: resume although the recipe is another one.

    Returns:
        The run's card, with the figures of the EMA weights on the validation split.

    Raises:
        Stopped: SIGTERM or SIGINT came; a checkpoint was written.
        ConfigError, SpecError, DataError, ArtifactError: what a person can mend.
    """
    with join(recipe.train.threads) as ranks, StopRequest() as stop:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
        torch.use_deterministic_algorithms(recipe.train.deterministic)
        torch.backends.cudnn.benchmark = not recipe.train.deterministic
        run = _Run(recipe, data, out, ranks, stop)  # before the folder is touched: what cannot run leaves no trace
        if ranks.first:
            run_folder.prepare(out, recipe, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
        ranks.wait()
        if (out / CARD).is_file():
            return read_card(out, "checkpoint")
        return run.complete()


class _Run:
    """What the parts of one run share on one rank."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, ranks: DistContext, stop: StopRequest) -> None:
        self.recipe, self.out, self.ranks, self.stop = recipe, out, ranks, stop
        self.training, self.validation = open_dataset(data, "train"), open_dataset(data, "validation")
        self.classes = agreed_classes(recipe, self.training, self.validation)
        self.spec: Spec = arch.from_recipe(recipe.model, len(self.classes))
        self.loader: TrainLoader = train_loader(self.training, recipe, rank=ranks.rank, world=ranks.world)
        self.total_batch = recipe.train.batch_size * recipe.train.accumulate * ranks.world
        self.steps = len(self.loader) // recipe.train.accumulate
        if not self.steps:
            raise ConfigError("train.accumulate", expected=f"at most {len(self.loader)}", found=recipe.train.accumulate)
        self.learner = TrainState(self.spec, recipe, ranks)
        self.position = Position(world=ranks.world)
        self.checkpoints = out / checkpoints.FOLDER

    def complete(self) -> Card:
        """Train to the last epoch and write the run's weights and card."""
        with Display(self.recipe.schedule.epochs, self.steps, shown=self.ranks.first) as self.display:
            self._resume()
            if self.ranks.first:
                run_folder.note_environment(self.out, environment(self.ranks))
            self.log = Log(self.out, self.position.step, self.position.epoch, enabled=self.ranks.first)
            self._began = time.monotonic() - self.position.seconds
            try:
                while self.position.epoch < self.recipe.schedule.epochs:
                    self._epoch()
            finally:
                self.log.close()
        networks = {"ema": self.learner.averaged(), "raw": self.learner.network}
        metrics = {**self.position.figures, "epochs": self.position.epoch, "seconds": round(self._seconds(), 1)}
        if self.ranks.first:
            run_folder.finish(self.out, self.training.root, self.spec, self.recipe, self.classes, networks, metrics)
        self.ranks.wait()
        return read_card(self.out, "checkpoint")

    def _epoch(self) -> None:
        """The rest of one epoch, its evaluation and its checkpoint."""
        position, epochs = self.position, self.recipe.schedule.epochs
        figures = self._updates()
        due = (position.epoch + 1) % self.recipe.train.evaluate_every == 0 or position.epoch + 1 == epochs
        if due:
            self._save()  # an evaluation may take longer than what a scheduler grants
        evaluation = self._evaluate() if due else None
        position.epoch, position.images = position.epoch + 1, 0
        left = self._seconds() / position.epoch * (epochs - position.epoch)
        self.display.epoch(position.epoch, figures, evaluation, left)
        self._save()

    def _updates(self) -> dict[str, float]:
        """The rest of an epoch's updates and their figures; none where only the evaluation is left."""
        recipe, position, epoch = self.recipe, self.position, self.position.epoch
        done, began, last = position.images // self.total_batch, time.monotonic(), (0, time.monotonic())
        first, figures = done, dict[str, float]()
        batches = self.loader.epoch(epoch, start=done * recipe.train.accumulate)
        for group in islice(chunks(batches, recipe.train.accumulate), self.steps - done):
            rate = learning_rate(recipe, epoch, done / self.steps, self.total_batch)
            self.learner.update(group, position.step + 1, rate)
            done, position.step, position.images = done + 1, position.step + 1, position.images + self.total_batch
            self.display.step(epoch, done)
            if done % LOG_STEPS == 0 or done == self.steps:
                now = time.monotonic()
                speed = (done - max(first, last[0])) * self.total_batch / (now - last[1])
                figures, last = self._report(rate, speed), (done, now)
            self._heed_stop()
            if recipe.train.checkpoint_steps and position.step % recipe.train.checkpoint_steps == 0:
                self._save()
        if figures:
            figures["images_per_second"] = (done - first) * self.total_batch / (time.monotonic() - began)
        self._report_bad_images()
        return figures

    def _report_bad_images(self) -> None:
        """Name the images that this epoch's updates did without, on all ranks."""
        found = [line for text in self.ranks.texts("\n".join(self.loader.bad)) for line in text.splitlines()]
        if found:
            self.display.say(f"left out {len(found)} bad images of epoch {self.position.epoch + 1}:")
            for line in found[:SHOWN_BAD_IMAGES]:
                self.display.say(f"  {line}")
            self.log.write("data", self.position.step, self.position.epoch, {"bad_images": len(found)})

    def _report(self, rate: float, speed: float) -> dict[str, float]:
        """Log the steps since the last report."""
        self._refuse_bad_loss()
        loss, top1 = self.learner.running.report(self.ranks)
        self.display.training(loss, top1, speed)
        figures = {"loss": loss, "top1": top1, "learning_rate": rate, "images_per_second": speed}
        self.log.write("train", self.position.step, self.position.epoch, figures)
        return figures

    def _refuse_bad_loss(self) -> None:
        """Stop where a loss was not finite, before it is logged or written as a good checkpoint."""
        if (bad := self.learner.running.first_bad_step(self.ranks)) is not None:
            good = checkpoints.listed(self.checkpoints)
            raise ShrinkServeError(
                f"the loss is not finite at step {bad} (epoch {self.position.epoch + 1})",
                hint=f"lower optimizer.lr; the last good checkpoint is {good[-1] if good else 'none'}",
            )

    def _evaluate(self) -> Evaluation:
        position, recipe = self.position, self.recipe
        found = evaluate(
            self.learner.averaged(),
            self.validation,
            recipe.preprocess,
            self.ranks,
            batch_size=recipe.train.batch_size,
            workers=recipe.data.workers,
        )
        position.figures = found.figures
        if position.best is None or found.top1 > position.best[0]:
            position.best = (found.top1, position.step)
        self.log.write("validation", position.step, position.epoch, found.figures)
        return found

    def _heed_stop(self) -> None:
        """End at this step, on all ranks, when a signal came to any of them."""
        # Ranks hear of a signal at different steps; the exchange makes it the same one.
        if number := self.ranks.highest(self.stop.signal):
            path = self._save()
            self.display.say(
                f"{signal.Signals(number).name}: stopped after step {self.position.step}; wrote {path}; "
                "give --resume to go on"
            )
            raise Stopped(number)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _save(self) -> Path:
        """Write a checkpoint; every rank must call it."""
        self.position.seconds = self._seconds()
        self._refuse_bad_loss()
        snapshot = self.learner.snapshot()
        path = checkpoints.path_of(self.checkpoints, self.position.step)
        if self.ranks.first:
            state = {
                **snapshot.state,
                "position": asdict(self.position),
                "recipe": self.recipe.to_dict(),
                "classes": self.classes,
                "images": len(self.training),
                "spec": to_dict(self.spec),
            }
            checkpoints.write(self.checkpoints, self.position.step, TrainingSnapshot(snapshot.tensors, state))
            best = self.position.best[1] if self.position.best else None
            checkpoints.prune(self.checkpoints, self.recipe.train.keep_checkpoints, best)
        return path

    def _resume(self) -> None:
        """Go on from the newest checkpoint that is whole, if there is one; the same on every rank."""
        found = checkpoints.newest(self.checkpoints, self.display.say)
        step = -1 if found is None else int(found[1].state["position"]["step"])
        if self.ranks.highest(step) != -self.ranks.highest(-step):
            raise ArtifactError(
                f"{self.out}: the processes see different checkpoints", hint="put --out on a shared disk"
            )
        if found is None:
            return
        path, snapshot = found
        if snapshot.state["classes"] != self.classes or snapshot.state["images"] != len(self.training):
            raise ConfigError(f"{self.out}: the run there has other training data", hint="name the data it began with")
        self.learner.restore(snapshot, str(path))
        self.position = Position(**snapshot.state["position"])
        if self.position.world != self.ranks.world:
            change = f"{self.position.world} -> {self.ranks.world} processes"
            self.display.say(f"resuming with another total batch ({change}): not bit-identical to an unbroken run")
            self.position.world = self.ranks.world
        self.display.say(f"resuming {path} at step {self.position.step}, after {duration(self.position.seconds)}")


def agreed_classes(recipe: Recipe, training: Dataset, validation: Dataset) -> list[str]:
    """The class names that both splits and the recipe agree on.

    Raises:
        ConfigError: they do not.
        DataError: a class name that is more than one line or contains control characters.
    """
    if training.classes != validation.classes:
        raise ConfigError(f"{training.root}: the training and validation splits have different classes")
    check_class_names(training.classes, DataError, str(training.root))
    if recipe.model.classes not in (None, len(training.classes)):
        raise ConfigError(
            "model.classes",
            expected=f"{len(training.classes)}, as {training.root} has",
            found=recipe.model.classes,
            hint="leave the key out",
        )
    return training.classes


def chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items; what is left at the end is dropped."""
    while len(group := list(islice(items, size))) == size:
        yield group


def restarted() -> bool:
    """Whether torchrun started this process again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
