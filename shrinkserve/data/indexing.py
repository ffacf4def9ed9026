"""Write the index files of a dataset's shards."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.data.dataset import SPLITS
from shrinkserve.data.storage.index import WrittenIndex, write_index
from shrinkserve.data.storage.shards import ShardDataset
from shrinkserve.data.storage.tfrecord import Shard
from shrinkserve.errors import DataError
from shrinkserve.paths import StrPath


def index_dataset(root: StrPath) -> list[WrittenIndex]:
    """Write the index files of all shards, in DALI's format. Opening a dataset writes those that are absent.

    Args:
        root: the dataset's folder.

    Returns:
        One entry for each split that is there.

    Raises:
        DataError: no shards, or a damaged one.
        ArtifactError: the index cannot be written.

    Example::

        for index in index_dataset("data/imagenet"):
            print(index.folder, index.records)
    """
    root = Path(root)
    folders = [(split, folder) for split in SPLITS if (folder := ShardDataset.find(root, split))]
    if not folders:
        expected = ShardDataset.layout("train")
        raise DataError(f"{root}: no shards to index", expected=expected, hint="check the path")
    found = []
    for split, folder in folders:
        shards = [Shard.scan(path) for path in ShardDataset.files(folder, split)]
        for shard in shards:
            write_index(shard)
        found.append(WrittenIndex(folder / "index", len(shards), sum(map(len, shards))))
    return found
