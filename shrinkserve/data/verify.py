"""Verify every record of a dataset: checksums, labels, and that the image can be decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shrinkserve.concurrency import ordered_map
from shrinkserve.data.dataset import SPLITS, Split, SplitUsage
from shrinkserve.data.loaders import available_workers
from shrinkserve.data.opening import has_split, open_dataset
from shrinkserve.data.storage.folder import FolderDataset
from shrinkserve.data.storage.names import numbered_names
from shrinkserve.data.storage.quarantine import BadImage, read_quarantine, write_quarantine
from shrinkserve.data.storage.records import parse_record
from shrinkserve.data.storage.shards import ShardDataset
from shrinkserve.data.storage.tfrecord import Shard
from shrinkserve.errors import DataError, check_range
from shrinkserve.paths import StrPath
from shrinkserve.preprocess import decode

VerifyProgress = Callable[[Split, int, int], None]
"""Called with the split, the number of finished shards or classes, and their total."""


@dataclass(frozen=True)
class VerifyReport:
    """The result for one split.

    Attributes:
        split: "train" or "validation".
        counts: good images by class name; names that two classes share are numbered.
        bad: every bad image.
        new: those of `bad` that were not in quarantine.
        usage: images used and skipped.
    """

    split: Split
    counts: dict[str, int]
    bad: list[BadImage]
    new: list[BadImage]
    usage: SplitUsage


@dataclass(frozen=True)
class _Split:
    """The work of verifying a split.

    Attributes:
        classes: names in the order of the logits.
        first: the first label that images have: 1 for shards, whose class 0 is the background.
        parts: functions that yield the label of each good image and an entry for each bad one.
        skipped: files that are left out, by reason.
    """

    classes: list[str]
    first: int
    parts: list[Callable[[], Iterator[BadImage | int]]]
    skipped: dict[str, int]


def verify_dataset(
    root: StrPath, *, quarantine: bool = False, workers: int | None = None, progress: VerifyProgress | None = None
) -> list[VerifyReport]:
    """Read and decode every image of every split, including those in quarantine.

    Args:
        root: the dataset's folder.
        quarantine: write the bad images to the dataset's skip list, so that loaders leave them out.
        workers: threads; None for this process's share of the usable cores.
        progress: called after each shard or class.

    Returns:
        One report for each split that is there.

    Raises:
        ConfigError: fewer workers than one.
        DataError: no dataset, one with missing or unreadable files, or a split without any good image.

    Example::

        for report in verify_dataset("data/photos"):
            print(report.split, sum(report.counts.values()), report.new)
    """
    check_range(1, workers=workers)
    root = Path(root)
    known = read_quarantine(root)
    reports = []
    for split in (split for split in SPLITS if has_split(root, split)):
        found = _split(root, split)
        counts, bad = Counter[int](), list[BadImage]()
        work = ordered_map(_listed, found.parts, available_workers() if workers is None else workers)
        for done, results in enumerate(work, start=1):
            for result in results:
                if isinstance(result, BadImage):
                    bad.append(result)
                else:
                    counts[result] += 1
            if progress is not None:
                progress(split, done, len(found.parts))
        new = [entry for entry in bad if entry.offset not in known.get(entry.path, ())]
        reports.append(_report(split, found, counts, bad, new))
    if not reports:
        open_dataset(root, "train")  # raises DataError
    if quarantine:
        _quarantine(root, reports)
    return reports


def _report(
    split: Split, found: _Split, counts: Counter[int], bad: list[BadImage], new: list[BadImage]
) -> VerifyReport:
    names = numbered_names(found.classes)
    empty = [name for label, name in enumerate(names) if label >= found.first and not counts[label]]
    skipped = found.skipped | ({"bad": len(bad)} if bad else {})
    usage = SplitUsage(split, sum(counts.values()), skipped, empty)
    return VerifyReport(split, {names[label]: counts[label] for label in sorted(counts)}, bad, new, usage)


def _quarantine(root: Path, reports: list[VerifyReport]) -> None:
    for report in reports:
        if report.bad and not report.counts:
            raise DataError(
                f"{root}: no good image in the {report.split} split, so none is put into quarantine",
                found=str(report.bad[0]),
                hint="make or fetch the dataset again",
            )
    write_quarantine(root, [entry for report in reports for entry in report.bad])


def _listed(part: Callable[[], Iterator[BadImage | int]]) -> list[BadImage | int]:
    return list(part())


def _split(root: Path, split: Split) -> _Split:
    """Return the work of a split: its shards, or the files of each class."""
    folder = ShardDataset.find(root, split)
    if folder is not None:
        classes = ShardDataset.class_names(root, skip_damaged=True)
        paths = ShardDataset.files(folder, split)
        return _Split(classes, 1, [partial(_verify_shard, root, path, classes) for path in paths], {})
    dataset = FolderDataset(root, split, FolderDataset.find(root, split) or root, quarantine={})
    parts = [partial(_verify_class, dataset, label) for label in range(len(dataset.classes))]
    return _Split(dataset.classes, 0, [*parts], dataset.usage().skipped)


def _verify_shard(root: Path, path: Path, classes: list[str]) -> Iterator[BadImage | int]:
    """Yield the label of each good record and an entry for each bad one."""
    name = str(path.relative_to(root))
    shard, error = Shard.scan_intact(path)
    for number in range(len(shard)):
        try:
            record = parse_record(shard, number, classes)
            decode(record.encoded, record.name)
            yield record.label
        except DataError as exc:
            yield BadImage(name, int(shard.offsets[number]), _reason(exc))
    if error is not None:
        yield BadImage(name, int(shard.offsets[-1]), f"{_reason(error)}; the rest of this shard is lost")
    elif not len(shard):
        yield BadImage(name, 0, "empty shard")


def _verify_class(dataset: FolderDataset, label: int) -> Iterator[BadImage | int]:
    """Yield the label of each good image and an entry for each bad one."""
    for index in dataset.members(label):
        try:
            record = dataset.record(index)
            decode(record.encoded, record.name)
            yield label
        except DataError as exc:
            yield BadImage(str(dataset.path(index).relative_to(dataset.root)), 0, _reason(exc))


def _reason(error: DataError) -> str:
    """Return the error without its place, which the entry has, and without the hint."""
    return str(DataError(error.reason, expected=error.expected, found=error.found))
