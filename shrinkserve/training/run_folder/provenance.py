"""Provenance of a run: command, versions and git state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from shrinkserve.artifact import recorded_command, utc_now, versions
from shrinkserve.atomic import write_atomic

ENVIRONMENT = "environment.json"
LIBRARIES = ("torch", "numpy", "pillow", "safetensors", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
LAUNCH = "SHRINKSERVE_LAUNCH"
"""Environment variable of `launch`: the same for all processes and restarts of one launch."""


class GitState(TypedDict):
    """Commit and uncommitted files."""

    commit: str
    changed: list[str]


class StartRecord(TypedDict):
    """Entry of ``environment.json`` for one start of a run."""

    started: str
    command: list[str]
    launch: str
    device: str
    processes: int
    threads: int
    loader: str
    git: GitState | None
    versions: dict[str, str]


def launch_id() -> str:
    """Return the id that all processes and restarts of one launch share; empty without a launcher."""
    return os.environ.get(LAUNCH) or os.environ.get("TORCHELASTIC_RUN_ID", "")


def add_start(out: Path, *, device: str, processes: int, threads: int, loader: str) -> None:
    """Append an entry to ``environment.json``. A resumed run may have started with other versions.

    Raises:
        ArtifactError: cannot write the file.
    """
    entry: StartRecord = {
        "started": utc_now(),
        "command": recorded_command(sys.argv),
        "launch": launch_id(),
        "device": device,
        "processes": processes,
        "threads": threads,
        "loader": loader,
        "git": git_state(),
        "versions": versions(LIBRARIES),
    }
    write_atomic(out / ENVIRONMENT, (json.dumps([*starts(out), entry], indent=1) + "\n").encode())


def starts(out: Path) -> list[StartRecord]:
    """Return the entries of ``environment.json``; none if the file is missing or damaged."""
    try:
        found = json.loads((out / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def git_state() -> GitState | None:
    """Return commit and uncommitted files of the running code; None if it is not in a git checkout."""
    source = Path(__file__).parents[3]
    git = ["git", "-C", str(source)]
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    if commit.returncode or status.returncode:
        return None
    return {"commit": commit.stdout.strip(), "changed": status.stdout.splitlines()}
