"""Open a dataset of any kind."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.data.dataset import Dataset, Split
from shrinkserve.errors import DataError


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
        raise DataError(f"{root}: no such folder", hint="make one, e.g. `shrinkserve data digits DIR`")
    for kind in (ShardDataset, FolderDataset):
        if (folder := kind.find(root, split)) is not None:
            return kind(root, split, folder)
    layouts = f"{ShardDataset.layout(split)} or {FolderDataset.layout(split)}"
    raise DataError(f"{root}: no {split} images", expected=layouts, found=_listing(root), hint="check the path")


def _listing(root: Path) -> str:
    names = sorted(p.name for p in root.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "an empty folder"
