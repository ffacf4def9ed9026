from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shrinkserve.serving.server.leftovers import KEPT_LOGS, remove_leftovers, remove_old_logs
from shrinkserve.serving.server.supervisor import LOCK


def test_locked_and_foreign_folders_are_kept(tmp_path: Path) -> None:
    locked, without_lock, linked = (tmp_path / f"shrinkserve-{name}" for name in ("locked", "none", "link"))
    locked.mkdir()
    without_lock.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).touch()
    linked.symlink_to(tmp_path / "other")
    with (locked / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["other", locked.name, without_lock.name, linked.name]
    )
    remove_leftovers(tmp_path)
    assert not locked.exists()


def test_old_logs_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "logs"
    place.mkdir()
    for number in range(KEPT_LOGS + 5):
        path = place / f"tritonserver-{number}.log"
        path.touch()
        os.utime(path, (1e9 + number, 1e9 + number))
    (place / "tritonserver-new.log").touch()
    (place / "other.log").touch()
    remove_old_logs(place)
    left = {path.name for path in place.iterdir()}
    assert len(left) == KEPT_LOGS + 1
    assert {"tritonserver-new.log", "other.log", f"tritonserver-{KEPT_LOGS + 4}.log"} <= left
