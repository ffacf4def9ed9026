"""What a run will take, before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from shrinkserve import arch
from shrinkserve.arch.counts import count
from shrinkserve.arch.spec import Spec
from shrinkserve.config import Recipe
from shrinkserve.data import open_dataset, train_loader
from shrinkserve.training.loop import agreed_classes

MOMENTS = {"rmsprop": 2, "sgd": 1, "adamw": 2}
"""Values an optimiser keeps for each weight."""
FORWARD_SHARE = 1 / 3
"""A backward pass costs twice its forward pass, so an evaluated image costs a third of a trained one."""


@dataclass(frozen=True)
class TrainingPlan:
    """A run in figures.

    Attributes:
        processes: of the run.
        training_images: of the dataset.
        validation_images: of the dataset.
        classes: number of logits.
        total_batch: images an update, over all processes.
        steps_an_epoch: updates.
        steps: updates of the whole run.
        peak_rate: the highest learning rate.
        parameters: trained values.
        state_bytes: memory a process for weights, gradients, optimiser and EMA.
        activation_bytes: memory a process for what the backward pass needs of one batch.
        hours: of the run, at the given speed; None without one.
    """

    processes: int
    training_images: int
    validation_images: int
    classes: int
    total_batch: int
    steps_an_epoch: int
    steps: int
    peak_rate: float
    parameters: int
    state_bytes: int
    activation_bytes: int
    hours: float | None


def plan_training(
    recipe: Recipe, data: Path, *, processes: int = 1, images_per_second: float | None = None
) -> TrainingPlan:
    """Work out what a run takes.

    Args:
        recipe: the run.
        data: root of the dataset.
        processes: one a GPU, over all nodes.
        images_per_second: training speed of one process, as ``--profile`` measures it.

    Raises:
        ConfigError, SpecError, DataError: what would also stop the run.
    """
    training, validation = open_dataset(data, "train"), open_dataset(data, "validation")
    classes = agreed_classes(recipe, training, validation)
    spec = arch.from_recipe(recipe.model, len(classes))
    steps = len(train_loader(training, recipe, world=processes)) // recipe.train.accumulate
    total_batch = recipe.train.batch_size * recipe.train.accumulate * processes
    epochs, parameters = recipe.schedule.epochs, sum(count(spec).parameters.values())
    evaluations = -(-epochs // recipe.train.evaluate_every)
    work = epochs * steps * total_batch + evaluations * len(validation) * FORWARD_SHARE
    return TrainingPlan(
        processes=processes,
        training_images=len(training),
        validation_images=len(validation),
        classes=len(classes),
        total_batch=total_batch,
        steps_an_epoch=steps,
        steps=steps * epochs,
        peak_rate=recipe.optimizer.lr * total_batch / recipe.optimizer.reference_batch,
        parameters=parameters,
        # weights, gradients and EMA, and what the optimiser keeps
        state_bytes=4 * parameters * (3 + MOMENTS[recipe.optimizer.name]),
        activation_bytes=activation_bytes(spec, recipe),
        hours=None if images_per_second is None else work / (images_per_second * processes) / 3600,
    )


def activation_bytes(spec: Spec, recipe: Recipe) -> int:
    """What the backward pass of one batch needs: what each operation reads, or for ReLU what it gives.

    So the answer of a batch norm is kept only where an activation that needs what it read follows.
    """
    values = 0
    for operation in count(spec).operations:
        followers = [spec.nodes[name] for name in spec.successors(operation.name)]
        needed = any(follower.get("function") == "silu" for follower in followers)
        if operation.kind != "batch_norm" or needed:
            values += math.prod(operation.shape)
    return values * (4 if recipe.train.precision == "float32" else 2) * recipe.train.batch_size
