"""The result of a run: weights, and the card that marks the run as complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save
from torch import nn

from shrinkserve.arch.code import Description, describe_network
from shrinkserve.artifact import (
    Card,
    read_card,
    recorded_command,
    recorded_path,
    sha256_file,
    tensors_sha256,
    utc_now,
    versions,
)
from shrinkserve.atomic import write_atomic
from shrinkserve.config import Recipe
from shrinkserve.runtimes.checkpoint import weights
from shrinkserve.training.run_folder.folder import RECIPE
from shrinkserve.training.run_folder.provenance import LIBRARIES, git_state


@dataclass(frozen=True)
class TrainResult(os.PathLike[str]):
    """A complete run. Functions that take the path of a run take this too.

    Attributes:
        folder: the run's folder.
        card: its card, with recipe, classes and hashes.
        top1: fraction of validation images that the EMA weights predict correctly.
        top5: fraction whose label is among the five largest logits.
        loss: mean cross-entropy on the validation split.
        seconds: time spent on the run.
        trained: False if the run was complete before.
    """

    folder: Path
    card: Card = field(repr=False)
    top1: float
    top5: float
    loss: float
    seconds: float
    trained: bool = True

    def __fspath__(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class ImportResult(os.PathLike[str]):
    """A run folder made from the weights of another program. Functions that take the path of a run take this too.

    Attributes:
        folder: the run's folder.
        tensors: number of tensors read.
        averaged: True if the source has averaged weights.
        ignored: names in the source that are no weights.
    """

    folder: Path
    tensors: int
    averaged: bool
    ignored: list[str] = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.folder)


def read_result(folder: Path, *, trained: bool, verify: bool) -> TrainResult:
    """Read the result of a complete run.

    Args:
        folder: the run's folder.
        trained: see `TrainResult`.
        verify: hash the files that the card names.

    Raises:
        ArtifactError: no complete run, or it was changed.
    """
    card = read_card(folder, "checkpoint", verify=verify)
    return result_of(folder, card, trained=trained)


def result_of(folder: Path, card: Card, *, trained: bool) -> TrainResult:
    """Return the result that a card describes."""
    top1, top5, loss, seconds = (float(card.metrics.get(name, 0.0)) for name in ("top1", "top5", "loss", "seconds"))
    return TrainResult(folder, card, top1, top5, loss, seconds, trained)


def write_result(
    out: Path,
    data: Path | None,
    spec: Description,
    recipe: Recipe,
    classes: list[str],
    networks: Mapping[str, nn.Module],
    metrics: Mapping[str, float],
    parents: Mapping[str, str] | None = None,
) -> Card:
    """Write the weights, then the card: a folder with a card is a complete run.

    Args:
        out: the run's folder.
        data: root of the dataset, the default source of sample images for exports; None: unknown.
        spec: the network.
        recipe: the run.
        classes: class names in the order of the logits.
        networks: "ema" and "raw".
        metrics: figures of the EMA weights on the validation split.
        parents: path and sha256 of the weights that the run began with.

    Raises:
        ArtifactError: cannot write a file.
    """
    files: dict[str, str] = {}
    for name, network in networks.items():
        path = out / f"{name}.safetensors"
        write_atomic(path, save(weights(network)))
        files[path.name] = sha256_file(path)
    files[RECIPE] = sha256_file(out / RECIPE)
    git = git_state()
    card = Card(
        kind="checkpoint",
        name=recipe.name,
        weights_sha256=tensors_sha256({name: t.numpy() for name, t in weights(networks["ema"]).items()}),
        files=files,
        parents=dict(parents or {}),
        preprocess=recipe.preprocess.to_dict(),
        classes=classes,
        spec=describe_network(spec),
        recipe=recipe.to_dict(),
        metrics=dict(metrics),
        details={
            "command": recorded_command(sys.argv),
            "data": recorded_path(data.resolve()) if data else "",
            "git": dict(git) if git else None,
        },
        created=utc_now(),
        versions=versions(LIBRARIES),
    )
    card.write(out)
    return card
