"""Plan a run: updates, memory and hours, before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from shrinkserve.arch.code import CodeNetwork, Description
from shrinkserve.arch.counts import Counts, count
from shrinkserve.arch.spec import Spec
from shrinkserve.arch.traced import count_code
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.data import Dataset
from shrinkserve.errors import ConfigError, check_range
from shrinkserve.machine import cores_each
from shrinkserve.paths import StrPath
from shrinkserve.training.inputs import open_inputs
from shrinkserve.training.loader_choice import known_choice
from shrinkserve.training.recipe_checks import warnings_of
from shrinkserve.training.update.network import precision_of

MOMENTS = {"rmsprop": 2, "sgd": 1, "adamw": 2}
"""Values that an optimiser keeps for each weight."""
FORWARD_SHARE = 1 / 3
"""Cost of an evaluated image, in trained images: a backward pass costs twice its forward pass."""

LOADER_SPEED = 416
"""Images/s of one core with the portable loader, 500x375 JPEG files to 224x224 (docs/measurements/training.md)."""


@dataclass(frozen=True)
class TrainingPlan:
    """Figures of a run that has not started.

    Attributes:
        processes: of the run.
        training_images: of the dataset.
        validation_images: of the dataset.
        classes: number of logits.
        total_batch: images per update, over all processes.
        steps_an_epoch: updates per epoch.
        steps: updates of the run.
        peak_rate: the highest learning rate.
        parameters: trained values.
        state_bytes: memory per process for weights, gradients, optimiser and EMA.
        activation_bytes: memory per process that the backward pass of one batch needs.
        hours: of the run at the given speed; None without one.
        loader: of the training images; for "auto" what it stands for, if that is known.
        loader_cores: cores per process that the portable loader needs for the given speed; None without one.
        warnings: why the run cannot work well, with the keys to change.
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
    loader: str
    loader_cores: int | None
    warnings: list[str]


def plan_training(
    recipe: Recipe | StrPath, data: StrPath, *, nproc: int = 1, images_per_second: float | None = None
) -> TrainingPlan:
    """Plan a run: ``train --plan``. Trains nothing.

    Args:
        recipe: the run, or what `load_recipe` takes.
        data: root of the dataset.
        nproc: processes, one per GPU, over all machines.
        images_per_second: training speed of one process, as ``--profile`` measures it.

    Returns:
        The figures.

    Raises:
        ConfigError, SpecError, DataError: the run is not possible.

    Example:
        >>> import shrinkserve as ss
        >>> ss.plan_training("shrinkcnn-a", "/data/imagenet", nproc=8).steps  # doctest: +SKIP
        375300
    """
    check_range(1, nproc=nproc)
    if images_per_second is not None and not images_per_second > 0:
        raise ConfigError("images_per_second", expected="above 0", found=images_per_second)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    inputs = open_inputs(recipe, Path(data), world=nproc)
    epochs, parameters = recipe.schedule.epochs, parameter_count(inputs.spec)
    evaluations = -(-epochs // recipe.train.evaluate_every)
    work = epochs * inputs.steps * inputs.total_batch + evaluations * len(inputs.validation) * FORWARD_SHARE
    return TrainingPlan(
        processes=nproc,
        training_images=len(inputs.training),
        validation_images=len(inputs.validation),
        classes=len(inputs.classes),
        total_batch=inputs.total_batch,
        steps_an_epoch=inputs.steps,
        steps=inputs.steps * epochs,
        peak_rate=recipe.optimizer.lr * inputs.total_batch / recipe.optimizer.reference_batch,
        parameters=parameters,
        # weights, gradients and EMA, and the optimiser's state
        state_bytes=4 * parameters * (3 + MOMENTS[recipe.optimizer.name]),
        activation_bytes=activation_bytes(inputs.spec, recipe),
        hours=None if images_per_second is None else work / (images_per_second * nproc) / 3600,
        loader=_loader(recipe, inputs.training, nproc),
        loader_cores=None if images_per_second is None else math.ceil(images_per_second / LOADER_SPEED),
        warnings=warnings_of(recipe, inputs.steps * epochs),
    )


def _loader(recipe: Recipe, training: Dataset, nproc: int) -> str:
    """Return the loader of a run. Measures nothing."""
    if recipe.data.loader != "auto":
        return recipe.data.loader
    known = known_choice(recipe, training, cores_each(nproc))
    return f"auto, {known}" if known else "auto, measured when the run begins"


def counted(spec: Description) -> Counts:
    """Return the costs of a network."""
    return count_code(spec) if isinstance(spec, CodeNetwork) else count(spec)


def parameter_count(spec: Description) -> int:
    """Return the number of trained values."""
    return sum(counted(spec).parameters.values())


def activation_bytes(spec: Description, recipe: Recipe) -> int:
    """Return the memory that the backward pass of one batch needs: the input of each operation, the output of ReLU.

    The output of a batch norm is kept only if an activation that needs its input follows. For a network that is code
    all outputs count.
    """
    values = counted(spec).activations if isinstance(spec, CodeNetwork) else kept_values(spec)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return values * precision_of(recipe, device).itemsize * recipe.train.batch_size


def kept_values(spec: Spec) -> int:
    """Return the number of values that the backward pass of one image needs."""
    values = 0
    for operation in count(spec).operations:
        followers = [spec.nodes[name] for name in spec.successors(operation.name)]
        needed = any(follower.get("function") == "silu" for follower in followers)
        if operation.kind != "batch_norm" or needed:
            values += math.prod(operation.shape)
    return values
