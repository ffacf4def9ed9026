"""The folder of a run: checks before it is changed, an exclusive lock, and a way back."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from enum import Enum
from pathlib import Path

from shrinkserve.artifact import CARD
from shrinkserve.atomic import check_writable, left_by_a_killed_write, unwritable, write_atomic
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.config.keys import flatten
from shrinkserve.errors import ConfigError
from shrinkserve.training.run_folder.checkpoints import FOLDER, listed
from shrinkserve.training.run_folder.metrics_log import METRICS, TENSORBOARD
from shrinkserve.training.run_folder.provenance import ENVIRONMENT, launch_id, starts
from shrinkserve.training.run_folder.trackers import FOLDER as TRACKER

RECIPE = "recipe.toml"
OURS = (CARD, "ema.safetensors", "raw.safetensors", RECIPE, ENVIRONMENT, METRICS, TENSORBOARD, FOLDER, TRACKER)
ASIDE = ".overwritten-"
MOVED = "moved"
"""File that marks the folder of an overwritten run as complete: all of the run was moved there."""


class Start(Enum):
    """Ways to begin a run."""

    NEW = 1
    RESUME = 2
    OVERWRITE = 3
    COMPLETE = 4
    """The run is complete: there is nothing to train."""


class RunFolder:
    """Exclusive access to a run's folder. A context manager.

    A run that fails before its first checkpoint leaves the folder as it was: `commit` makes the start permanent.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._lock: int | None = None
        self._start: Start | None = None
        self._aside: Path | None = None
        self._existed = out.is_dir()

    def __enter__(self) -> RunFolder:
        if self._existed:
            self._acquire()
            self._recover()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and self._start in {Start.NEW, Start.OVERWRITE}:
                self._roll_back()
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def check(self, recipe: Recipe, *, resume: bool, overwrite: bool, allow_recipe_change: bool) -> Start:
        """Decide how the run begins. Changes nothing.

        Raises:
            ConfigError: the folder has other files, or a run that may not be continued or replaced.
            ArtifactError: the folder cannot be written.
        """
        out = self.out
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: is a file", hint="name a new or an empty folder")
        check_writable(out)
        if not (out / RECIPE).is_file():
            if out.is_dir() and self._others():
                raise ConfigError(f"{out}: has files but no run", hint="name a new or an empty folder")
            return Start.NEW
        if overwrite:
            return Start.OVERWRITE
        if not resume:
            raise ConfigError(
                f"{out}: has a run already", hint="give --resume to continue it, --overwrite to start again"
            )
        if changed := changes(load_recipe(out / RECIPE), recipe):
            if not allow_recipe_change:
                raise ConfigError(
                    f"{out}: the run there has another recipe: {', '.join(changed)}",
                    hint="use its recipe.toml, or give --allow-recipe-change",
                )
        elif (out / CARD).is_file():
            return Start.COMPLETE
        if (out / CARD).is_file() and not listed(out / FOLDER):
            raise ConfigError(
                f"{out}: the run is complete and has no checkpoint to continue from",
                hint="name another --out, or give --overwrite to start again",
            )
        return Start.RESUME

    def started_by_this_launch(self) -> bool:
        """Return True if the run in the folder was started by this launch, before a restart."""
        found = starts(self.out)
        return bool(found) and found[-1].get("launch") == launch_id()

    def begin(self, recipe: Recipe, start: Start) -> None:
        """Write the recipe; with `Start.OVERWRITE` move the old run aside first.

        Raises:
            ConfigError: another process has begun a run here.
            ArtifactError: the folder cannot be written.
        """
        with unwritable(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._acquire()
            if self._others():
                raise ConfigError(f"{self.out}: another process has begun a run here", hint="name another --out")
        self._start = start
        for path in self.out.iterdir():
            if left_by_a_killed_write(path, OURS):
                path.unlink()
        if start is Start.OVERWRITE:
            self._move_aside()
        write_atomic(self.out / RECIPE, recipe.to_toml().encode())
        if start is Start.RESUME:
            (self.out / CARD).unlink(missing_ok=True)  # a complete run that is continued with another recipe

    def commit(self) -> None:
        """Make the start permanent: remove the run that was moved aside. Later calls do nothing."""
        self._start = None
        if self._aside is not None:
            with unwritable(self._aside):
                _remove(self._aside)
            self._aside = None

    def _others(self) -> list[Path]:
        """Return what the folder has besides files of a start that was killed."""
        return [path for path in self.out.iterdir() if not left_by_a_killed_write(path, OURS)]

    def _acquire(self) -> None:
        with unwritable(self.out):
            self._lock = os.open(self.out, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it ends, or name another --out"
            raise ConfigError(f"{self.out}: another process is training here", hint=hint) from None
        except OSError:  # a file system without locks
            return

    def _recover(self) -> None:
        """Finish what a killed process has begun: an overwritten run comes back unless the new one has a checkpoint."""
        for aside in self.out.glob(f"{ASIDE}*"):
            if (aside / MOVED).exists() and listed(self.out / FOLDER):
                _remove(aside)
            else:
                self._restore(aside)

    def _move_aside(self) -> None:
        with unwritable(self.out):
            self._aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=self.out))
            for name in OURS:
                if os.path.lexists(self.out / name):
                    (self.out / name).rename(self._aside / name)
            (self._aside / MOVED).touch()

    def _roll_back(self) -> None:
        if self._aside is not None:
            self._restore(self._aside)
            return
        for name in sorted(OURS, key=RECIPE.__eq__):  # the recipe last: with it the rest is a run that can begin again
            _remove(self.out / name)
        if not self._existed:
            self.out.rmdir()

    def _restore(self, aside: Path) -> None:
        """Remove the new run and move the old one back. Can be interrupted and repeated at any point."""
        if (aside / MOVED).exists():  # else `out` still has parts of the old run
            for name in OURS:
                _remove(self.out / name)
            (aside / MOVED).unlink()
        for name in OURS:
            if os.path.lexists(aside / name):
                (aside / name).rename(self.out / name)
        aside.rmdir()


def _remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a folder."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def changes(before: Recipe, now: Recipe) -> list[str]:
    """Return one text for each key that differs, ``section.key (old -> new)``."""
    old, new = flatten(before.to_dict()), flatten(now.to_dict())
    keys = sorted({*old, *new})
    return [f"{key} ({old.get(key)} -> {new.get(key)})" for key in keys if old.get(key) != new.get(key)]
