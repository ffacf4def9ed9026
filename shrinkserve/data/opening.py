"""Open a dataset of either layout."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.data.dataset import SPLITS, Split
from shrinkserve.data.storage.folder import FolderDataset
from shrinkserve.data.storage.shards import ShardDataset
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.paths import StrPath
from shrinkserve.preprocess.files import list_folder

SPLIT_HINT = "check the path; `shrinkserve data split` makes both splits from a folder with one folder per class"


def open_dataset(root: StrPath, split: Split) -> ShardDataset | FolderDataset:
    """Open one split of a dataset; the layout is detected.

    ```
    root/train_tfrecord/train-00000-of-01024 ...            root/train/<class>/*.jpg
    root/val_tfrecord/validation-00000-of-00128 ...         root/val/<class>/*.jpg   (or root/validation/)
    ```

    Args:
        root: the dataset's folder.
        split: "train" or "validation".

    Returns:
        A `shrinkserve.data.Dataset`.

    Raises:
        ConfigError: no such split.
        DataError: neither layout, a missing or damaged shard, an empty folder, or an unknown class.

    Example::

        dataset = open_dataset("data/digits", "validation")
        print(len(dataset), dataset.classes, dataset.record(0).label)
    """
    if split not in SPLITS:
        raise ConfigError("split", expected=" or ".join(SPLITS), found=repr(split))
    root = Path(root)
    if not root.is_dir():
        if root.exists():
            raise DataError(f"{root}: a file", expected="a folder with a dataset", hint="unpack it if it is an archive")
        raise DataError(f"{root}: no such folder", hint="make a dataset, e.g. `shrinkserve data digits DIR`")
    try:
        for kind in (ShardDataset, FolderDataset):
            if (folder := kind.find(root, split)) is not None:
                return kind(root, split, folder)
    except PermissionError as exc:
        raise _unreadable(exc) from exc
    layouts = f"{ShardDataset.layout(split)} or {FolderDataset.layout(split)}"
    raise DataError(f"{root}: no {split} images", expected=layouts, found=_listing(root), hint=SPLIT_HINT)


def has_split(root: Path, split: Split) -> bool:
    """Return True if the dataset has this split in either layout; raise `DataError` if it cannot be read."""
    try:
        return any(kind.find(root, split) is not None for kind in (ShardDataset, FolderDataset))
    except PermissionError as exc:
        raise _unreadable(exc) from exc


def _unreadable(error: PermissionError) -> DataError:
    return DataError(f"{error.filename}: cannot be read ({error.strerror})", hint="check its permissions")


def _listing(root: Path) -> str:
    names = [path.name for path in list_folder(root)]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "an empty folder"
