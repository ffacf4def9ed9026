"""Image paths of a command line: files, folders, patterns, and lists on standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import cast

from shrinkserve.errors import DataError
from shrinkserve.preprocess import IMAGE_SUFFIXES, list_images

STDIN = "-"
BLOCK = 1 << 16
"""Bytes of a list that are read at a time."""
MAX_LINE = 1 << 16
"""Longest path in a list, in bytes."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class ImagePaths:
    """Paths of images.

    Attributes:
        paths: taken as they are needed; those of a list are read meanwhile.
        skipped: number of files in folders that are left out, by reason.
    """

    paths: Iterator[Path]
    skipped: Counter[str] = field(default_factory=Counter)


def expand_images(words: Sequence[str], stdin: BufferedReader | None = None) -> ImagePaths:
    """Expand words to paths of images.

    Args:
        words: each a file, a folder, a pattern such as ``photos/*.jpg``, or ``-`` for a list on standard input: one
            path per line, or paths that end in NUL, as ``find -print0`` writes them.
        stdin: where the list comes from; standard input by default.

    Raises:
        DataError: a file or folder does not exist or cannot be read, or a folder contains no image, or a pattern
            matches nothing. It is raised before any path is returned, except for errors in the list.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("b.jpg", "a.png", "notes.txt"):
        ...         _ = Path(folder, name).write_bytes(b"")
        ...     found = expand_images([folder])
        ...     [path.name for path in found.paths], dict(found.skipped)
        (['a.png', 'b.jpg'], {'suffix .txt': 1})
    """
    skipped: Counter[str] = Counter()
    parts: list[Iterator[Path]] = []
    for word in words:
        if word == STDIN:
            parts.append(_read_list(stdin or _standard_input()))
        elif glob.has_magic(word) and not _exists(word):
            matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matches:
                raise DataError(f"{word}: no file matches", hint="check the pattern")
            parts.extend(_expand(Path(match), skipped) for match in matches)
        else:
            parts.append(_expand(Path(word), skipped))
    return ImagePaths(chain.from_iterable(parts), skipped)


def _exists(word: str) -> bool:
    try:
        Path(word).stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise DataError(f"{word[:200]}: cannot be read ({reason})", hint="check the path") from exc
    return True


def _expand(path: Path, skipped: Counter[str]) -> Iterator[Path]:
    if not _exists(str(path)):
        raise DataError(f"{path}: no such file or folder", hint="check the path")
    if not path.is_dir():
        return iter([path])
    listing = list_images(path)
    skipped.update(listing.skipped)
    if not listing.images:
        raise DataError(
            f"{path}: no image in this folder", expected=f"files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return iter(listing.images)


def _standard_input() -> BufferedReader:
    if sys.stdin is None:
        raise DataError("standard input is closed", hint="give paths, or a list on standard input")
    return cast("BufferedReader", sys.stdin.buffer)


def _read_list(stream: BufferedReader) -> Iterator[Path]:
    """Yield the paths of a list.

    Raises:
        DataError: it is UTF-16, or not a list of paths.
    """
    rest, separator, start = b"", b"", True
    while block := stream.read1(BLOCK):  # as soon as anything is there
        rest += block
        if start:
            start = False
            if rest.startswith(UTF16_MARKS):
                raise DataError("list of images: UTF-16", expected="UTF-8", hint="convert it: iconv -f UTF-16 -t UTF-8")
            rest = rest.removeprefix(b"\xef\xbb\xbf")
        separator = separator or (b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b"")
        if separator:
            *lines, rest = rest.split(separator)
            yield from _paths(lines)
        if len(rest) > MAX_LINE:
            raise DataError("list of images: not a list of paths", expected=f"lines of at most {MAX_LINE} bytes")
    yield from _paths([rest])


def _paths(lines: list[bytes]) -> Iterator[Path]:
    for line in lines:
        stripped = line.removesuffix(b"\r")
        if stripped.strip():
            yield Path(os.fsdecode(stripped))
