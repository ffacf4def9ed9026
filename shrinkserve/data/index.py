"""Index files: where the records of a shard begin, in the format of TensorFlow's and DALI's ``tfrecord2idx``.

``<folder>/index/<shard>.idx`` holds a line ``offset size`` a record, in bytes with its frame. With it a dataset of a
thousand shards opens at once, where walking over the frames would touch every record on the disk.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.data.tfrecord import OVERHEAD, Shard
from shrinkserve.errors import ArtifactError


def index_path(shard: Path) -> Path:
    """Where the index of a shard is."""
    return shard.parent / "index" / f"{shard.name}.idx"


def open_shard(path: Path, damaged: frozenset[int] = frozenset()) -> Shard:
    """Open a shard by its index, which is made when it is absent or older than the shard.

    Args:
        path: the shard.
        damaged: offsets at which its frames are known to be damaged: what comes after one is lost.

    Raises:
        DataError: the shard is unreadable, truncated or damaged in a frame.
    """
    shard = _read_index(path)
    if shard is None:
        shard = Shard.scan(path, damaged)
        with suppress(ArtifactError):  # a dataset on a read-only disk is walked over each time
            write_index(shard)
    return shard


def write_index(shard: Shard) -> Path:
    """Write a shard's index file and return its path."""
    lines = (f"{offset} {size}\n" for offset, size in zip(shard.offsets[:-1], np.diff(shard.offsets), strict=True))
    path = index_path(shard.path)
    write_atomic(path, "".join(lines).encode())
    return path


def _read_index(path: Path) -> Shard | None:
    """The shard by its index, or None when there is none that fits."""
    index = index_path(path)
    try:
        if index.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return None
        numbers = np.array(index.read_bytes().split(), dtype=np.int64)
    except (OSError, ValueError):
        return None
    starts, sizes = numbers[::2], numbers[1::2]
    if len(starts) != len(sizes):
        return None
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if len(sizes) and not sizes.min() >= OVERHEAD:
        return None
    whole = np.array_equal(offsets[:-1], starts) and offsets[-1] == path.stat().st_size
    return Shard(path, offsets) if whole else None
