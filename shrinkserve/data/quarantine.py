"""The skip list: images that `data verify --quarantine` found to be bad and that datasets leave out.

``<root>/quarantine.tsv`` holds a line ``path <tab> offset <tab> reason`` each: the path relative to the root, the
offset of the record in its shard in bytes (0 for an image file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.artifact import write_atomic
from shrinkserve.errors import DataError

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
                do="write it again with `shrinkserve data verify --quarantine`",
            )
        found.setdefault(path, set()).add(int(rest[0]))
    return {path: frozenset(offsets) for path, offsets in found.items()}


def write_quarantine(root: Path, bad: Sequence[BadImage]) -> Path:
    """Replace the skip list; an empty one removes the file. Returns its path."""
    path = root / FILE
    if bad:
        lines = (f"{b.path}\t{b.offset}\t{' '.join(b.reason.split())}\n" for b in bad)
        write_atomic(path, "".join(lines).encode())
    else:
        path.unlink(missing_ok=True)
    return path
