"""Pack images into TFRecord shards in the ImageNet layout, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import Split, SplitUsage
from shrinkserve.data.loaders import available_workers
from shrinkserve.data.packing.pack_shards import ShardPlan, write_shards
from shrinkserve.data.packing.packed_image import QUALITY, Shrink
from shrinkserve.data.packing.sources import Collection, find_sources
from shrinkserve.data.storage.shards import PREFIXES, shard_name
from shrinkserve.errors import check_range
from shrinkserve.paths import StrPath

IMAGES_PER_SHARD: dict[Split, int] = {"train": 1252, "validation": 391}
"""Gives 1024 and 128 shards for ImageNet."""


@dataclass(frozen=True)
class PackReport:
    """The result of packing.

    Attributes:
        images: packed images by split.
        shards: number of shards.
        classes: number of classes.
        bad: one message for each image that was left out because it cannot be decoded.
        usage: files of the source that were used and skipped, by split; empty for tars.
    """

    images: dict[Split, int]
    shards: int
    classes: int
    bad: list[str]
    usage: list[SplitUsage]


def pack_dataset(  # noqa: PLR0913 - the options of the command
    source: StrPath,
    target: StrPath,
    *,
    train_shards: int | None = None,
    validation_shards: int | None = None,
    max_side: int | None = None,
    quality: int = QUALITY,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack images into TFRecord shards. The same call continues after an interruption.

    Args:
        source: an image folder, or the folder of ILSVRC2012's tars.
        target: the folder of the new dataset.
        train_shards: number of shards; None for shards of the size of ImageNet's.
        validation_shards: like `train_shards`.
        max_side: shrink images whose shorter side is longer to this number of pixels, so that they decode faster; None
            keeps the bytes of every JPEG.
        quality: of the JPEGs that `max_side` writes, 1 to 100.
        skip_bad: leave out images that cannot be decoded instead of stopping.
        workers: processes; None for this process's share of the usable cores.
        progress: called with the number of finished shards and of all shards.

    Returns:
        The number of images, shards and classes, and what was left out.

    Raises:
        DataError: no images, a bad image, or a target that contains other files.
        ConfigError: an option is out of range.

    Example::

        report = pack_dataset("photos", "data/photos", train_shards=8)
        print(report.images)
    """
    check_range(1, train_shards=train_shards, validation_shards=validation_shards, max_side=max_side, workers=workers)
    check_range(1, 100, quality=quality)
    target = Path(target)
    collection = find_sources(Path(source))
    shards = plan_shards(collection, target, {"train": train_shards, "validation": validation_shards})
    workers = available_workers() if workers is None else workers
    shrink = None if max_side is None else Shrink(max_side, quality)
    bad = write_shards(collection, shards, target, workers=workers, shrink=shrink, skip_bad=skip_bad, progress=progress)
    images = {split: len(sources) for split, sources in collection.images.items()}
    return PackReport(images, len(shards), len(collection.synsets), bad, collection.usage)


def plan_shards(
    collection: Collection, target: Path, counts: dict[Split, int | None], seed: int = 0
) -> list[ShardPlan]:
    """Assign each image to a shard, shuffled, so that each shard is a fair sample.

    Args:
        collection: the images.
        target: the dataset's folder.
        counts: shards per split; None for shards of the size of ImageNet's.
        seed: seed of the order.
    """
    shards = []
    for split, sources in collection.images.items():
        count = counts[split] or -(-len(sources) // IMAGES_PER_SHARD[split])
        order = np.random.RandomState(seed).permutation(len(sources))  # numpy guarantees this stream
        folder, prefix = PREFIXES[split]
        for number, part in enumerate(np.array_split(order, min(count, len(sources)))):
            name = shard_name(prefix, number, min(count, len(sources)))
            shards.append(ShardPlan(target / folder / name, [sources[index] for index in part]))
    return shards
