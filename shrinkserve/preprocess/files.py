"""Find image files in folders, and count what is skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shrinkserve.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
"""Suffixes of the formats in `shrinkserve.preprocess.FORMATS`."""
IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found"})
"""Folders that operating systems and file servers add."""


@dataclass
class Listing:
    """The images in a folder.

    Attributes:
        images: their paths, sorted.
        skipped: number of files that are left out, by reason.
    """

    images: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def is_ignored(name: str) -> bool:
    """Return True for hidden files and folders and for those that operating systems add."""
    return name.startswith(".") or name in IGNORED_FOLDERS


def list_folder(folder: Path) -> list[Path]:
    """Return what a folder has, sorted.

    Raises:
        DataError: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise _unlistable(exc) from exc


def _unlistable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: cannot list folder ({error.strerror})", hint="check its permissions")


def list_images(folder: Path) -> Listing:
    """List the images in a folder and in the folders inside it. Links are followed, each target once.

    Raises:
        DataError: a folder that cannot be listed, or a broken link.
    """
    found, seen = Listing(), set[tuple[int, int]]()

    def unreadable(exc: OSError) -> None:
        raise _unlistable(exc) from exc

    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for hidden in [name for name in folders if is_ignored(name)]:
            folders.remove(hidden)
            found.skipped[f"hidden folder {hidden}"] += _count(Path(place, hidden))
        for name in files:
            _add(found, Path(place, name))
    found.images.sort()
    return found


def _count(folder: Path) -> int:
    return max(1, sum(len(files) for _, _, files in os.walk(folder)))


def _add(found: Listing, path: Path) -> None:
    suffix = path.suffix.lower()
    if is_ignored(path.name):
        found.skipped["hidden file"] += 1
    elif suffix not in IMAGE_SUFFIXES:
        found.skipped[f"suffix {suffix}" if suffix else "no suffix"] += 1
    elif _is_file(path):
        found.images.append(path)
    elif path.is_symlink():
        raise DataError(f"{path}: broken link", hint="remove it, or restore the file that it names")
    else:
        found.skipped["not a file"] += 1


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror})", hint="check its permissions") from exc


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the images in the given folders, sorted by name.

    Raises:
        DataError: a path that does not exist, or a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list_images(path).images
            if not inside:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(f"{path}: no image in this folder", expected=f"files ending in {kinds}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder", hint="check the path")
    return found
