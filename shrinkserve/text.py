"""Text from outside (labels, file names, servers) made safe for terminals, lists and spreadsheets."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from shrinkserve.errors import ShrinkServeError

BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that make a terminal show the text after them in another order."""

MAX_TEXT = 12 << 20
"""The longest list of names or bad images that is read, in characters."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins with one of these may be run as a formula by a spreadsheet."""


def read_text(path: Path, encoding: str = "utf-8-sig", limit: int = MAX_TEXT) -> str:
    """Return the text of a file.

    Args:
        path: the file.
        encoding: of the file; the default ignores a byte order mark.
        limit: the longest text in characters.

    Raises:
        OSError: the file cannot be read, or it is longer than `limit`.
        UnicodeDecodeError: it is not text in this encoding.
    """
    with path.open(encoding=encoding) as stream:
        text = stream.read(limit + 1)
    if len(text) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} characters", str(path))
    return text


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with control characters and bidi overrides as escapes such as ``\x1b``.

    JSON text stays JSON with the same content: only control characters below U+0020, which it does not contain, become
    ``\xNN``; all others become ``\uNNNN``.

    Args:
        text: any text.
        keep: control characters that are kept.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if c not in keep and _unsafe(c) else c for c in text)


def check_class_names(names: Sequence[str], kind: type[ShrinkServeError], where: str = "") -> None:
    """Reject class names that are not one line each, or that contain control characters.

    Args:
        names: in the order of the logits.
        kind: the error to raise.
        where: the file or folder of the names.
    """
    for name in names:
        if any(map(_unsafe, name)):
            expected = "one line each, without control characters"
            what = f"{where}: class names" if where else "class names"
            raise kind(what, expected=expected, found=ascii(name)[:200], hint="rename the class")


def spreadsheet_cell(text: str) -> str:
    """Return `text` with a ``'`` before it if a spreadsheet may take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in BIDI_CONTROLS


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
