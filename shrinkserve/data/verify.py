"""Looking at every record: checksums, labels, and whether the image can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from shrinkserve.concurrency import ordered_map
from shrinkserve.data.dataset import SPLITS, Split
from shrinkserve.data.folder import FolderDataset
from shrinkserve.data.opening import open_dataset
from shrinkserve.data.quarantine import BadImage
from shrinkserve.data.shards import ShardDataset, parse_record
from shrinkserve.data.tfrecord import Shard, walk
from shrinkserve.errors import DataError
from shrinkserve.preprocess import decode


@dataclass
class VerifyReport:
    """What was found in one split.

    Attributes:
        split: "train" or "validation".
        counts: good images by class name.
        bad: every bad image.
    """

    split: Split
    counts: dict[str, int] = field(default_factory=dict)
    bad: list[BadImage] = field(default_factory=list)


def verify_dataset(
    root: Path, workers: int, progress: Callable[[Split, int, int], None] | None = None
) -> list[VerifyReport]:
    """Read and decode every image of every split that is there, also those that are in quarantine.

    Args:
        root: the dataset.
        workers: threads.
        progress: is told the split, the shards or classes that are done, and their number.

    Raises:
        DataError: no dataset, or one that misses shards.
    """
    reports = []
    for split in SPLITS:
        if not any(kind.find(root, split) for kind in (ShardDataset, FolderDataset)):
            continue
        report, parts = VerifyReport(split), list(_parts(root, split))
        for done, results in enumerate(ordered_map(lambda part: list(part()), parts, workers), start=1):
            for result in results:
                if isinstance(result, BadImage):
                    report.bad.append(result)
                else:
                    report.counts[result] = report.counts.get(result, 0) + 1
            if progress is not None:
                progress(split, done, len(parts))
        reports.append(report)
    if not reports:
        open_dataset(root, "train")  # raises, saying what is there instead
    return reports


def _parts(root: Path, split: Split) -> Iterable[Callable[[], Iterator[BadImage | str]]]:
    """What one thread looks at in one go: a shard, or the files of a class."""
    folder = ShardDataset.find(root, split)
    if folder is not None:
        classes = ShardDataset.class_names(root)
        return [partial(_verify_shard, root, path, classes) for path in ShardDataset.files(folder, split)]
    dataset = FolderDataset(root, split, FolderDataset.find(root, split) or root, quarantine={})
    return [partial(_verify_class, dataset, label) for label in range(len(dataset.classes))]


def _verify_shard(root: Path, path: Path, classes: list[str]) -> Iterator[BadImage | str]:
    name = str(path.relative_to(root))
    offsets: list[int] = []
    lost: BadImage | None = None
    try:
        for offset in walk(path):
            offsets.append(offset)  # noqa: PERF402 - what was found before a fault is kept
    except DataError as exc:
        lost = BadImage(name, offsets[-1] if offsets else 0, f"{_reason(exc)}; what follows in this shard is lost")
    shard = Shard(path, np.array(offsets or [0], dtype=np.int64))
    for number in range(len(shard)):
        try:
            record = parse_record(shard, number, classes)
            decode(record.encoded, record.name)
            yield classes[record.label]
        except DataError as exc:
            yield BadImage(name, offsets[number], _reason(exc))
    if lost is not None:
        yield lost


def _verify_class(dataset: FolderDataset, label: int) -> Iterator[BadImage | str]:
    for index in dataset.members(label):
        path = dataset.path(index)
        try:
            decode(dataset.record(index).encoded, str(path))
            yield dataset.classes[label]
        except DataError as exc:
            yield BadImage(str(path.relative_to(dataset.root)), 0, _reason(exc))


def _reason(error: DataError) -> str:
    """The fault without the place, which the entry names itself."""
    contrast = f", expected {error.expected}, found {error.found}" if error.expected is not None else ""
    return error.what.partition(": ")[2] + contrast
