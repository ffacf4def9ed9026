"""Datasets by index: TFRecord shards in the ImageNet layout, or a folder of images, whichever is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from shrinkserve.errors import DataError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Record:
    """One image as it is stored: `encoded` bytes, `label` (a position in `classes`), and what messages call it."""

    encoded: bytes
    label: int
    name: str


class Dataset(Protocol):
    """Images with labels, read by index; may be shared by threads.

    Attributes:
        root: the folder that was opened.
        split: "train" or "validation".
        classes: names in the order of the logits.
    """

    root: Path
    split: Split
    classes: list[str]

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """The image at `index`; raises `DataError` when it cannot be read or its label is not one of `classes`."""
        ...


def open_dataset(root: str | Path, split: Split) -> Dataset:
    """Open one split of a dataset; its layout is detected.

    ```
    root/train_tfrecord/train-00000-of-01024 ...            root/train/<class>/*.jpg
    root/val_tfrecord/validation-00000-of-00128 ...         root/val/<class>/*.jpg   (or root/validation/)
    ```

    Raises:
        DataError: neither layout, a missing or damaged shard, an empty folder, or an unknown class.
    """
    from shrinkserve.data.folder import FolderDataset
    from shrinkserve.data.shards import ShardDataset

    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder", do="make one, e.g. `shrinkserve data digits DIR`")
    for kind in (ShardDataset, FolderDataset):
        if (folder := kind.find(root, split)) is not None:
            return kind(root, split, folder)
    layouts = f"{ShardDataset.layout(split)} or {FolderDataset.layout(split)}"
    raise DataError(f"{root}: no {split} images", expected=layouts, found=_listing(root), do="check the path")


def _listing(root: Path) -> str:
    names = sorted(p.name for p in root.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "an empty folder"
