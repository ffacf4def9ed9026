"""Tables and plain text in Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from shrinkserve.text import printable

_SPECIAL = re.compile(r"([\\`*\[\]|<>&])")


def escape(value: object) -> str:
    """Return text in which nothing is Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", printable(str(value)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], words: Collection[int] = (0,)) -> list[str]:
    """Return a Markdown table. Columns at the positions `words` are text, the others are figures."""
    cells = [[escape(str(cell).replace("\n", " ")) for cell in row] for row in rows]
    rule = ["---" if column in words else "---:" for column in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in [list(map(escape, head)), rule, *cells]]
