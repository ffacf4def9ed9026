"""Index files: the offsets of a shard's records, in the format of TensorFlow's and DALI's ``tfrecord2idx``.

``<folder>/index/<shard>.idx`` has a line ``offset size`` for each record, in bytes including its frame. With an index
a dataset of a thousand shards opens at once; without one, opening reads every frame on the disk.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.data.storage.tfrecord import OVERHEAD, Shard
from shrinkserve.errors import ArtifactError

MAX_RATIO = 3
"""Largest size of an index, relative to its shard: the smallest record has 16 bytes, and its line at most 40."""


@dataclass(frozen=True)
class WrittenIndex:
    """The index files of one split: their folder, and the number of shards and records."""

    folder: Path
    shards: int
    records: int


def index_path(shard: Path) -> Path:
    """Return the path of a shard's index."""
    return shard.parent / "index" / f"{shard.name}.idx"


def open_shard(path: Path, damaged: frozenset[int] = frozenset()) -> Shard:
    """Open a shard with its index, which is written if it is absent or older than the shard.

    Args:
        path: the shard.
        damaged: offsets of frames that are known to be damaged; the records after one are lost.

    Raises:
        DataError: the shard is unreadable, truncated or damaged in a frame.
    """
    shard = _read_index(path)
    if shard is None:
        shard = Shard.scan(path, damaged)
        with suppress(ArtifactError):  # on a read-only disk the shard is scanned each time
            write_index(shard)
    return shard


def write_index(shard: Shard) -> Path:
    """Write a shard's index file and return its path."""
    lines = (f"{offset} {size}\n" for offset, size in zip(shard.offsets[:-1], np.diff(shard.offsets), strict=True))
    path = index_path(shard.path)
    write_atomic(path, "".join(lines).encode())
    return path


def _read_index(path: Path) -> Shard | None:
    """Return the shard as its index describes it, or None if no index fits the shard."""
    index = index_path(path)
    try:
        if index.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return None
        size = path.stat().st_size
        if index.stat().st_size > MAX_RATIO * size:
            return None
        numbers = np.array(index.read_bytes().split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError):
        return None
    starts, sizes = numbers[::2], numbers[1::2]
    if len(starts) != len(sizes) or not ((sizes >= OVERHEAD) & (sizes <= size)).all():
        return None
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    fits = np.array_equal(offsets[:-1], starts) and offsets[-1] == size
    return Shard(path, offsets) if fits else None
