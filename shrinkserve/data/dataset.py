"""Datasets by index: TFRecord shards in the ImageNet layout, or a folder of images, whichever is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class Record:
    """One image as it is stored: `encoded` bytes, `label` (a position in `classes`), and what messages call it."""

    encoded: bytes
    label: int
    name: str


class Dataset(Protocol):
    """Images with labels, read by index; may be shared by threads.

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
        """The image at `index`; raises `DataError` when it cannot be read or its label is not one of `classes`."""
        ...
