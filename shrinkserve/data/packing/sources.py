"""Find the images to pack: files of an image folder, or members of ILSVRC2012's tars.

Members of a tar, also of a tar inside a tar, are stored without compression. So an image is a range of bytes of a file
on the disk, and is read from there without unpacking.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from shrinkserve.data.dataset import SPLITS, Split, SplitUsage
from shrinkserve.data.opening import SPLIT_HINT
from shrinkserve.data.storage.folder import FolderDataset
from shrinkserve.data.storage.names import read_lines
from shrinkserve.errors import DataError

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
SYNSETS = "imagenet_lsvrc_2015_synsets.txt"
VALIDATION_SYNSETS = "imagenet_2012_validation_synset_labels.txt"
METADATA = "imagenet_metadata.txt"


@dataclass(frozen=True)
class SourceImage:
    """Image to pack: `size` bytes from `offset` of the file at `path`; `label` is 1..N."""

    path: str
    offset: int
    size: int
    label: int
    filename: str


@dataclass(frozen=True)
class Collection:
    """All images to pack.

    Attributes:
        synsets: identifiers of the classes 1..N.
        texts: their names for people.
        images: by split.
        usage: files that are used and skipped, by split; empty for tars.
    """

    synsets: list[str]
    texts: list[str]
    images: dict[Split, list[SourceImage]]
    usage: list[SplitUsage] = field(default_factory=list)


def find_sources(folder: Path) -> Collection:
    """Find the images of an image folder, or of ILSVRC2012's tars with the lists of TensorFlow's public builder.

    Raises:
        DataError: neither, or lists that do not match the tars.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint="check the path")
    if (folder / TRAIN_TAR).is_file() or (folder / VALIDATION_TAR).is_file():
        return _from_tars(folder)
    return _from_folder(folder)


def _from_folder(root: Path) -> Collection:
    images: dict[Split, list[SourceImage]] = {}
    usage: list[SplitUsage] = []
    classes: list[str] = []
    for split in SPLITS:
        if (folder := FolderDataset.find(root, split)) is None:
            continue
        dataset = FolderDataset(root, split, folder)
        classes = dataset.classes
        usage.append(dataset.usage())
        images[split] = [
            SourceImage(str(path), 0, path.stat().st_size, label + 1, path.name)
            for label in range(len(classes))
            for path in map(dataset.path, dataset.members(label))
        ]
    if not images:
        layouts = f"{FolderDataset.layout('train')} or {TRAIN_TAR}"
        raise DataError(f"{root}: nothing to pack", expected=layouts, hint=SPLIT_HINT)
    return Collection(classes, classes, images, usage)


def _from_tars(folder: Path) -> Collection:
    synsets = _lines(folder / SYNSETS)
    labels = {synset: number for number, synset in enumerate(synsets, start=1)}
    texts = dict(zip(synsets, synsets, strict=True))
    if (folder / METADATA).is_file():
        texts |= {synset: text for synset, _, text in (line.partition("\t") for line in _lines(folder / METADATA))}
    images: dict[Split, list[SourceImage]] = {}
    if (folder / TRAIN_TAR).is_file():
        images["train"] = [_labelled(source, labels) for source in _members(folder / TRAIN_TAR)]
    if (folder / VALIDATION_TAR).is_file():
        truth = _lines(folder / VALIDATION_SYNSETS)
        members = sorted(_members(folder / VALIDATION_TAR), key=lambda source: source.filename)
        if len(members) != len(truth):
            raise DataError(f"{folder / VALIDATION_SYNSETS}: lines", expected=len(members), found=len(truth))
        if unknown := sorted(set(truth) - labels.keys()):
            what = f"{folder / VALIDATION_SYNSETS}: not a synset of {SYNSETS}"
            raise DataError(what, found=", ".join(unknown[:3]))
        images["validation"] = [replace(m, label=labels[synset]) for m, synset in zip(members, truth, strict=True)]
    return Collection(synsets, [texts[synset] for synset in synsets], images)


def _labelled(source: SourceImage, labels: dict[str, int]) -> SourceImage:
    synset = source.filename.partition("_")[0]
    if synset not in labels:
        raise DataError(f"{source.path}: member {source.filename}", expected=f"a synset of {SYNSETS}", found=synset)
    return replace(source, label=labels[synset])


def _members(path: Path) -> Iterator[SourceImage]:
    """Yield the images in a tar and in the tars inside it, without labels."""
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                if member.isfile() and member.name.endswith(".tar"):
                    stream = outer.extractfile(member)
                    with tarfile.open(fileobj=stream, mode="r:") as inner:
                        for image in filter(tarfile.TarInfo.isfile, inner):
                            yield _source(path, member.offset_data + image.offset_data, image)
                elif member.isfile():
                    yield _source(path, member.offset_data, member)
    except (OSError, ValueError, tarfile.TarError) as exc:
        raise DataError(f"{path}: cannot be read ({exc})", hint="fetch it again") from exc


def _source(path: Path, offset: int, member: tarfile.TarInfo) -> SourceImage:
    if member.size < 0 or offset < 0:
        raise DataError(f"{path}: member {member.name}: size", expected="0 or more bytes", found=member.size)
    return SourceImage(str(path), offset, member.size, 0, Path(member.name).name)


def _lines(path: Path) -> list[str]:
    return read_lines(path, "put this list into the folder of the tars")
