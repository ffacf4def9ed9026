"""Evaluation of trained weights: of a run, or of one checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from shrinkserve.config import parse_recipe
from shrinkserve.confusion import ClassFigures, Confusion, ConfusionCell, class_figures, worst_confusions
from shrinkserve.data import open_dataset
from shrinkserve.errors import DataError
from shrinkserve.paths import StrPath
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, chosen, restore_module
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.run_state import RunState
from shrinkserve.training.run_folder.snapshot import by_owner
from shrinkserve.training.update.metrics import Evaluation, evaluate_network


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and what it expects.

    Attributes:
        network: in evaluation mode.
        classes: names in the order of the logits.
        preprocess: of evaluation images.
    """

    network: nn.Module
    classes: list[str]
    preprocess: Preprocess


@dataclass(frozen=True)
class EvaluationResult(Evaluation):
    """Figures over a validation split, with the names of the classes.

    Attributes:
        images: number of images.
        loss: mean cross-entropy.
        top1: fraction of correct predictions.
        top5: fraction whose label is among the five largest logits.
        confusion: int64 [classes, classes], images by label (row) and prediction (column).
        classes: names in the order of the logits.
    """

    classes: list[str] = field(repr=False)

    def confusions(self, count: int = 10) -> list[Confusion]:
        """Return the `count` most frequent wrong predictions."""
        return worst_confusions(self.classes, self.cells(), count)

    def per_class(self) -> list[ClassFigures]:
        """Return precision, recall, F1 and support of each class, in the order of the logits."""
        return class_figures(self.classes, self.cells())

    def cells(self) -> list[ConfusionCell]:
        """Return the cells of the confusion matrix that have images."""
        found = self.confusion.nonzero().tolist()
        return [ConfusionCell(row, column, int(self.confusion[row, column])) for row, column in found]

    def to_dict(self) -> dict[str, object]:
        """Return plain data with the complete confusion matrix."""
        per_class = [asdict(one) for one in self.per_class()]
        return {**self.figures, "per_class": per_class, "classes": self.classes, "confusion": self.confusion.tolist()}


def evaluate(source: StrPath, data: StrPath, weights: str = "ema") -> EvaluationResult:
    """Evaluate trained weights on the validation split, on this machine's GPU if it has one.

    Args:
        source: a run's folder or a ``checkpoints/step-*.safetensors``.
        data: root of the dataset.
        weights: "ema", which are exported, or "raw", the last ones of the optimiser.

    Returns:
        The figures.

    Raises:
        ArtifactError: not a run or a checkpoint.
        ConfigError: no such weights.
        DataError: no validation images, or other classes than the network has.
        ShrinkServeError: the loss is not finite.

    Example:
        >>> import shrinkserve as ss
        >>> ss.evaluate("runs/digits", data="data").top1  # doctest: +SKIP
        0.978
    """
    source = Path(source)
    trained = open_trained(source, weights)
    dataset = open_dataset(data, "validation")
    if dataset.classes != trained.classes:
        raise DataError(
            f"{data}: other classes than {source} was trained for",
            expected=f"{len(trained.classes)} ({', '.join(trained.classes[:3])}, ...)",
            found=f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])}, ...)",
            hint="a folder has no class 'background', packed records have: see `shrinkserve data pack`",
        )
    with join() as ranks:
        found = evaluate_network(trained.network.to(ranks.device), dataset, trained.preprocess, ranks)
    return EvaluationResult(**vars(found), classes=dataset.classes)


def open_trained(source: Path, weights: str) -> TrainedNetwork:
    """Open a run folder or one ``checkpoints/step-*.safetensors``.

    Raises:
        ArtifactError: neither, or damaged.
    """
    if source.is_dir():
        run = Checkpoint(source, weights, run_code=True)
        return TrainedNetwork(run.module, run.classes, run.preprocess)
    owner = "ema" if chosen(weights) == "ema" else "model"
    snapshot = checkpoints.read(source)
    state = RunState.from_dict(snapshot.state, str(source))
    tensors = {name: tensor.numpy() for name, tensor in by_owner(snapshot.tensors)[owner].items()}
    preprocess = parse_recipe(state.recipe, str(source)).preprocess
    return TrainedNetwork(restore_module(state.spec, tensors, str(source), run_code=True), state.classes, preprocess)
