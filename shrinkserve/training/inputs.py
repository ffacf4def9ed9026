"""The inputs of a run: data, classes, network and loader, checked before anything is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from shrinkserve import arch
from shrinkserve.arch.code import CodeNetwork, Description, code_from_recipe
from shrinkserve.arch.sources import is_code
from shrinkserve.config import Recipe
from shrinkserve.data import Dataset, TrainLoader, open_dataset, train_loader
from shrinkserve.data.loaders import LoaderName
from shrinkserve.data.storage.folder import FolderDataset
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.text import check_class_names
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.recipe_checks import resolve_auto_decays


@dataclass(frozen=True)
class RunInputs:
    """Everything that a run reads.

    Attributes:
        recipe: the run's recipe, without "auto" for the decays of averages.
        training: training images.
        validation: validation images.
        classes: names in the order of the logits.
        spec: the network.
        loaders: augmented batches of one rank, by size of the images.
        total_batch: images per update, over all ranks.
        steps: updates per epoch.
        fingerprints: hash of names and labels of the images, by split.
    """

    recipe: Recipe
    training: Dataset
    validation: Dataset
    classes: list[str]
    spec: Description
    loaders: dict[int, TrainLoader]
    total_batch: int
    steps: int
    fingerprints: dict[str, str]

    def loader(self, epoch: int = 0) -> TrainLoader:
        """Return the loader of an epoch, see `schedule.sizes` of the recipe."""
        sizes = _image_sizes(self.recipe)
        return self.loaders[sizes[epoch * len(sizes) // self.recipe.schedule.epochs]]

    def with_loader(self, name: LoaderName, ranks: DistContext) -> RunInputs:
        """Return the inputs with a loader in place of the one that the recipe names.

        Raises:
            ConfigError: the loader is not installed.
        """
        if self.recipe.data.loader == name:
            return self
        recipe = replace(self.recipe, data=replace(self.recipe.data, loader=name))
        loaders = open_loaders(recipe, self.training, rank=ranks.rank, world=ranks.world, colour_on_device=ranks.on_gpu)
        return replace(self, loaders=loaders)


def open_inputs(
    recipe: Recipe, data: Path, *, rank: int = 0, world: int = 1, colour_on_device: bool = False
) -> RunInputs:
    """Open the inputs of one rank; see `train_loader` for `colour_on_device`.

    Raises:
        ConfigError: the recipe does not fit the data.
        SpecError: no such network, or one that does not fit the recipe.
        DataError: missing or damaged data, or too few images.
    """
    training, validation = open_dataset(data, "train"), open_dataset(data, "validation")
    classes = agreed_classes(recipe, training, validation)
    loaders = open_loaders(recipe, training, rank=rank, world=world, colour_on_device=colour_on_device)
    batches = len(next(iter(loaders.values())))
    steps = batches // recipe.train.accumulate
    if not steps:
        raise ConfigError("train.accumulate", expected=f"at most {batches}", found=recipe.train.accumulate)
    recipe = resolve_auto_decays(recipe, steps * recipe.schedule.epochs)
    model = recipe.model
    spec: Description = (
        code_from_recipe(model, len(classes)) if is_code(model.network) else arch.from_recipe(model, len(classes))
    )
    if isinstance(spec, CodeNetwork):
        spec.build(recipe.schedule.sizes)
    total_batch = recipe.train.batch_size * recipe.train.accumulate * world
    fingerprints = {str(dataset.split): dataset.fingerprint() for dataset in (training, validation)}
    return RunInputs(recipe, training, validation, classes, spec, loaders, total_batch, steps, fingerprints)


def open_loaders(
    recipe: Recipe, training: Dataset, *, rank: int = 0, world: int = 1, colour_on_device: bool = False
) -> dict[int, TrainLoader]:
    """Return the loader of each size of images; see `train_loader`.

    Raises:
        ConfigError, DataError: see `train_loader`.
    """
    return {
        size: train_loader(
            training,
            replace(recipe, model=replace(recipe.model, input_size=size)),
            rank=rank,
            world=world,
            colour_on_device=colour_on_device,
        )
        for size in _image_sizes(recipe)
    }


def _image_sizes(recipe: Recipe) -> tuple[int, ...]:
    """Return the sizes of the training images in the order of the epochs; one may come more than once."""
    return recipe.schedule.sizes or (recipe.model.input_size,)


def usage_lines(inputs: RunInputs) -> list[str]:
    """Return one line for each split that has skipped files or classes without images."""
    found = []
    for dataset in (inputs.training, inputs.validation):
        usage = dataset.usage()
        reasons = [f"{count} {reason}" for reason, count in usage.skipped.items()]
        parts = [f"left out {', '.join(reasons)}"] if reasons else []
        if usage.empty_classes:
            parts.append(f"no images of {', '.join(usage.empty_classes[:5])}")
        if parts:
            found.append(f"warning: {usage.split} images: {usage.used} used; {'; '.join(parts)}")
    return found


def class_weights(dataset: Dataset) -> list[float]:
    """Return the weight of each class that makes all classes count the same: images / (classes * images of the class).

    Reads all records of TFRecord shards. A class without images has weight 0.
    """
    if isinstance(dataset, FolderDataset):
        counts = [len(dataset.members(label)) for label in range(len(dataset.classes))]
    else:
        found = Counter(dataset.record(index).label for index in range(len(dataset)))
        counts = [found[label] for label in range(len(dataset.classes))]
    present = sum(count > 0 for count in counts)
    return [len(dataset) / (present * count) if count else 0.0 for count in counts]


def agreed_classes(recipe: Recipe, training: Dataset, validation: Dataset) -> list[str]:
    """Return the class names that both splits and the recipe agree on.

    Raises:
        ConfigError: they do not.
        DataError: a class name is not one line, or has control characters.
    """
    if training.classes != validation.classes:
        only = sorted({*training.classes} ^ {*validation.classes})
        difference = f"only in one of them: {', '.join(only[:5])}" if only else "another order"
        raise ConfigError(
            f"{training.root}: the training and validation splits have different classes",
            expected=f"{len(training.classes)} classes",
            found=f"{len(validation.classes)} ({difference})",
        )
    check_class_names(training.classes, DataError, str(training.root))
    if recipe.model.classes not in (None, len(training.classes)):
        raise ConfigError(
            "model.classes",
            expected=f"{len(training.classes)}, as {training.root} has",
            found=recipe.model.classes,
            hint="remove the key",
        )
    return training.classes
