"""A run on one rank: its inputs, state and position, and its checkpoints."""

from __future__ import annotations

import time
from pathlib import Path

from shrinkserve.arch.code import describe_network, is_timm
from shrinkserve.config import Recipe
from shrinkserve.data.loaders import LoaderName
from shrinkserve.errors import ArtifactError, ConfigError, ShrinkServeError
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.training.display import duration
from shrinkserve.training.events import Callback, EventKind, StepFigures, TrainEvent
from shrinkserve.training.initial import apply_initial, read_initial, read_pretrained
from shrinkserve.training.inputs import class_weights, open_inputs
from shrinkserve.training.loader_choice import choose_loader
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.run_folder import checkpoints, snapshot
from shrinkserve.training.run_folder.checkpoints import TrainingSnapshot
from shrinkserve.training.run_folder.folder import RunFolder
from shrinkserve.training.run_folder.run_state import Position, RunState
from shrinkserve.training.update.metrics import Evaluation
from shrinkserve.training.update.teacher import Teacher
from shrinkserve.training.update.train_state import TrainState


class Run:
    """State of a run on one rank: what it reads, its weights and its progress. The constructor writes nothing.

    `shrinkserve.training.loop` trains it.

    Args:
        recipe: the run.
        data: root of the dataset.
        folder: the run's folder.
        ranks: the processes of the run.
        callback: called on rank 0 for each event.

    Raises:
        ConfigError, SpecError, DataError: the run is not possible.

    Attributes:
        inputs: data, classes, network and loader.
        state: weights, optimiser and averages.
        position: progress.
        parents: path and sha256 of the weights that the run began with.
        teacher: for distillation, or None.
        loader: the loader of the run; None until a checkpoint or `choose_loader` has named it.
        began: monotonic time at which the run would have started without interruptions.
    """

    def __init__(self, recipe: Recipe, data: Path, folder: RunFolder, ranks: DistContext, callback: Callback) -> None:
        self.recipe, self.folder, self.ranks, self._callback = recipe, folder, ranks, callback
        self.inputs = open_inputs(recipe, data, rank=ranks.rank, world=ranks.world, colour_on_device=ranks.on_gpu)
        self.total_batch, self.steps = self.inputs.total_batch, self.inputs.steps
        balanced = recipe.train.class_weights == "balanced"
        weights = class_weights(self.inputs.training) if balanced else None
        self.state = TrainState(self.inputs.spec, self.inputs.recipe, ranks, class_weights=weights)
        self.parents: dict[str, str] = {}
        self.teacher: Teacher | None = None
        self.loader: LoaderName | None = None
        self.position = Position(world=ranks.world)
        self.checkpoints = folder.out / checkpoints.FOLDER
        self.began = time.monotonic()

    def say(self, message: str) -> None:
        """Send a message to the callback."""
        self.notify(EventKind.MESSAGE, message=message)

    def notify(
        self,
        kind: EventKind,
        *,
        step: int = 0,
        figures: StepFigures | None = None,
        evaluation: Evaluation | None = None,
        seconds_left: float = 0.0,
        message: str = "",
    ) -> None:
        """Send an event to the callback on rank 0; see `TrainEvent` for the arguments."""
        if self.ranks.first:
            epochs, epoch = self.recipe.schedule.epochs, self.position.epoch
            self._callback(
                TrainEvent(kind, epoch, epochs, step, self.steps, figures, evaluation, seconds_left, message)
            )

    def initialise(self, source: str | None) -> None:
        """Begin with the weights of another run, or else with timm's pretrained ones if the recipe asks for them.

        Raises:
            ArtifactError: no such weights, or damaged ones.
            ConfigError: the weights are of another network.
            SpecError: timm's weights cannot be loaded.
        """
        model = self.recipe.model
        if source is not None:
            initial = read_initial(Path(source))
        elif model.pretrained and is_timm(model.network):
            source, initial = model.network, read_pretrained(model.network, model.input_size)
        else:
            return
        networks = (self.state.network, self.state.ema.network)
        classes, seed = self.inputs.classes, self.recipe.train.seed
        report = apply_initial(networks, self.inputs.spec, initial, classes, source, seed)
        self.parents = initial.parents
        self.say(f"{source}: {report}")

    def learn_from(self, source: StrPath | Predictor) -> None:
        """Learn from a teacher as well.

        Raises:
            ArtifactError: no such teacher.
            ConfigError: the teacher has other classes, or the recipe asks for a CUDA graph or ignores the teacher.
        """
        if self.recipe.distill.weight == 0:
            raise ConfigError("distill.weight", expected="above 0 with a teacher", found=0)
        if self.recipe.train.cuda_graph is True:
            raise ConfigError("train.cuda_graph: does not work with a teacher", hint="remove the key")
        self.teacher = Teacher(source, self.inputs.classes, self.ranks.device)
        self.say(f"teacher: {self.teacher.name}")

    def choose_loader(self) -> None:
        """Settle ``data.loader=auto``: the loader of the checkpoint, or else the faster one. Collective.

        Raises:
            ConfigError: the loader of the checkpoint is not installed.
        """
        if self.recipe.data.loader == "auto" and self.loader is not None:
            self.say(f"loader: {self.loader} (as before)")
        else:
            self.loader = choose_loader(self.recipe, self.inputs.training, self.ranks, self.say)
        self.inputs = self.inputs.with_loader(self.loader, self.ranks)

    def resume(self) -> bool:
        """Continue from the newest undamaged checkpoint. Writes nothing. Collective.

        Returns:
            False if there is no checkpoint.

        Raises:
            ArtifactError: the processes see different checkpoints.
            ConfigError: the checkpoint does not fit the data or the recipe.
        """
        found = checkpoints.newest(self.checkpoints, self.say)
        step = -1 if found is None else checkpoints.step_of(found[0])
        if not self.ranks.agree(step):  # machines without a shared disk
            hint = "put --out on a disk that all machines share"
            raise ArtifactError(f"{self.folder.out}: the processes see different checkpoints", hint=hint)
        if found is None:
            return False
        path, saved = found
        state = RunState.from_dict(saved.state, str(path))
        self._check_data(state)
        teacher = self.teacher.name if self.teacher else ""
        if state.teacher != teacher:
            raise ConfigError(
                f"{self.folder.out}: the run has another teacher",
                expected=state.teacher or "none",
                found=teacher or "none",
                hint="give --teacher as at the start",
            )
        snapshot.check(saved.tensors, self.state, self.recipe, str(path))
        snapshot.restore(self.state, saved.tensors, self.ranks)
        snapshot.load_scaler(self.state, state.scaler, str(path))
        self.state.ema.updates = state.ema_updates
        self.position, self.parents, self.loader = state.position, state.parents, state.loader
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

    def check_loss(self) -> None:
        """Stop if a loss was not finite, before it is logged or a checkpoint is written."""
        if (bad := self.state.running.first_bad_step(self.ranks)) is not None:
            raise self.diverged(f"the loss is not finite at step {bad} (epoch {self.position.epoch + 1})")

    def diverged(self, what: str) -> ShrinkServeError:
        """Return the error for values that are not finite, with the last good checkpoint."""
        good = checkpoints.listed(self.checkpoints)
        last = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
        return ShrinkServeError(what, hint=f"lower optimizer.lr; {last}")

    def seconds(self) -> float:
        """Return the time spent on the run, over all processes that worked on it."""
        return time.monotonic() - self.began

    def save(self) -> Path:
        """Write a checkpoint. Collective.

        Raises:
            ShrinkServeError: a loss or a weight is not finite.
        """
        position = self.position
        position.seconds = self.seconds()
        self.check_loss()
        if not self.state.all_finite():
            raise self.diverged(f"the weights are not finite after step {position.step}")
        tensors = snapshot.take(self.state, self.ranks)
        path = checkpoints.path_of(self.checkpoints, position.step)
        if self.ranks.first:
            state = RunState(
                position=position,
                recipe=self.recipe.to_dict(),
                classes=self.inputs.classes,
                spec=describe_network(self.inputs.spec),
                images=len(self.inputs.training),
                data=self.inputs.fingerprints,
                parents=self.parents,
                teacher=self.teacher.name if self.teacher else "",
                loader=self.loader,
                ema_updates=self.state.ema.updates,
                scaler=self.state.scaler.state_dict(),
            )
            checkpoints.write(self.checkpoints, position.step, TrainingSnapshot(tensors, state.to_dict()))
            best = position.best[1] if position.best else None
            checkpoints.prune(self.checkpoints, self.recipe.train.keep_checkpoints, best)
            self.folder.commit()
        return path
