"""TFRecord shards in the ImageNet layout: ``train_tfrecord/train-00000-of-01024``, labels 1..N, 0 for background."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.data.dataset import Record, Split
from shrinkserve.data.example import Features
from shrinkserve.data.index import open_shard
from shrinkserve.data.quarantine import read_quarantine
from shrinkserve.data.tfrecord import Shard
from shrinkserve.errors import ArtifactError, DataError
from shrinkserve.text import check_class_names

LABELS = "labels.txt"
BACKGROUND = "background"
MAX_CLASSES = 100_000
PREFIXES: dict[Split, tuple[str, str]] = {
    "train": ("train_tfrecord", "train"),
    "validation": ("val_tfrecord", "validation"),
}
_NAME = re.compile(r"(?P<prefix>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def shard_name(prefix: str, number: int, count: int) -> str:
    """For example ``train-00000-of-01024``."""
    return f"{prefix}-{number:05d}-of-{count:05d}"


class ShardDataset:
    """Records of all shards of one split, in the order of the shards, without those in quarantine."""

    def __init__(self, root: Path, split: Split, folder: Path) -> None:
        self.root, self.split, self.folder = root, split, folder
        skipped = {root / path: offsets for path, offsets in read_quarantine(root).items()}
        nothing: frozenset[int] = frozenset()
        self.shards = [open_shard(path, skipped.get(path, nothing)) for path in self.files(folder, split)]
        kept = [
            np.flatnonzero(~np.isin(shard.offsets[:-1], list(skipped.get(shard.path, nothing))))
            for shard in self.shards
        ]
        self._shard = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
        self._number = np.concatenate(kept)
        if not len(self):
            raise DataError(f"{folder}: no record in its {len(self.shards)} shards", hint="pack the images again")
        self.classes = self.class_names(root)

    @classmethod
    def find(cls, root: Path, split: Split) -> Path | None:
        """The split's folder, if `root` has this layout."""
        folder = root / PREFIXES[split][0]
        return folder if folder.is_dir() else None

    @classmethod
    def files(cls, folder: Path, split: Split) -> list[Path]:
        """All shards of `folder`; see `find_shards`."""
        return find_shards(folder, PREFIXES[split][1])

    @classmethod
    def layout(cls, split: Split) -> str:
        """The layout in words, for messages."""
        folder, prefix = PREFIXES[split]
        return f"{folder}/{shard_name(prefix, 0, 0)[:-5]}NNNNN"

    @classmethod
    def class_names(cls, root: Path) -> list[str]:
        """Names in the order of the logits: from labels.txt, which is made from the records when it is absent."""
        if not (root / LABELS).exists():
            names = _names_in_records(root)
            check_class_names(names, DataError, str(root))
            with suppress(ArtifactError):  # a dataset on a read-only disk is read through each time
                write_atomic(root / LABELS, ("\n".join(names) + "\n").encode())
            return names
        return read_labels(root / LABELS)

    def __len__(self) -> int:
        return len(self._number)

    def record(self, index: int) -> Record:
        return parse_record(self.shards[self._shard[index]], int(self._number[index]), self.classes)


def parse_record(shard: Shard, number: int, classes: list[str]) -> Record:
    """Read one record.

    Raises:
        DataError: damaged, no image in it, or a label that is not one of `classes`; with shard and offset.
    """
    name = shard.where(number)
    features = Features(shard.read(number), name)
    label = features.int("image/class/label")
    if not 0 < label < len(classes):
        raise DataError(f"{name}: label", expected=f"1..{len(classes) - 1} ({LABELS})", found=label)
    return Record(features.bytes("image/encoded"), label, name)


def _names_in_records(root: Path) -> list[str]:
    """Class names as the validation records give them (ImageNet's public builder writes no list of names)."""
    split: Split = "validation" if ShardDataset.find(root, "validation") else "train"
    folder, prefix = PREFIXES[split]
    names: dict[int, str] = {}
    for path in find_shards(root / folder, prefix):
        shard = open_shard(path)
        for number in range(len(shard)):
            features = Features(shard.read(number), shard.where(number))
            label = features.int("image/class/label")
            if label not in names:
                names[label] = features.text("image/class/text") or features.text("image/class/synset")
    if not names or min(names) < 1 or max(names) > MAX_CLASSES:
        raise DataError(f"{root}: labels in the records", expected=f"1..N up to {MAX_CLASSES}", found=sorted(names)[:3])
    return [BACKGROUND, *(names.get(label) or f"class {label}" for label in range(1, max(names) + 1))]


def find_shards(folder: Path, prefix: str) -> list[Path]:
    """All shards of a split in order.

    Raises:
        DataError: none, one that is missing, or shards of two sets.
    """
    matches = [m for p in sorted(folder.iterdir()) if (m := _NAME.fullmatch(p.name)) and m["prefix"] == prefix]
    if not matches:
        raise DataError(f"{folder}: no shards", expected=f"{prefix}-00000-of-NNNNN ...", hint="check the path")
    counts = sorted({int(m["count"]) for m in matches})
    if len(counts) > 1:
        raise DataError(f"{folder}: shards of several sets", expected="one count", found=f"-of-{counts}")
    names = [shard_name(prefix, number, counts[0]) for number in range(counts[0])]
    missing = sorted(set(names) - {m.string for m in matches})
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {counts[0]} shards are missing",
            found=", ".join(missing[:3]),
            hint="fetch them",
        )
    return [folder / name for name in names]


def read_labels(path: Path) -> list[str]:
    """Class names in the order of the logits, one a line, the background first.

    Raises:
        DataError: no such file, or no text with at least two names.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read ({exc})", hint="write one class name a line") from exc
    if len(names) < 2 or not all(name.strip() for name in names):
        raise DataError(f"{path}: not a list of class names", expected="a name a line, the background first")
    return names
