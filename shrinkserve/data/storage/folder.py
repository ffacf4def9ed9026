"""A folder of images with one folder per class: ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import Record, Split, SplitUsage
from shrinkserve.data.storage.names import class_folders, normalised
from shrinkserve.data.storage.quarantine import read_quarantine
from shrinkserve.errors import DataError
from shrinkserve.preprocess import IMAGE_SUFFIXES, MAX_BYTES, list_images

FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation")}


class FolderDataset:
    """Images in class folders. The classes are the sorted folder names of the training split, 0..N-1."""

    split: Split  # pyright infers str from the assignment

    def __init__(
        self, root: Path, split: Split, folder: Path, quarantine: dict[str, frozenset[int]] | None = None
    ) -> None:
        """Open a split.

        Args:
            root: the dataset.
            split: "train" or "validation".
            folder: the split's folder.
            quarantine: files to leave out; None for the dataset's own list.
        """
        self.root, self.split, self.folder = root, split, folder
        own = class_folders(folder)
        training = self.find(root, "train")
        self.classes = list(own if training is None or training == folder else class_folders(training))
        by_name = {normalised(name): path for name, path in own.items()}
        unknown = sorted(by_name.keys() - set(map(normalised, self.classes)))
        if unknown:
            raise DataError(
                f"{folder}: classes without training images",
                expected=f"one of the {len(self.classes)} folder names in {training}",
                found=", ".join(unknown[:5]),
            )
        excluded = read_quarantine(root) if quarantine is None else quarantine
        self._files: list[tuple[Path, int]] = []
        self._excluded: list[tuple[Path, int]] = []
        self._skipped: Counter[str] = Counter()
        for label, name in enumerate(self.classes):
            if (place := by_name.get(normalised(name))) is None:
                continue
            listing = list_images(place)
            self._skipped += listing.skipped
            for path in listing.images:
                kept = str(path.relative_to(root)) not in excluded
                (self._files if kept else self._excluded).append((path.relative_to(folder), label))
        self._labels = np.array([label for _, label in self._files], dtype=np.int64)
        if not self._files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            found = ", ".join(f"{count} {reason}" for reason, count in self._skipped.items()) or "no files"
            raise DataError(
                f"{folder}: no image in its class folders", expected=f"files ending in {kinds}", found=found
            )

    @classmethod
    def find(cls, root: Path, split: Split) -> Path | None:
        """Return the split's folder, None if `root` does not have this layout."""
        return next((root / name for name in FOLDERS[split] if (root / name).is_dir()), None)

    @classmethod
    def layout(cls, split: Split) -> str:
        """Return the layout for messages."""
        return f"{FOLDERS[split][0]}/<class>/*.jpg"

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> Path:
        """Return the file of the image at `index`."""
        return self.folder / self._files[index][0]

    def members(self, label: int) -> list[int]:
        """Return the indices of the images of one class."""
        return list(range(*np.searchsorted(self._labels, [label, label + 1])))  # files are sorted by class

    def record(self, index: int) -> Record:
        path, label = self.path(index), self._files[index][1]
        try:
            with path.open("rb") as stream:
                encoded = stream.read(MAX_BYTES + 1)  # one byte above the limit, so that decoding refuses it
        except FileNotFoundError as exc:
            raise DataError(
                "file not found", where=str(path), hint="it was removed after the dataset was opened"
            ) from exc
        except OSError as exc:
            raise DataError(f"cannot be read ({exc.strerror})", where=str(path), hint="check its permissions") from exc
        return Record(encoded, label, str(path))

    def fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for path, label in sorted(self._files + self._excluded):
            digest.update(f"\0{path}\0{label}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def usage(self) -> SplitUsage:
        skipped = dict(self._skipped)
        if self._excluded:
            skipped["in quarantine"] = len(self._excluded)
        counts = np.bincount(self._labels, minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        return SplitUsage(self.split, len(self), skipped, empty)
