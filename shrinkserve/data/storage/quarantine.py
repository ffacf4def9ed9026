"""The skip list: bad images that `data verify --quarantine` found and that datasets leave out.

Each line of ``<root>/quarantine.tsv`` is ``path <tab> offset <tab> reason``: the path relative to the root, the offset
of the record in its shard in bytes (0 for an image file). A path with control characters is written as a JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import DataError
from shrinkserve.text import MAX_TEXT, printable, read_text

FILE = "quarantine.tsv"
HINT = "write it again with `shrinkserve data verify --quarantine`"
MAX_OFFSET_DIGITS = 18


@dataclass(frozen=True)
class BadImage:
    """Bad image: its file or shard relative to the dataset's root, the record's offset, and the reason."""

    path: str
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}: {self.reason}"


def read_quarantine(root: Path) -> dict[str, frozenset[int]]:
    """Return path -> offsets of its bad records; empty if there is no list.

    Raises:
        DataError: the list cannot be read, or a line is not an entry; with the line's number.
    """
    path = root / FILE
    try:
        lines = read_text(path, "utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read ({exc})", hint=HINT) from exc
    found: dict[str, set[int]] = {}
    for number, line in enumerate(lines, start=1):
        entry, *rest = line.split("\t")
        if len(rest) != 2 or not _is_offset(rest[0]):
            raise DataError(
                f"{path}, line {number}: not an entry",
                expected="path, offset and reason between tabs",
                found=repr(line[:60]),
                hint=HINT,
            )
        found.setdefault(_unquoted(entry), set()).add(int(rest[0]))
    return {entry: frozenset(offsets) for entry, offsets in found.items()}


def write_quarantine(root: Path, bad: Sequence[BadImage]) -> Path:
    """Replace the skip list, or remove it if `bad` is empty. Return its path.

    Raises:
        DataError: the list would be too long to be read.
    """
    path = root / FILE
    if bad:
        text = "".join(f"{_quoted(b.path)}\t{b.offset}\t{printable(' '.join(b.reason.split()))}\n" for b in bad)
        if len(text) > MAX_TEXT:
            raise DataError(f"{path}: {len(bad)} bad images are too many for a list", hint="make the dataset again")
        write_atomic(path, text.encode())
    else:
        path.unlink(missing_ok=True)
    return path


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_OFFSET_DIGITS


def _quoted(path: str) -> str:
    """Return `path` without tabs and line breaks: as JSON if it has any, or if it begins like JSON."""
    return path if path.isprintable() and not path.startswith('"') else json.dumps(path)


def _unquoted(path: str) -> str:
    """Return the path that was given to `_quoted`."""
    try:
        found = json.loads(path) if path.startswith('"') else path
    except (ValueError, RecursionError):
        return path
    return found if isinstance(found, str) else path
