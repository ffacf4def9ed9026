"""Atomic writes: readers see the old file or folder, or the complete new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shrinkserve.errors import ArtifactError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the whole new one, also after a power cut.

    Raises:
        ArtifactError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    finally:
        Path(aside).unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends well, and vanishes when it does not.

    An existing `target` is replaced as a whole.

    Raises:
        ArtifactError: the place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        aside.chmod(0o755)
    except OSError as exc:
        raise _unwritable(target, exc) from exc
    try:
        yield aside
        for path in sorted(aside.rglob("*"), reverse=True):
            _sync(path)
        _sync(aside)
        _replace_folder(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace_folder(aside: Path, target: Path) -> None:
    old = aside.with_name(f"{aside.name}.old")
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(aside, target)
        _sync(target.parent)
    except OSError as exc:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise _unwritable(target, exc) from exc
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Refuse a folder that could not be made or written, before the work whose result it is to get.

    Raises:
        ArtifactError: a file is in the way, or there is no permission.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise _refused(folder, f"{nearest} is a file")
    try:
        with tempfile.TemporaryFile(dir=nearest):  # permissions alone say nothing to root, of /proc or a read-only disk
            pass
    except OSError as exc:
        raise _refused(folder, _reason(exc)) from exc


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line that names `path`."""
    try:
        yield
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    file = next((parent for parent in path.parents if parent.is_file()), None)
    return _refused(path, f"{file} is a file" if file else _reason(error))


def _refused(path: Path, reason: str) -> ArtifactError:
    hint = "choose another place, free some space or mend its permissions"
    return ArtifactError(f"{path}: cannot be written ({reason})", hint=hint)


def _reason(error: OSError) -> str:
    """Return why it failed; `shutil.Error` has no `strerror` but a list of (from, to, reason)."""
    if error.strerror:
        return error.strerror
    entries = error.args[0] if error.args else None
    if isinstance(entries, list) and entries and isinstance(entries[0], tuple):
        return str(entries[0][-1])
    return type(error).__name__
