"""Change several folders of a repository together, with the old ones kept until the change is confirmed."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shrinkserve.atomic import exchange, linked_copy, remove, sync, sync_tree, unwritable
from shrinkserve.errors import ArtifactError, add_note


class Change:
    """Folders of a repository that change together. Each is edited as a copy; `commit` exchanges copies and originals.

    Files of a copy are hard links where possible: replace them, never write into them.

    Args:
        root: the repository.
        staging: an empty folder on the same file system.
    """

    def __init__(self, root: Path, staging: Path) -> None:
        self.root, self._staging = root, staging
        self._copies: dict[str, Path] = {}
        self._exchanged: list[str] = []
        self._hidden: list[str] = []

    def copy(self, name: str) -> Path:
        """Return the copy of a folder to edit; an empty one if there is no folder of that name."""
        if name not in self._copies:
            copy = self._staging / name
            with unwritable(self.root / name):
                if (self.root / name).is_dir():
                    linked_copy(self.root / name, copy)
                else:
                    copy.mkdir()
            self._copies[name] = copy
        return self._copies[name]

    def commit(self, *, hidden: Collection[str] = ()) -> None:
        """Put the copies in the places of the originals, which stay in the staging folder.

        Args:
            hidden: folders that depend on the others. They are moved away first and put back last, so that they are
                never visible together with others that they do not fit.

        Raises:
            ArtifactError: the folder cannot be written; the originals are in their places.
        """
        with unwritable(self.root):
            for copy in self._copies.values():
                sync_tree(copy)
            for name in hidden:
                if (self.root / name).exists():
                    self._hide(name)
            for name in sorted(self._copies, key=lambda name: name in hidden):
                exchange(self._copies[name], self.root / name)
                self._exchanged.append(name)
            sync(self.root)

    def revert(self) -> None:
        """Put the originals back; this needs no space.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        with unwritable(self.root):
            while self._exchanged:
                name = self._exchanged.pop()
                if self._copies[name].exists():
                    exchange(self._copies[name], self.root / name)
                else:
                    os.rename(self.root / name, self._copies[name])
            while self._hidden:
                name = self._hidden.pop()
                os.rename(self._staging / f"{name}.hidden", self.root / name)
            sync(self.root)

    def _hide(self, name: str) -> None:
        try:
            os.rename(self.root / name, self._staging / f"{name}.hidden")
        except OSError as exc:
            if exc.errno != errno.EXDEV:  # overlayfs cannot move a folder of a lower layer
                raise
        else:
            self._hidden.append(name)


@contextmanager
def changing(root: Path) -> Iterator[Change]:
    """Yield a `Change`. If the block fails, a change that was committed is undone. The caller holds the lock.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with unwritable(root):
        _sweep(root, "staging")
        staging = Path(tempfile.mkdtemp(prefix=_prefix(root, "staging"), dir=staging_place(root)))
    change = Change(root, staging)
    try:
        yield change
    except BaseException as exc:
        try:
            change.revert()
        except ArtifactError as second:
            add_note(exc, f"the change could not be undone ({second}); the old folders are in {_keep(staging)}")
        raise
    finally:
        remove(staging)


def _keep(staging: Path) -> Path:
    """Rename a staging folder so that nothing removes it."""
    kept = staging.with_name(staging.name.replace(".staging-", ".kept-"))
    with suppress(OSError):
        os.rename(staging, kept)
    return kept


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """Yield an empty folder next to a repository; later calls remove what killed ones left.

    The caller holds the lock `PUBLISH`.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with unwritable(root):
        _sweep(root, "scratch")
        folder = Path(tempfile.mkdtemp(prefix=_prefix(root, "scratch"), dir=staging_place(root)))
    try:
        yield folder
    finally:
        remove(folder)


def staging_place(root: Path) -> Path:
    """Return the folder for unfinished work: next to the repository if that is possible, else the repository.

    A Triton that serves everything in a repository would take a folder inside it for a model. If a
    repository is a mount point, there is no other place on its file system.
    """
    parent = root.resolve().parent
    same_device = parent.stat().st_dev == root.stat().st_dev
    return parent if same_device and os.access(parent, os.W_OK | os.X_OK) else root


def _prefix(root: Path, kind: str) -> str:
    return f".{root.resolve().name}.{kind}-"


def _sweep(root: Path, kind: str) -> None:
    """Remove what killed publishers left; the lock ensures that none is at work."""
    for place in (root.resolve().parent, root):
        for left in place.glob(f"{glob.escape(_prefix(root, kind))}*"):
            remove(left)
