"""Type of the paths that public functions take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

StrPath: TypeAlias = "str | os.PathLike[str]"
"""A path, or a result that has a folder, such as `TrainResult`."""


def optional_path(path: StrPath | None) -> Path | None:
    """Return the path; None stays None."""
    return None if path is None else Path(path)
