"""Remove what servers left whose supervisor was killed together with them."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from shrinkserve.serving.server.supervisor import LOCK, remove_regions

PREFIX = "shrinkserve-"
"""Prefix of the temporary folders of servers."""
KEPT_LOGS = 20
"""Log files of the default folder that are kept: servers on random ports would add one each."""


def remove_leftovers(place: Path) -> None:
    """Remove the folders in `place` whose supervisor has ended, and the shared memory of their servers."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it goes away meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the supervisor runs
                remove_regions(folder)
                shutil.rmtree(folder, ignore_errors=True)


def remove_old_logs(place: Path) -> None:
    """Keep the `KEPT_LOGS` newest log files of a folder, and those of the last day."""
    with suppress(OSError):
        logs = sorted(place.glob("tritonserver-*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[KEPT_LOGS:]:
            if path.stat().st_mtime < time.time() - 24 * 3600:
                path.unlink(missing_ok=True)
