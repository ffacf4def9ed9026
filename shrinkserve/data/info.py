"""Describe a dataset without reading all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import SPLITS, Split, SplitUsage
from shrinkserve.data.loading.order import evaluation_order
from shrinkserve.data.opening import has_split, open_dataset
from shrinkserve.data.storage.folder import FolderDataset
from shrinkserve.data.storage.shards import ShardDataset
from shrinkserve.paths import StrPath
from shrinkserve.preprocess import decode

SAMPLE = 100


@dataclass(frozen=True)
class SplitInfo:
    """Figures of a split.

    Attributes:
        split: "train" or "validation".
        layout: "TFRecord" or "image folder".
        files: number of shards, or of image files.
        images: number of images without those in quarantine.
        quarantined: entries of the skip list.
        classes: logits of a network for this dataset.
        median_bytes: median size of an encoded image, of a sample.
        median_size: median width and height in pixels, of the same sample.
        usage: images used and skipped.
    """

    split: Split
    layout: str
    files: int
    images: int
    quarantined: int
    classes: int
    median_bytes: int
    median_size: tuple[int, int]
    usage: SplitUsage


def describe_dataset(root: StrPath) -> list[SplitInfo]:
    """Describe each split of a dataset.

    Args:
        root: the dataset's folder.

    Returns:
        One entry for each split that is there.

    Raises:
        DataError: no dataset, or a damaged one.

    Example::

        for split in describe_dataset("data/digits"):
            print(split.split, split.images, split.usage.skipped)
    """
    root = Path(root)
    present = [split for split in SPLITS if has_split(root, split)]
    return [_describe(open_dataset(root, split)) for split in present or SPLITS]


def _describe(dataset: ShardDataset | FolderDataset) -> SplitInfo:
    sample = [dataset.record(i) for i in evaluation_order(len(dataset), rank=0, world=1, limit=SAMPLE).tolist()]
    width, height = np.median([decode(record.encoded, record.name).size for record in sample], axis=0)
    usage = dataset.usage()
    return SplitInfo(
        split=dataset.split,
        layout="TFRecord" if isinstance(dataset, ShardDataset) else "image folder",
        files=len(dataset.shards) if isinstance(dataset, ShardDataset) else len(dataset),
        images=len(dataset),
        quarantined=usage.skipped.get("in quarantine", 0),
        classes=len(dataset.classes),
        median_bytes=int(np.median([len(record.encoded) for record in sample])),
        median_size=(int(width), int(height)),
        usage=usage,
    )
