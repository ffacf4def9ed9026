from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "commit_message.py"


def check(message: str, tmp_path: Path) -> tuple[int, str]:
    file = tmp_path / "message"
    file.write_text(message)
    done = subprocess.run([sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "message",
    [
        "Add a hook",
        "Pass the size as an argument\n\nReasons.",
        "Embed the font",
        "Merge branch 'a' of a place with a very long name that nobody would ever type by hand again",
        "Add a hook\n# comment of git\n",
    ],
)
def test_commit_message_is_accepted(message: str, tmp_path: Path) -> None:
    assert check(message, tmp_path) == (0, "")


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("", "capital"),
        ("add a hook", "capital"),
        ("Added a hook", "imperative"),
        ("Adds a hook", "imperative"),
        ("Adding a hook", "imperative"),
        ("Add a hook.", "period"),
        ("Add " + 69 * "x", "72"),
        ("Add a hook\nat once", "second line"),
    ],
)
def test_commit_message_is_rejected(message: str, part: str, tmp_path: Path) -> None:
    code, error = check(message, tmp_path)
    assert code == 1
    assert part in error
    assert error.count("\n") == 1
