"""The skip list: images that `data verify --quarantine` found to be bad and that datasets leave out.

``<root>/quarantine.tsv`` holds a line ``path <tab> offset <tab> reason`` each: the path relative to the root, the
offset of the record in its shard in bytes (0 for an image file). A path with control characters is a JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import DataError
from shrinkserve.text import printable

FILE = "quarantine.tsv"


@dataclass(frozen=True)
class BadImage:
    """One bad image: its file or shard relative to the dataset's root, the record's offset, and what is wrong."""

    path: str
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset}: {self.reason}"


def read_quarantine(root: Path) -> dict[str, frozenset[int]]:
    """Path -> offsets of its bad records; empty when there is no list.

    Raises:
        DataError: a line that is none of such a list, with its number.
    """
    try:
        lines = (root / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, set[int]] = {}
    for number, line in enumerate(lines, start=1):
        path, *rest = line.split("\t")
        if len(rest) != 2 or not rest[0].isdecimal():
            raise DataError(
                f"{root / FILE}, line {number}: not an entry",
                expected="path, offset and reason between tabs",
                found=repr(line[:60]),
                hint="write it again with `shrinkserve data verify --quarantine`",
            )
        found.setdefault(_unquoted(path), set()).add(int(rest[0]))
    return {path: frozenset(offsets) for path, offsets in found.items()}


def _quoted(path: str) -> str:
    """Return `path` without tabs and line breaks: as in JSON where it has any, or begins like such a text."""
    return path if path.isprintable() and not path.startswith('"') else json.dumps(path)


def _unquoted(path: str) -> str:
    """Return the path that `_quoted` got."""
    try:
        found = json.loads(path) if path.startswith('"') else path
    except ValueError:
        return path
    return found if isinstance(found, str) else path


def write_quarantine(root: Path, bad: Sequence[BadImage]) -> Path:
    """Replace the skip list; an empty one removes the file. Returns its path."""
    path = root / FILE
    if bad:
        lines = (f"{_quoted(b.path)}\t{b.offset}\t{printable(' '.join(b.reason.split()))}\n" for b in bad)
        write_atomic(path, "".join(lines).encode())
    else:
        path.unlink(missing_ok=True)
    return path
