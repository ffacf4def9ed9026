"""A folder of images, one folder a class: ``train/<class>/*.jpg`` and ``val/<class>/*.jpg``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shrinkserve.data.dataset import Record, Split
from shrinkserve.data.quarantine import read_quarantine
from shrinkserve.errors import DataError
from shrinkserve.preprocess import IMAGE_SUFFIXES, MAX_BYTES
from shrinkserve.text import check_class_names

FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation")}


class FolderDataset:
    """Images in class folders; the classes are the sorted folder names of the training split, 0..N-1."""

    def __init__(
        self, root: Path, split: Split, folder: Path, quarantine: dict[str, frozenset[int]] | None = None
    ) -> None:
        """Open `folder`, without the files in `quarantine` (None: those of the dataset's own list)."""
        self.root, self.split, self.folder = root, split, folder
        self.classes = class_names(self.find(root, "train") or folder)
        unknown = sorted(set(class_names(folder)) - set(self.classes))
        if unknown:
            raise DataError(
                f"{folder}: classes that the training images do not have",
                expected=f"one of {len(self.classes)} folder names",
                found=", ".join(unknown[:5]),
            )
        skipped = read_quarantine(root) if quarantine is None else quarantine
        self._files: list[tuple[str, int]] = []
        for label, name in enumerate(self.classes):
            inside = (p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            kept = (p for p in sorted(inside) if str(p.relative_to(root)) not in skipped)
            self._files += [(str(p.relative_to(folder)), label) for p in kept]
        self._labels = np.array([label for _, label in self._files], dtype=np.int64)
        if not self._files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{folder}: no image in its class folders", expected=f"files ending in {kinds}")

    @classmethod
    def find(cls, root: Path, split: Split) -> Path | None:
        """The split's folder, if `root` has this layout."""
        return next((root / name for name in FOLDERS[split] if (root / name).is_dir()), None)

    @classmethod
    def layout(cls, split: Split) -> str:
        """The layout in words, for messages."""
        return f"{FOLDERS[split][0]}/<class>/*.jpg"

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> Path:
        """The file of the image at `index`."""
        return self.folder / self._files[index][0]

    def members(self, label: int) -> list[int]:
        """Indices of the images of one class."""
        return list(range(*np.searchsorted(self._labels, [label, label + 1])))  # files are sorted by class

    def record(self, index: int) -> Record:
        path, label = self.path(index), self._files[index][1]
        try:
            with path.open("rb") as stream:
                encoded = stream.read(MAX_BYTES + 1)  # one more than is allowed: decoding refuses it by its length
        except OSError as exc:
            raise DataError(f"{path}: cannot be read ({exc.strerror})", hint="check its permissions") from exc
        return Record(encoded, label, str(path))


def class_names(folder: Path) -> list[str]:
    """Sorted names of the class folders; raises `DataError` when there is none, or one that no list can hold."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: no class folders", expected=f"{folder}/<class>/*.jpg", found="an empty folder")
    check_class_names(names, DataError, str(folder))
    return names
