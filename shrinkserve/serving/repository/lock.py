"""Locks of a model repository: one holder at a time, a bounded wait, and a holder that can be named."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from shrinkserve.atomic import unwritable
from shrinkserve.errors import ArtifactError
from shrinkserve.text import printable

CHANGE = ".lock"
"""Held while folders change places: seconds."""
PUBLISH = ".publish.lock"
"""Held while a version is tried out: minutes. A rollback does not need it."""
WAIT_SECONDS = 600.0
"""Longest wait for another holder; loading a large engine takes minutes."""


@contextmanager
def locked(
    root: Path,
    waits: Callable[[str], None] = lambda _: None,
    seconds: float = WAIT_SECONDS,
    *,
    name: str = CHANGE,
) -> Iterator[None]:
    """Hold a lock of a repository. The kernel releases it when the process dies.

    Args:
        root: the repository.
        waits: receives a description of the holder before a wait begins.
        seconds: the longest wait.
        name: the lock's file.

    Raises:
        ArtifactError: the folder cannot be written, its file system has no locks, or the wait took too long.
    """
    with unwritable(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _restrict(root, handle)
        if not _try_lock(root / name, handle):
            waits(_holder(handle))
            _wait(root, handle, name, seconds)
        with suppress(OSError):  # a full disk; the lock is held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, _describe_self().encode(errors="replace"), 0)
        yield
    finally:
        os.close(handle)


def _wait(root: Path, handle: int, name: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _try_lock(root / name, handle):
        if time.monotonic() >= deadline:
            raise ArtifactError(
                f"{root}: another publisher is still at work after {seconds:g} s ({_holder(handle)})",
                hint="wait for it or stop it, then try again; --wait SECONDS waits longer",
            )
        time.sleep(0.05)


def _try_lock(path: Path, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        hint = "keep the repository on a file system with flock"
        raise ArtifactError(f"{path}: cannot be locked ({exc.strerror})", hint=hint) from exc
    return True


def _restrict(root: Path, handle: int) -> None:
    """Let only users who may write the repository open the lock: read access is enough to lock a file."""
    with suppress(OSError):  # the file belongs to another user, who has done this
        os.fchmod(handle, 0o660 if root.stat().st_mode & stat.S_IWGRP else 0o600)


def _describe_self() -> str:
    # Without options: one of them may be a token.
    words = [Path(sys.argv[0] or "python").name, *itertools.takewhile(lambda word: word[:1] != "-", sys.argv[1:3])]
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"pid {os.getpid()} on {socket.gethostname()} since {since}: {' '.join(words)}"


def _holder(handle: int) -> str:
    """Return the holder's description of itself."""
    with suppress(OSError):
        return printable(os.pread(handle, 300, 0).decode(errors="replace")) or "unknown holder"
    return "unknown holder"
