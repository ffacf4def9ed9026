"""TFRecord shards in the ImageNet layout: ``train_tfrecord/train-00000-of-01024``, labels 1..N, 0 for background."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.data.dataset import SPLITS, Record, Split, SplitUsage
from shrinkserve.data.storage.index import open_shard
from shrinkserve.data.storage.names import read_class_list
from shrinkserve.data.storage.quarantine import read_quarantine
from shrinkserve.data.storage.records import names_in_records, parse_record
from shrinkserve.data.storage.tfrecord import HINT, Shard
from shrinkserve.errors import ArtifactError, DataError
from shrinkserve.preprocess.files import list_folder
from shrinkserve.text import check_class_names

LABELS = "labels.txt"
PREFIXES: dict[Split, tuple[str, str]] = {
    "train": ("train_tfrecord", "train"),
    "validation": ("val_tfrecord", "validation"),
}


def shard_name(prefix: str, number: int, count: int) -> str:
    """Return a shard's file name, for example ``train-00000-of-01024``."""
    return f"{prefix}-{number:05d}-of-{count:05d}"


class ShardDataset:
    """Records of all shards of one split, in the order of the shards, without those in quarantine."""

    split: Split  # pyright infers str from the assignment

    def __init__(self, root: Path, split: Split, folder: Path) -> None:
        """Open the split whose shards are in `folder`."""
        self.root, self.split, self.folder = root, split, folder
        excluded = _excluded(root)
        self.shards = [open_shard(path, excluded[path]) for path in self.files(folder, split)]
        for shard in self.shards:
            if not len(shard) and not excluded[shard.path]:
                raise DataError("empty shard", where=shard.name, expected="at least one record", hint=HINT)
        kept = [np.flatnonzero(~np.isin(shard.offsets[:-1], list(excluded[shard.path]))) for shard in self.shards]
        self._shard = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
        self._number = np.concatenate(kept)
        self._quarantined = sum(len(excluded[shard.path]) for shard in self.shards)
        if not len(self):
            raise DataError(f"{folder}: no record in its {len(self.shards)} shards", hint="pack the images again")
        self.classes = self.class_names(root)

    @classmethod
    def find(cls, root: Path, split: Split) -> Path | None:
        """Return the split's folder, None if `root` does not have this layout."""
        folder = root / PREFIXES[split][0]
        return folder if folder.is_dir() else None

    @classmethod
    def files(cls, folder: Path, split: Split) -> list[Path]:
        """Return all shards in `folder`; see `find_shards`."""
        return find_shards(folder, PREFIXES[split][1])

    @classmethod
    def layout(cls, split: Split) -> str:
        """Return the layout for messages."""
        folder, prefix = PREFIXES[split]
        return f"{folder}/{shard_name(prefix, 0, 0)[:-5]}NNNNN"

    @classmethod
    def class_names(cls, root: Path, *, skip_damaged: bool = False) -> list[str]:
        """Return the names in the order of the logits, from labels.txt or, if that is absent, from the records.

        Args:
            root: the dataset.
            skip_damaged: ignore damaged records when names are read from the records. Otherwise labels.txt is written.

        Raises:
            DataError: an unreadable labels.txt, a damaged record, or labels that are not 1..N.
        """
        if (root / LABELS).exists():
            return read_class_list(root / LABELS)
        excluded = _excluded(root)
        shards: dict[Shard, frozenset[int]] = {}
        for split in SPLITS:
            if (folder := cls.find(root, split)) is None:
                continue
            for path in cls.files(folder, split):
                skipped = excluded[path]
                shards[Shard.scan_intact(path)[0] if skip_damaged else open_shard(path, skipped)] = skipped
        names = names_in_records(root, shards, skip_damaged=skip_damaged)
        check_class_names(names, DataError, str(root))
        if not skip_damaged:
            with suppress(ArtifactError):  # on a read-only disk the records are read each time
                write_atomic(root / LABELS, ("\n".join(names) + "\n").encode())
        return names

    def __len__(self) -> int:
        return len(self._number)

    def record(self, index: int) -> Record:
        return parse_record(self.shards[self._shard[index]], int(self._number[index]), self.classes)

    def fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for shard in self.shards:
            digest.update(f"\0{shard.path.name}\0".encode() + shard.offsets.astype("<i8").tobytes())
        return digest.hexdigest()

    def usage(self) -> SplitUsage:
        skipped = Counter[str]()
        if self._quarantined:
            skipped["in quarantine"] = self._quarantined
        names = {shard.path.name for shard in self.shards}
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in names:
                skipped["file that is not a shard"] += 1
        return SplitUsage(self.split, len(self), dict(skipped))


def _excluded(root: Path) -> defaultdict[Path, frozenset[int]]:
    """Return the offsets of the records of each shard that are in quarantine; none for other shards."""
    return defaultdict(frozenset, {root / path: offsets for path, offsets in read_quarantine(root).items()})


def find_shards(folder: Path, prefix: str) -> list[Path]:
    """Return all shards of a split in order.

    Raises:
        DataError: no shard, a missing one, or shards of two sets.
    """
    names = [path.name for path in list_folder(folder)]
    pattern = re.compile(rf"{prefix}-\d{{5}}-of-(\d{{5}})")
    counts = {name: int(match[1]) for name in names if (match := pattern.fullmatch(name))}
    expected = f"{prefix}-00000-of-NNNNN ..."
    if not counts:
        files = ", ".join([name for name in names if name != "index"][:3]) or "an empty folder"
        raise DataError(f"{folder}: no shards", expected=expected, found=files, hint="check the path")
    count, *others = sorted(set(counts.values()))
    if others:
        raise DataError(f"{folder}: shards of several sets", expected="one count", found=f"-of-{[count, *others]}")
    wanted = [shard_name(prefix, number, count) for number in range(count)]
    if beyond := sorted(counts.keys() - set(wanted)):
        raise DataError(f"{folder}: shard number beyond the count", expected=expected, found=", ".join(beyond[:3]))
    if missing := sorted(set(wanted) - counts.keys()):
        what = f"{folder}: {len(missing)} of {count} shards are missing"
        raise DataError(what, found=", ".join(missing[:3]), hint="fetch the missing shards")
    return [folder / name for name in wanted]
