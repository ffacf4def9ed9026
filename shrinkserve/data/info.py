"""What a dataset is, without reading all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import SPLITS, Split
from shrinkserve.data.folder import FolderDataset
from shrinkserve.data.opening import open_dataset
from shrinkserve.data.order import evaluation_order
from shrinkserve.data.quarantine import read_quarantine
from shrinkserve.data.shards import ShardDataset
from shrinkserve.preprocess import decode

SAMPLE = 100


@dataclass(frozen=True)
class SplitInfo:
    """One split.

    Attributes:
        split: "train" or "validation".
        layout: "TFRecord" or "image folder".
        files: shards, or image files.
        images: without those in quarantine.
        quarantined: entries of the skip list.
        classes: logits of a network for it.
        median_bytes: of an encoded image, from a sample.
        median_size: width and height in pixels, from the same sample.
    """

    split: Split
    layout: str
    files: int
    images: int
    quarantined: int
    classes: int
    median_bytes: int
    median_size: tuple[int, int]


def describe_dataset(root: Path) -> list[SplitInfo]:
    """Each split that is there; raises `DataError` when none is, or one is damaged."""
    present = [s for s in SPLITS if any(kind.find(root, s) for kind in (ShardDataset, FolderDataset))]
    return [_describe(root, split) for split in present or SPLITS]


def _describe(root: Path, split: Split) -> SplitInfo:
    dataset = open_dataset(root, split)
    sharded = isinstance(dataset, ShardDataset)
    sample = [dataset.record(i) for i in evaluation_order(len(dataset), rank=0, world=1, limit=SAMPLE).tolist()]
    sizes = np.median([decode(record.encoded, record.name).size for record in sample], axis=0)
    folder = (ShardDataset if sharded else FolderDataset).find(root, split)
    own = [path for path in read_quarantine(root) if folder and (root / path).is_relative_to(folder)]
    return SplitInfo(
        split=split,
        layout="TFRecord" if sharded else "image folder",
        files=len(dataset.shards) if isinstance(dataset, ShardDataset) else len(dataset),
        images=len(dataset),
        quarantined=sum(len(read_quarantine(root)[path]) for path in own),
        classes=len(dataset.classes),
        median_bytes=int(np.median([len(record.encoded) for record in sample])),
        median_size=(int(sizes[0]), int(sizes[1])),
    )
