"""Figures of weights that were trained: a run's, or one checkpoint's."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from shrinkserve.config import parse_recipe
from shrinkserve.data import open_dataset
from shrinkserve.errors import ArtifactError, DataError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, chosen, restore
from shrinkserve.training import checkpoints
from shrinkserve.training.distributed import join
from shrinkserve.training.metrics import Evaluation, evaluate


@dataclass(frozen=True)
class Trained:
    """A network with what it expects: class names in the order of the logits, and the preprocessing."""

    network: nn.Module
    classes: list[str]
    preprocess: Preprocess


def open_trained(source: Path, weights: str) -> Trained:
    """Open a run folder or one ``checkpoints/step-*.safetensors``.

    Raises:
        ArtifactError: neither, or damaged.
    """
    if source.is_dir():
        run = Checkpoint(source, weights)
        return Trained(run.module, run.classes, run.preprocess)
    snapshot = checkpoints.read(source)
    prefix = "ema." if chosen(weights) == "ema" else "model."
    tensors = {name[len(prefix) :]: t.numpy() for name, t in snapshot.tensors.items() if name.startswith(prefix)}
    try:
        spec, classes, recipe = (snapshot.state[key] for key in ("spec", "classes", "recipe"))
    except KeyError as exc:
        raise ArtifactError(f"{source}: not a checkpoint of a run (no {exc})") from exc
    return Trained(restore(spec, tensors, str(source)), classes, parse_recipe(recipe, str(source)).preprocess)


def evaluate_source(source: Path, data: Path, weights: str) -> tuple[Evaluation, list[str]]:
    """Figures on the validation split, and the class names; on this machine's GPU where there is one.

    Raises:
        ArtifactError: not a run or a checkpoint.
        DataError: no validation images, or other classes than the network has.
    """
    trained = open_trained(source, weights)
    dataset = open_dataset(data, "validation")
    if dataset.classes != trained.classes:
        raise DataError(
            f"{data}: other classes than {source} was trained for",
            expected=f"{len(trained.classes)} ({', '.join(trained.classes[:3])}, ...)",
            found=f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])}, ...)",
        )
    with join() as ranks:
        return evaluate(trained.network.to(ranks.device), dataset, trained.preprocess, ranks), dataset.classes


def confusions(evaluation: Evaluation, classes: list[str], count: int) -> list[tuple[str, str, int]]:
    """The `count` most frequent errors: label, answer, images."""
    wrong = evaluation.confusion.clone().fill_diagonal_(0)
    pairs = [(int(n), row, column) for row, line in enumerate(wrong.tolist()) for column, n in enumerate(line) if n]
    worst = heapq.nsmallest(count, pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(classes[row], classes[column], n) for n, row, column in worst]
