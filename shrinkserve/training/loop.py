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

from shrinkserve.arch.serialise import to_dict
from shrinkserve.artifact import Card
from shrinkserve.config import Recipe
from shrinkserve.errors import ArtifactError, ConfigError, DataError, ShrinkServeError
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.training import checkpoints, provenance, snapshot
from shrinkserve.training.checkpoints import TrainingSnapshot
from shrinkserve.training.display import duration
from shrinkserve.training.distributed import DistContext
from shrinkserve.training.events import Callback, EventKind, StepFigures, TrainEvent
from shrinkserve.training.finish import write_result
from shrinkserve.training.initial import initialise, read_initial
from shrinkserve.training.inputs import class_weights, open_inputs
from shrinkserve.training.logs import MetricsLog
from shrinkserve.training.metrics import Evaluation, evaluate_network
from shrinkserve.training.prefetch import on_device
from shrinkserve.training.run_folder import RunFolder
from shrinkserve.training.schedule import learning_rate
from shrinkserve.training.signals import StopRequest, Watchdog
from shrinkserve.training.state import Position, RunState
from shrinkserve.training.teacher import Teacher
from shrinkserve.training.train_state import TrainState, device_name

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
        self.recipe, self.folder, self.ranks = recipe, folder, ranks
        self._callback, self._stop, self._watchdog = callback, stop, watchdog
        self.inputs = open_inputs(recipe, data, rank=ranks.rank, world=ranks.world)
        self.total_batch, self.steps = self.inputs.total_batch, self.inputs.steps
        balanced = recipe.train.class_weights == "balanced"
        weights = class_weights(self.inputs.training) if balanced else None
        self.state = TrainState(self.inputs.spec, self.inputs.recipe, ranks, class_weights=weights)
        self.parents: dict[str, str] = {}
        self.teacher: Teacher | None = None
        self.position = Position(world=ranks.world)
        self.checkpoints = folder.out / checkpoints.FOLDER
        self._began = time.monotonic()

    def initialise(self, source: Path) -> None:
        """Begin with the weights of another run.

        Raises:
            ArtifactError: no such weights, or damaged ones.
            ConfigError: the weights are of another network.
        """
        initial, networks = read_initial(source), (self.state.network, self.state.ema.network)
        report = initialise(networks, self.inputs.spec, initial, self.inputs.classes, str(source))
        self.parents = initial.parents
        self.say(f"{source}: {report}")

    def learn_from(self, source: str | Path | Predictor) -> None:
        """Learn from a teacher as well.

        Raises:
            ArtifactError: no such teacher.
            ConfigError: the teacher has other classes, or the recipe asks for a CUDA graph.
        """
        if self.recipe.train.cuda_graph:
            raise ConfigError("train.cuda_graph: does not work with a teacher", hint="remove the key")
        self.teacher = Teacher(source, self.inputs.classes, self.ranks.device)
        self.say(f"teacher: {self.teacher.name}")

    def resume(self) -> bool:
        """Continue from the newest undamaged checkpoint. Writes nothing. Collective.

        Returns:
            False if there is no checkpoint.

        Raises:
            ArtifactError: the processes see different checkpoints.
            ConfigError: the checkpoint does not fit the data or the recipe.
        """
        found = checkpoints.newest(self.checkpoints, self.say)
        step = -1 if found is None else int(found[0].stem.partition("-")[2])
        if not self.ranks.agree(step):
            hint = "put --out on a disk that all machines share"
            raise ArtifactError(f"{self.folder.out}: the processes see different checkpoints", hint=hint)
        if found is None:
            return False
        path, saved = found
        state = RunState.from_dict(saved.state, str(path))
        self._check_data(state)
        teacher = self.teacher.name if self.teacher else ""
        if state.teacher != teacher:
            raise ConfigError(f"{self.folder.out}: the run has another teacher", expected=state.teacher, found=teacher)
        snapshot.check(saved.tensors, self.state, self.recipe, str(path))
        snapshot.restore(self.state, saved.tensors, self.ranks)
        snapshot.load_scaler(self.state, state.scaler, str(path))
        self.state.ema.updates = state.ema_updates
        self.position, self.parents = state.position, state.parents
        if self.position.world != self.ranks.world:
            change = f"{self.position.world} -> {self.ranks.world} processes"
            self.say(f"resuming with another total batch ({change}): not bit-identical to an unbroken run")
            self.position.world = self.ranks.world
        self.say(f"resuming {path} at step {self.position.step}, after {duration(self.position.seconds)}")
        return True

    def _check_data(self, state: RunState) -> None:
        """Check that a checkpoint was trained on this data; images in quarantine may differ."""
        out, inputs = self.folder.out, self.inputs
        changed = ["classes"] if state.classes != inputs.classes else []
        changed += [split for split, hash_ in state.data.items() if inputs.fingerprints.get(split) != hash_]
        if not state.data and state.images != len(inputs.training):  # a checkpoint of an older version
            changed.append("train")
        if changed:
            raise ConfigError(
                f"{out}: the run there has other training data (different: {', '.join(changed)})",
                hint="give --data with the images that it began with, or start a new run in another --out",
            )
        if state.images != len(inputs.training):
            self.say(
                f"resuming with {len(inputs.training)} instead of {state.images} training images (quarantine): "
                "not bit-identical to an unbroken run"
            )

    def run(self) -> Card | None:
        """Train to the last epoch, and write the weights and the card. Collective.

        Returns:
            The card on rank 0, None on the others.
        """
        out, position = self.folder.out, self.position
        if self.ranks.first:
            threads = torch.get_num_threads()
            provenance.add_start(out, device=device_name(self.ranks), processes=self.ranks.world, threads=threads)
        self.log = MetricsLog(out, position.step, position.epoch, enabled=self.ranks.first)
        self._began = time.monotonic() - position.seconds
        try:
            while position.epoch < self.recipe.schedule.epochs:
                self._epoch()
        finally:
            self.log.close()
        networks = {"ema": self.state.averaged(), "raw": self.state.network}
        metrics = {**position.figures, "epochs": position.epoch, "seconds": round(self._seconds(), 1)}
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
            self._save()  # an evaluation may take longer than a scheduler's grace period
        evaluation = self._evaluate() if due else None
        loss, top1 = self.state.running.report_epoch(self.ranks)
        figures = StepFigures(loss, top1, rate, position.images / max(position.epoch_seconds, 1e-9))
        self.log.write("epoch", position.step, position.epoch, asdict(figures))
        position.epoch, position.images, position.epoch_seconds = position.epoch + 1, 0, 0.0
        left = self._seconds() / position.epoch * (epochs - position.epoch)
        self._notify(EventKind.EPOCH, figures=figures, evaluation=evaluation, seconds_left=left)
        self._save()

    def _updates(self) -> float:
        """Run the rest of an epoch's updates. Return the last learning rate."""
        recipe, position, epoch = self.recipe, self.position, self.position.epoch
        head_only = epoch < recipe.train.head_epochs
        self.state.backbone_factor = 0.0 if head_only else recipe.optimizer.backbone_lr
        done, last = position.images // self.total_batch, 0
        first, began, before = done, time.monotonic(), position.epoch_seconds
        rate, reported = learning_rate(recipe, epoch, max(0, done - 1) / self.steps, self.total_batch), began
        batches = on_device(self.inputs.loader.epoch(epoch, start=done * recipe.train.accumulate), self.ranks.device)
        if self.teacher is not None:
            batches = self.teacher.taught(batches)
        for group in islice(chunks(batches, recipe.train.accumulate), self.steps - done):
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
                self._save()
        self._report_bad_images()
        return rate

    def _report_bad_images(self) -> None:
        """Name the images that all ranks left out in this epoch."""
        found = [line for text in self.ranks.texts("\n".join(self.inputs.loader.bad)) for line in text.splitlines()]
        if found:
            lines = [f"left out {len(found)} bad images of epoch {self.position.epoch + 1}:"]
            self.say("\n  ".join([*lines, *found[:SHOWN_BAD_IMAGES]]))
            self.log.write("data", self.position.step, self.position.epoch, {"bad_images": len(found)})

    def _report(self, done: int, rate: float, speed: float) -> None:
        """Log the updates since the last report."""
        self._check_loss()
        figures = StepFigures(*self.state.running.report(self.ranks), rate, speed)
        self._notify(EventKind.FIGURES, step=done, figures=figures)
        self.log.write("train", self.position.step, self.position.epoch, asdict(figures))

    def _check_loss(self) -> None:
        """Stop if a loss was not finite, before it is logged or a checkpoint is written."""
        if (bad := self.state.running.first_bad_step(self.ranks)) is not None:
            raise self._diverged(f"the loss is not finite at step {bad} (epoch {self.position.epoch + 1})")

    def _diverged(self, what: str) -> ShrinkServeError:
        good = checkpoints.listed(self.checkpoints)
        last = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
        return ShrinkServeError(what, hint=f"lower optimizer.lr; {last}")

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
            raise self._diverged(exc.what) from exc
        position.figures = found.figures
        if position.best is None or found.top1 > position.best[0]:
            position.best = (found.top1, position.step)
        self.log.write("validation", position.step, position.epoch, found.figures)
        return found

    def _stop_if_requested(self) -> None:
        """Stop after this update, on all ranks, if any of them got a signal."""
        # Ranks get a signal at different updates; the exchange makes all stop at the same one.
        if number := self.ranks.highest(self._stop.signal):
            path = self._save()
            self.ranks.wait()  # a scheduler may kill all processes when the first one ends
            name, step = signal.Signals(number).name, self.position.step
            self.say(f"{name}: stopped after step {step}; wrote {path}; give --resume to continue")
            raise Stopped(number)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _save(self) -> Path:
        """Write a checkpoint. Collective.

        Raises:
            ShrinkServeError: a loss or a weight is not finite.
        """
        position = self.position
        position.seconds = self._seconds()
        self._check_loss()
        if not self.state.all_finite():
            raise self._diverged(f"the weights are not finite after step {position.step}")
        tensors = snapshot.take(self.state, self.ranks)
        path = checkpoints.path_of(self.checkpoints, position.step)
        if self.ranks.first:
            state = RunState(
                position=position,
                recipe=self.recipe.to_dict(),
                classes=self.inputs.classes,
                spec=to_dict(self.inputs.spec),
                images=len(self.inputs.training),
                data=self.inputs.fingerprints,
                parents=self.parents,
                teacher=self.teacher.name if self.teacher else "",
                ema_updates=self.state.ema.updates,
                scaler=self.state.scaler.state_dict(),
            )
            checkpoints.write(self.checkpoints, position.step, TrainingSnapshot(tensors, state.to_dict()))
            best = position.best[1] if position.best else None
            checkpoints.prune(self.checkpoints, self.recipe.train.keep_checkpoints, best)
            self.folder.commit()
        self._watchdog.progress(f"the checkpoint of update {position.step}")
        return path

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


def chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Return consecutive lists of `size` items; the rest at the end is dropped."""
    while len(group := list(islice(items, size))) == size:
        yield group
