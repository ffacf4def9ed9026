"""Types of a dataset: images that are read by index."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Record:
    """Stored image.

    Attributes:
        encoded: the image file's bytes.
        label: position in the dataset's `classes`.
        place: the file.
        offset: where in a shard the record begins; None for an image file.
    """

    encoded: bytes
    label: int
    place: str
    offset: int | None = None

    @property
    def name(self) -> str:
        """The record's name in messages."""
        return self.place if self.offset is None else f"{self.place} at byte {self.offset}"


@dataclass(frozen=True)
class SplitUsage:
    """The images of a split that are used, and those that are not.

    Attributes:
        split: "train" or "validation".
        used: number of images that loaders read.
        skipped: number of files or records that are left out, by reason.
        empty_classes: classes without an image in this split. Empty for TFRecord shards, whose records are not read
            when a dataset is opened; `verify_dataset` finds them.
    """

    split: Split
    used: int
    skipped: dict[str, int] = field(default_factory=dict)
    empty_classes: list[str] = field(default_factory=list)


class Dataset(Protocol):
    """Images with labels, read by index; threads may share it.

    Attributes:
        root: the folder that was opened.
        split: "train" or "validation".
        classes: names in the order of the logits.
    """

    root: Path
    split: Split
    classes: list[str]

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """Return the image at `index`.

        Raises:
            DataError: it cannot be read, or its label is not one of `classes`.
        """
        ...

    def fingerprint(self) -> str:
        """Return a hash that identifies the images and their labels. Quarantine does not change it."""
        ...

    def usage(self) -> SplitUsage:
        """Return how many images are used, and why others are not."""
        ...
