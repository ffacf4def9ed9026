"""The temporary folder of a server, and links in it to paths that Triton cannot read.

Triton's Python backend starts its processes by a shell command without quotes, and their Python decodes paths as ASCII.
So every path that they get is in this folder, whose own path has neither.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from shrinkserve.errors import ServerError
from shrinkserve.serving.server.leftovers import PREFIX, remove_leftovers

PLAIN = re.compile(r"[A-Za-z0-9_./+=@,-]+")
"""Paths without a character that means something to a shell."""
ROOM = 8 << 20
"""Bytes that the folder needs: a copy of Triton's Python backend, and the shared files of a start."""


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for one server, after removing what killed servers left.

    Raises:
        ServerError: no place is suitable; says why for each.
    """
    reasons = []
    for place in _places():
        reason = _unsuitable(place)
        if reason is None:
            remove_leftovers(place)
            return tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True)
        reasons.append(f"{place} {reason}")
    raise ServerError(
        f"no folder for the server's temporary files ({'; '.join(reasons)})",
        hint=f"set TMPDIR to a folder with {ROOM >> 20} MiB of free space that may run programs",
    )


def _places() -> Iterable[Path]:
    with suppress(FileNotFoundError):  # none that can be written
        yield Path(tempfile.gettempdir()).absolute()
    yield Path("/tmp")  # noqa: S108 - a new folder in it, by `tempfile`
    yield Path("/var/tmp")  # noqa: S108
    cache = platformdirs.user_cache_path("shrinkserve") / "run"
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    yield cache


def _unsuitable(place: Path) -> str | None:
    if not PLAIN.fullmatch(str(place)):
        return "has a special character in its path"
    if not os.access(place, os.W_OK | os.X_OK):
        return "cannot be written"
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        return "may not run programs (noexec)"
    return "is full" if shutil.disk_usage(place).free < ROOM else None


def linked(path: Path, folder: Path, name: str) -> Path:
    """Return `path` itself if it is ASCII without special characters, else a link `folder/name` to it."""
    if PLAIN.fullmatch(str(path)):
        return path
    link = folder / name
    link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
    return link


def link_models(repository: Path, models: Iterable[str], folder: Path) -> Path:
    """Return a new folder of links to some models of a repository: a Triton loads only these from it."""
    chosen = folder / "models"
    chosen.mkdir()
    for name in models:
        (chosen / name).symlink_to(repository.resolve() / name, target_is_directory=True)
    return chosen
