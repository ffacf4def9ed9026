"""Record where an artifact comes from: paths, commands, time and versions."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path


def recorded_path(path: Path) -> str:
    """Return a path as artifacts record it: with ``~`` for the home folder, so that it does not name the user."""
    return _without_home(str(path))


def open_recorded(path: str) -> Path:
    """Return the path that `recorded_path` wrote."""
    return Path.home() / path[2:] if path.startswith("~/") else Path(path)


def recorded_command(argv: Sequence[str]) -> list[str]:
    """Return a command line as artifacts record it: without secrets and without the home folder."""
    words = [_without_home(_USERINFO.sub("://***@", word)) for word in argv]
    for index, word in enumerate(words):
        if word.startswith("--token="):
            words[index] = "--token=***"
        elif index and argv[index - 1] == "--token":
            words[index] = "***"
    return words


_USERINFO = re.compile(r"://[^/\s]*@")


def _without_home(text: str) -> str:
    home = str(Path.home())
    # Only where a path begins: at the start of the text, or after "=" or ":" as in options and lists of paths.
    return text if home == "/" else re.sub(rf"(?<![^=:]){re.escape(home)}(?=/|$)", "~", text)


def utc_now() -> str:
    """Return the current UTC time, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of Python, the platform, this package and the installed ones of `packages`.

    A loaded package may know its build (``2.13.0+cu130``), which the metadata of PyTorch on PyPI lacks; it is added.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("shrinkserve", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        build = str(getattr(sys.modules.get(package), "__version__", ""))
        if build.startswith(f"{found[package]}+"):
            found[package] = build
    return found
