"""Python's garbage collector in commands that load large libraries."""

from __future__ import annotations

import atexit
import gc


def collect_rarely() -> None:
    """Let the garbage collector run rarely, and not at the exit of the process.

    Libraries such as torch make a million objects that live as long as the process. By default, Python examines them
    again and again while it loads them, and once more at the exit.
    """
    gc.set_threshold(20_000, 20, 100)
    atexit.register(gc.freeze)
