"""Atomic changes of files and folders: readers see the old content or the complete new one.

This is also true after ``kill -9`` and after a power cut. New files and folders get the permissions of the umask.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shrinkserve.errors import ArtifactError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""Errors of file systems (SMB, some FUSE) that cannot sync a folder."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is made if needed.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = temporary_name(path)
        try:
            with aside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                _fsync(stream.fileno())
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `target` when the block succeeds and is removed when it fails.

    Raises:
        ArtifactError: the folder cannot be written; also for an `OSError` of the block.
    """
    with unwritable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = temporary_name(target)
        aside.mkdir()
        try:
            yield aside
            sync_tree(aside)
            exchange(aside, target)
            sync(target.parent)
        finally:
            remove(aside)


def exchange(new: Path, target: Path) -> None:
    """Swap two folders or files; if `target` does not exist, only move `new` there.

    Linux does this in one step (``renameat2``). Elsewhere two renames do it, and `target` is missing for an instant.
    An overlay file system cannot rename a folder of a lower layer; then the files are replaced one by one.

    Raises:
        OSError: the file system refuses. Nothing has changed, unless files were replaced one by one.
    """
    if not os.path.lexists(target):
        os.rename(new, target)
    elif not _exchange_in_one_step(new, target):
        _exchange_by_renames(new, target)


def _exchange_in_one_step(new: Path, target: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}:  # NFS, overlayfs
        return False
    raise OSError(number, os.strerror(number), str(target))


def _exchange_by_renames(new: Path, target: Path) -> None:
    aside = temporary_name(new)
    try:
        os.rename(target, aside)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        linked_copy(target, aside)
        _overwrite_tree(new, target)
        remove(new)
    else:
        try:
            os.rename(new, target)
        except OSError:
            os.rename(aside, target)
            raise
    os.rename(aside, new)


def _overwrite_tree(new: Path, target: Path) -> None:
    """Give `target` the content of `new` file by file: first what is new, then what changed, last remove the rest."""
    paths = sorted(path.relative_to(new) for path in new.rglob("*"))
    for folder in (path for path in paths if (new / path).is_dir()):
        (target / folder).mkdir(exist_ok=True)
    files = [path for path in paths if not (new / path).is_dir()]
    for file in sorted(files, key=lambda path: (target / path).exists()):
        os.replace(new / file, target / file)
    for path in sorted(target.rglob("*"), reverse=True):
        if path.relative_to(target) not in paths:
            remove(path)


def linked_copy(source: Path, target: Path) -> None:
    """Copy a folder. Files become hard links where possible: replace files of the copy, never write into them.

    Raises:
        OSError: the file system refuses.
    """
    target.mkdir()
    with suppress(OSError):  # a file system without permissions
        shutil.copymode(source, target)
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            linked_copy(entry, target / entry.name)
            continue
        try:
            os.link(entry, target / entry.name)
        except OSError:
            shutil.copyfile(entry, target / entry.name)


def remove(path: Path) -> None:
    """Remove a file, link or folder as far as possible; a missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in _NO_SYNC:
            raise


def temporary_name(path: Path) -> Path:
    """Return an unused hidden name in the folder of `path`."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")


def left_by_a_killed_write(path: Path, names: Collection[str]) -> bool:
    """Return True if a file is what a killed `write_atomic` of one of `names` leaves."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}", path.name)
    return found is not None and found[1] in names and path.is_file() and not path.is_symlink()


def check_writable(folder: Path) -> None:
    """Check that a folder can be made or written, before the work whose result it receives.

    Raises:
        ArtifactError: a file is in the way, or permissions are missing.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise _refused(folder, f"{nearest} is a file")
    try:
        with tempfile.TemporaryFile(dir=nearest):  # permission bits do not tell, for root, /proc or a read-only disk
            pass
    except OSError as exc:
        raise _refused(folder, _reason(exc)) from exc


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `ArtifactError` that names `path`."""
    try:
        yield
    except OSError as exc:
        file = next((parent for parent in path.parents if parent.is_file()), None)
        raise _refused(path, f"{file} is a file" if file else _reason(exc)) from exc


def _refused(path: Path, reason: str) -> ArtifactError:
    hint = "choose another folder, free some space or change its permissions"
    return ArtifactError(f"{path}: cannot be written ({reason})", hint=hint)


def _reason(error: OSError) -> str:
    """Return the reason of an error; `shutil.Error` has no `strerror` but a list of (from, to, reason)."""
    if error.strerror:
        return error.strerror
    entries = error.args[0] if error.args else None
    if isinstance(entries, list) and entries and isinstance(entries[0], tuple):
        return str(entries[0][-1])
    return type(error).__name__
