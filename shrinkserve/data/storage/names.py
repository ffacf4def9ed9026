"""Class names: one line each, unique for reports, the same in all splits."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shrinkserve.errors import DataError
from shrinkserve.preprocess.files import is_ignored, list_folder
from shrinkserve.text import check_class_names, read_text


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders of a split by name, sorted by name.

    Raises:
        DataError: no class folder, a folder that cannot be listed, a name that no list of classes can contain, or two
            names that differ only in their Unicode form.
    """
    entries = list_folder(folder)
    found = {path.name: path for path in entries if path.is_dir() and not is_ignored(path.name)}
    if not found:
        files = f"{len(entries)} files, such as {entries[0].name}" if entries else "an empty folder"
        raise DataError(f"{folder}: no class folders", expected=f"{folder}/<class>/*.jpg", found=files)
    names = list(found)
    check_class_names(names, DataError, str(folder))
    doubled = [name for name, count in Counter(map(normalised, names)).items() if count > 1]
    if doubled:
        what = f"{folder}: two folders of one class in different Unicode forms"
        raise DataError(what, found=doubled[0], hint="move their images into one folder")
    return found


def normalised(name: str) -> str:
    """Return the composed Unicode form of a name. macOS stores names in the decomposed form."""
    return unicodedata.normalize("NFC", name)


def read_class_list(path: Path) -> list[str]:
    """Read class names in the order of the logits, one a line, the background first.

    Raises:
        DataError: no such file, or no text with at least two names.
    """
    names = read_lines(path, "write one class name a line, in UTF-8")
    if len(names) < 2 or not all(name.strip() for name in names):
        raise DataError(f"{path}: not a list of class names", expected="a name a line, the background first")
    check_class_names(names, DataError, str(path))
    return names


def read_lines(path: Path, hint: str) -> list[str]:
    """Return the lines of a text file, without their line breaks; raise `DataError` with `hint` if it is unreadable."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read ({exc})", hint=hint) from exc
    # Not splitlines: a name may contain other characters at which it splits, such as U+0085.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def numbered_names(classes: Sequence[str]) -> list[str]:
    """Return the names with their position appended where two classes have the same name, as ImageNet's two "crane".

    Example:
        >>> numbered_names(["background", "crane", "crane"])
        ['background', 'crane (1)', 'crane (2)']
    """
    counts, numbered = Counter(classes), [f"{name} ({label})" for label, name in enumerate(classes)]
    names = [longer if counts[name] > 1 else name for name, longer in zip(classes, numbered, strict=True)]
    return names if len({*names}) == len(names) else numbered  # a class may have the name of a numbered one
