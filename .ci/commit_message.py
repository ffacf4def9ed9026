"""Check the subject of a commit message: imperative, one line of at most 72 characters, an empty line after it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LONGEST = 72
GENERATED = ("Merge ", "Revert ", "fixup! ", "squash! ")
# Words that are not verbs in the imperative: "Added", "Adds", "Adding". Some imperatives end likewise.
OTHER_FORM = re.compile(r"[A-Z][a-z]+(ed|ing|s)")
IMPERATIVE = {"Embed", "Feed", "Need", "Seed", "Shed", "Speed", "Bring", "Ping", "String", "Swing"}


def problems(message: str) -> list[str]:
    """Return what is wrong with a commit message."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(GENERATED):
        return []
    found = []
    word = subject.partition(" ")[0]
    if not re.match(r"[A-Z]", subject):
        found.append("start with a capital letter")
    if OTHER_FORM.fullmatch(word) and word not in IMPERATIVE and not word.endswith("ss"):
        found.append(f"start with a verb in the imperative, e.g. Add, not {word}")
    if len(subject) > LONGEST:
        found.append(f"use at most {LONGEST} characters, found {len(subject)}")
    if subject.endswith("."):
        found.append("omit the period")
    if len(lines) > 1 and lines[1]:
        found.append("leave the second line empty")
    return found


if __name__ == "__main__":
    for problem in (wrong := problems(Path(sys.argv[1]).read_text(encoding="utf-8"))):
        print(f"commit subject: {problem}", file=sys.stderr)
    sys.exit(bool(wrong))
