"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ``"error"`` for what will fail or is exposed, ``"note"`` for what may surprise.
        subject: what was checked.
        what: what was found.
        hint: what to do about it; empty if nothing is to be done.
    """

    level: Level
    subject: str
    what: str
    hint: str = ""
