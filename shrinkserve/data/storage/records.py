"""Read labels and images out of a shard's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shrinkserve.data.dataset import Record
from shrinkserve.data.storage.example import Features
from shrinkserve.data.storage.tfrecord import Shard
from shrinkserve.errors import DataError

BACKGROUND = "background"
MAX_CLASSES = 100_000
ALL_RECORDS = 4 << 30
"""Up to this size, in bytes, a split is read completely to find its class names."""
LABEL_HINT = "write the class names to labels.txt, or skip the record with `shrinkserve data verify --quarantine`"
SAMPLE = 64
"""Records per shard that are read of a larger split."""


def parse_record(shard: Shard, number: int, classes: Sequence[str]) -> Record:
    """Read one record.

    Raises:
        DataError: damaged, no image in it, or a label that is not one of `classes`; with shard and offset.
    """
    try:
        features = Features(shard.read(number))
        label = features.int("image/class/label")
        if not 0 < label < len(classes):
            raise DataError("label", expected=f"1..{len(classes) - 1} (labels.txt)", found=label)
        return Record(features.bytes("image/encoded"), label, shard.name, int(shard.offsets[number]))
    except DataError as exc:
        raise _located(exc, shard.where(number)) from exc


def names_in_records(root: Path, shards: Mapping[Shard, frozenset[int]], *, skip_damaged: bool) -> list[str]:
    """Return the class names as the records give them. ImageNet's public builder writes no list of names.

    Args:
        root: the dataset, for messages.
        shards: all shards of all splits, with the offsets of the records to leave out.
        skip_damaged: leave out damaged records too, instead of raising.

    Raises:
        DataError: a damaged record, or a label below 1; with shard and offset.
    """
    names: dict[int, str] = {}
    total = sum(int(shard.offsets[-1]) for shard in shards)
    for shard, excluded in shards.items():
        step = 1 if total <= ALL_RECORDS else max(1, len(shard) // SAMPLE)
        for label, name in _names(shard, excluded, step, skip_damaged=skip_damaged):
            names.setdefault(label, name)
    if not names:
        raise DataError("labels in the records", where=str(root), expected="at least one intact record", found="none")
    return [BACKGROUND, *(names.get(label) or f"class {label}" for label in range(1, max(names) + 1))]


def _names(shard: Shard, excluded: frozenset[int], step: int, *, skip_damaged: bool) -> Iterator[tuple[int, str]]:
    for number in range(0, len(shard), step):
        if int(shard.offsets[number]) in excluded:
            continue
        try:
            features = Features(shard.read(number))
            label = features.int("image/class/label")
            if not 0 < label <= MAX_CLASSES:
                raise DataError("label", expected=f"1..{MAX_CLASSES}", found=label, hint=LABEL_HINT)
            yield label, features.text("image/class/text") or features.text("image/class/synset")
        except DataError as exc:
            if not skip_damaged:
                raise _located(exc, shard.where(number)) from exc


def _located(error: DataError, where: str) -> DataError:
    """Return the error with the place of its record."""
    return DataError(error.reason, where=where, expected=error.expected, found=error.found, hint=error.hint)
