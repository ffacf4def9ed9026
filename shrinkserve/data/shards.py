"""TFRecord shards in the ImageNet layout: ``train_tfrecord/train-00000-of-01024``, labels 1..N, 0 for background."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import Record, Split
from shrinkserve.data.example import Features
from shrinkserve.data.tfrecord import Shard
from shrinkserve.errors import DataError

LABELS = "labels.txt"
BACKGROUND = "background"
PREFIXES: dict[Split, tuple[str, str]] = {
    "train": ("train_tfrecord", "train"),
    "validation": ("val_tfrecord", "validation"),
}
_NAME = re.compile(r"(?P<prefix>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def shard_name(prefix: str, number: int, count: int) -> str:
    """For example ``train-00000-of-01024``."""
    return f"{prefix}-{number:05d}-of-{count:05d}"


class ShardDataset:
    """Records of all shards of one split, in the order of the shards."""

    def __init__(self, root: Path, split: Split, folder: Path) -> None:
        self.root, self.split, self.folder = root, split, folder
        self.shards = [Shard.scan(path) for path in find_shards(folder, PREFIXES[split][1])]
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        if not len(self):
            raise DataError(f"{folder}: no record in its {len(self.shards)} shards", do="pack the images again")
        self.classes = read_labels(root / LABELS)

    @classmethod
    def find(cls, root: Path, split: Split) -> Path | None:
        """The split's folder, if `root` has this layout."""
        folder = root / PREFIXES[split][0]
        return folder if folder.is_dir() else None

    @classmethod
    def layout(cls, split: Split) -> str:
        """The layout in words, for messages."""
        folder, prefix = PREFIXES[split]
        return f"{folder}/{shard_name(prefix, 0, 0)[:-5]}NNNNN"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def record(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        within = index - int(self._ends[number]) + len(shard)
        name = shard.where(within)
        features = Features(shard.read(within), name)
        label = features.int("image/class/label")
        if not 0 < label < len(self.classes):
            raise DataError(
                f"{name}: label", expected=f"1..{len(self.classes) - 1} ({LABELS})", found=label, do="check that file"
            )
        return Record(features.bytes("image/encoded"), label, name)


def find_shards(folder: Path, prefix: str) -> list[Path]:
    """All shards of a split in order.

    Raises:
        DataError: none, one that is missing, or shards of two sets.
    """
    matches = [m for p in sorted(folder.iterdir()) if (m := _NAME.fullmatch(p.name)) and m["prefix"] == prefix]
    if not matches:
        raise DataError(f"{folder}: no shards", expected=f"{prefix}-00000-of-NNNNN ...", do="check the path")
    counts = sorted({int(m["count"]) for m in matches})
    if len(counts) > 1:
        raise DataError(f"{folder}: shards of several sets", expected="one count", found=f"-of-{counts}")
    names = [shard_name(prefix, number, counts[0]) for number in range(counts[0])]
    missing = sorted(set(names) - {m.string for m in matches})
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {counts[0]} shards are missing", found=", ".join(missing[:3]), do="fetch them"
        )
    return [folder / name for name in names]


def read_labels(path: Path) -> list[str]:
    """Class names in the order of the logits, one a line, the background first.

    Raises:
        DataError: no such file, or no text with at least two names.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise DataError(f"{path}: cannot be read ({fault})", do="write one class name a line") from fault
    if len(names) < 2 or not all(name.strip() for name in names):
        raise DataError(f"{path}: not a list of class names", expected="a name a line, the background first")
    return names
