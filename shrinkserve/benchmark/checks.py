"""Checks of a measurement before it starts."""

from __future__ import annotations

from shrinkserve.benchmark.load.plan import LoadPlan
from shrinkserve.benchmark.targets.discover import BenchStages
from shrinkserve.data import Dataset
from shrinkserve.data.storage.records import BACKGROUND
from shrinkserve.errors import ConfigError, DataError


def check_batches(loads: LoadPlan, stages: BenchStages) -> None:
    """Check before the measurement that the server accepts the largest batch.

    Raises:
        ConfigError: it does not.
    """
    largest, most = max(loads.batches, default=1), stages.max_batch_size
    if stages.served is not None and largest > most:
        hint = "export the model with a larger --max-batch, or use a smaller --batch"
        raise ConfigError("--batch", expected=f"at most {most} images, the server's largest", found=largest, hint=hint)


def check_classes(dataset: Dataset, stages: BenchStages) -> None:
    """Refuse a dataset with other classes or another order, whose labels would not fit the predictions.

    Names in another language (synsets instead of words) do not define an order; then only the number is compared.

    Raises:
        DataError: the classes differ.
    """
    theirs, ours = list(dataset.classes), list(stages.classes)
    expected, found = f"{len(ours)} classes", f"{len(theirs)}"
    if len(theirs) == len(ours):
        known = set(theirs)
        pairs = enumerate(zip(ours, theirs, strict=True))
        number = next((n for n, (one, other) in pairs if one != other and one in known), None)
        if number is None:
            return
        expected, found = f"class {number} to be {ours[number]!r}", f"{theirs[number]!r}"
    what = f"{dataset.root}: its classes are not those of model {stages.model}"
    hint = "name the dataset that the model was trained on"
    if ours[0] == BACKGROUND and len(ours) == len(theirs) + 1:
        hint = f"add the background class: run `shrinkserve data pack {dataset.root} DIR` and use DIR"
    raise DataError(what, expected=expected, found=found, hint=hint)
