"""Change a folder as a whole: readers find the old one or the new one, also after ``kill -9`` or a power cut."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import itertools
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from shrinkserve.atomic import unwritable
from shrinkserve.errors import ArtifactError

LOCK = ".lock"
WAIT_SECONDS = 600.0
"""How long a publisher waits for another; loading a large engine takes minutes."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def locked(root: Path, waits: Callable[[str], None] = lambda _: None, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock of a repository; a second one waits. The kernel lets go of it when its holder dies.

    Args:
        root: the repository.
        waits: is called before a wait begins, with who holds the lock.
        seconds: how long to wait.

    Raises:
        ArtifactError: the folder cannot be written, its file system has no locks, or the wait took too long.
    """
    with unwritable(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _restrict(root, handle)
        if not _try_lock(root, handle):
            waits(_holder(handle))
            deadline = time.monotonic() + seconds
            while not _try_lock(root, handle):
                if time.monotonic() >= deadline:
                    raise ArtifactError(
                        f"{root}: another publisher is still at work after {seconds:g} s ({_holder(handle)})",
                        hint="wait for it or stop it, then try again; --wait SECONDS waits longer",
                    )
                time.sleep(0.05)
        with suppress(OSError):  # a full disk; the lock is held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, _myself().encode(errors="replace"), 0)
        yield
    finally:
        os.close(handle)


def _try_lock(root: Path, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise ArtifactError(
            f"{root / LOCK}: cannot be locked ({exc.strerror})", hint="keep the repository on a file system with flock"
        ) from exc
    return True


def _restrict(root: Path, handle: int) -> None:
    """Let only those open the lock who may write the repository: to lock a file, reading it is enough."""
    with suppress(OSError):  # another user's, who did this already
        os.fchmod(handle, 0o660 if root.stat().st_mode & stat.S_IWGRP else 0o600)


def _myself() -> str:
    words = [Path(sys.argv[0] or "python").name, *itertools.takewhile(lambda word: word[:1] != "-", sys.argv[1:3])]
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")  # no options: one of them is a token
    return f"pid {os.getpid()} on {socket.gethostname()} since {since}: {' '.join(words)}"


def _holder(handle: int) -> str:
    """Return who holds the lock, as written into it, on one line that is safe to print."""
    with suppress(OSError):
        text = os.pread(handle, 300, 0).decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text) or "unknown holder"
    return "unknown holder"


class Change:
    """Folders of a repository that are changed together, each as a copy.

    The copies' files are hard links where the file system has them: replace files in them, never write into them.

    Args:
        root: the repository.
        staging: an empty folder on its file system.
    """

    def __init__(self, root: Path, staging: Path) -> None:
        self.root, self._staging = root, staging
        self._copies: list[Path] = []

    def copy(self, name: str) -> Path:
        """A copy of a folder to change; an empty one where there is none of that name."""
        copy = self._staging / name
        if copy not in self._copies:
            with unwritable(self.root / name):
                if (self.root / name).is_dir():
                    linked_copy(self.root / name, copy)
                else:
                    copy.mkdir()
            self._copies.append(copy)
        return copy

    def commit(self) -> None:
        """Put the copies in their places, in the order in which they were asked for.

        The last is out of sight while the others change, as it may need them to be as they were, or as they will be.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        *others, last = self._copies
        with unwritable(self.root):
            for copy in self._copies:
                sync_tree(copy)
            if others and (self.root / last.name).exists():
                os.rename(self.root / last.name, self._staging / f"{last.name}.old")
            for copy in self._copies:
                exchange(copy, self.root / copy.name)
            sync(self.root)


@contextmanager
def changed_folders(root: Path) -> Iterator[Change]:
    """Copies of a repository's folders to change, which take their places when the block ends well.

    They vanish when it does not. The caller holds the lock.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with _staging(root) as staging:
        change = Change(root, staging)
        yield change
        change.commit()


@contextmanager
def changed_folder(target: Path) -> Iterator[Path]:
    """`changed_folders` of one.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with changed_folders(target.parent) as change:
        yield change.copy(target.name)


def remove_folder(target: Path) -> None:
    """Remove a folder in one step. The caller holds the lock.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with _staging(target.parent) as staging, unwritable(target):
        os.rename(target, staging / target.name)
        sync(target.parent)


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """An empty folder on the file system of `root`, swept away afterwards, with what killed ones left before."""
    with unwritable(root):
        _sweep(root)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(root), dir=_staging_place(root)))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def exchange(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, and what was there, if anything, in the place of `new`.

    One step of the file system where that has one (Linux's ``renameat2``). Elsewhere two renames, between which
    `target` is missing for an instant.
    """
    if not target.exists():
        os.rename(new, target)
    elif not _exchange_in_one_step(new, target):
        aside = new.with_name(f"{new.name}.old")
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(aside, target)
            raise
        os.rename(aside, new)


def _exchange_in_one_step(new: Path, target: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system without it, NFS for one
        return False
    raise OSError(number, os.strerror(number), str(target))


def sync(path: Path) -> None:
    """Have a file's or a folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have a folder and all in it on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def _prefix(root: Path) -> str:
    return f".{root.resolve().name}.staging-"


def _staging_place(root: Path) -> Path:
    # A Triton that serves all it finds would take a folder inside the repository for a model, so half-made ones
    # are kept beside it; only a repository that is a mount of its own leaves no such place.
    beside = root.resolve().parent
    same_device = beside.stat().st_dev == root.stat().st_dev
    return beside if same_device and os.access(beside, os.W_OK | os.X_OK) else root


def _sweep(root: Path) -> None:
    """Remove what a killed publisher left; the lock says that none is at work."""
    for place in (root.resolve().parent, root):
        for left in place.glob(f"{glob.escape(_prefix(root))}*"):
            shutil.rmtree(left, ignore_errors=True)


def linked_copy(source: Path, target: Path) -> None:
    """Copy a folder; its files are hard links where the file system has them, so write into none of them."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
