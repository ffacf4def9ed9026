"""The folder of a run: what is in it before the first step, and what makes it whole at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from shrinkserve.arch.serialise import to_dict
from shrinkserve.arch.spec import Spec
from shrinkserve.artifact import (
    CARD,
    Card,
    recorded_command,
    recorded_path,
    sha256_file,
    tensors_sha256,
    utc_now,
    versions,
)
from shrinkserve.atomic import unwritable, write_atomic
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.errors import ConfigError
from shrinkserve.runtimes.checkpoint import weights
from shrinkserve.training.checkpoints import FOLDER
from shrinkserve.training.logs import METRICS, TENSORBOARD

RECIPE, ENVIRONMENT = "recipe.toml", "environment.json"
LIBRARIES = ("torch", "numpy", "pillow", "safetensors", "nvidia-dali-cuda120")
OURS = (CARD, "ema.safetensors", "raw.safetensors", RECIPE, ENVIRONMENT, METRICS, TENSORBOARD, FOLDER)


def prepare(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool, allow_changes: bool = False) -> None:
    """Make the folder ready for a run.

    Args:
        out: the run's folder.
        recipe: what will be frozen in it.
        resume: go on with the run that is there, or begin where there is none.
        overwrite: begin again where a run is.
        allow_changes: resume although the recipe is another one.

    Raises:
        ConfigError: the folder holds something that is not asked to be replaced, or a run of another recipe.
        ArtifactError: the place cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file", hint="name a new or an empty folder")
    run = (out / RECIPE).is_file()
    if not run and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: holds files, and no run", hint="name a new or an empty folder")
    if run and overwrite:
        with _replaced(out):
            write_atomic(out / RECIPE, recipe.to_toml().encode())
        return
    if run and not resume:
        raise ConfigError(
            f"{out}: holds a run already", hint="give --resume to go on with it, --overwrite to begin again"
        )
    if run and (changed := _changes(load_recipe(out / RECIPE), recipe)):
        if not allow_changes:
            raise ConfigError(
                f"{out}: the run there has another recipe: {', '.join(changed)}",
                hint="use its recipe.toml, or give --allow-recipe-change",
            )
        (out / CARD).unlink(missing_ok=True)  # a finished run that now is to go on
    write_atomic(out / RECIPE, recipe.to_toml().encode())


@contextmanager
def _replaced(out: Path) -> Iterator[None]:
    """Move the run in `out` aside, and remove it at the end of the block; a failure in the block moves it back.

    Links are removed, not what they lead to.
    """
    with unwritable(out):
        aside = Path(tempfile.mkdtemp(prefix=".overwritten-", dir=out))
    moved: list[str] = []
    try:
        with unwritable(out):
            for name in OURS:
                if os.path.lexists(out / name):
                    (out / name).rename(aside / name)
                    moved.append(name)
        yield
    except BaseException:
        for name in moved:
            (aside / name).rename(out / name)
        aside.rmdir()
        raise
    with unwritable(aside):
        for path in aside.iterdir():
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
        aside.rmdir()


def _changes(before: Recipe, now: Recipe) -> list[str]:
    old, new = _flat(before.to_dict()), _flat(now.to_dict())
    keys = sorted({*old, *new})
    return [f"{key} ({old.get(key)} -> {new.get(key)})" for key in keys if old.get(key) != new.get(key)]


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def note_environment(out: Path, place: Mapping[str, Any]) -> None:
    """Add an entry to ``environment.json``: versions, where it computes, the command and the state of git.

    One a start: a run that was resumed may have gone on with other versions.
    """
    entry = {
        "started": utc_now(),
        "command": recorded_command(sys.argv),
        **place,
        "git": _git(),
        "versions": versions(LIBRARIES),
    }
    path = out / ENVIRONMENT
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    write_atomic(path, (json.dumps([*entries, entry], indent=1) + "\n").encode())


def _git() -> dict[str, Any] | None:
    """Commit and uncommitted files of the code that runs, where it lies in a git checkout."""
    source = Path(__file__).parents[2]
    git = ["git", "-C", str(source)]
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    if commit.returncode or status.returncode:
        return None
    return {"commit": commit.stdout.strip(), "changed": status.stdout.splitlines()}


def finish(
    out: Path,
    data: Path,
    spec: Spec,
    recipe: Recipe,
    classes: list[str],
    networks: Mapping[str, torch.nn.Module],
    metrics: Mapping[str, Any],
) -> Card:
    """Write the weights, and after them the card that binds them: a folder with a card is a finished run.

    Args:
        out: the run's folder.
        data: root of the dataset; an export asks its validation images unless told others.
        spec: the network.
        recipe: the run.
        classes: class names in the order of the logits.
        networks: "ema" and "raw".
        metrics: figures of the EMA weights on the validation split.
    """
    files: dict[str, str] = {}
    for name, network in networks.items():
        path = out / f"{name}.safetensors"
        write_atomic(path, save(weights(network)))
        files[path.name] = sha256_file(path)
    files[RECIPE] = sha256_file(out / RECIPE)
    card = Card(
        kind="checkpoint",
        name=recipe.name,
        weights_sha256=tensors_sha256({name: t.numpy() for name, t in weights(networks["ema"]).items()}),
        files=files,
        preprocess=recipe.preprocess.to_dict(),
        classes=classes,
        spec=to_dict(spec),
        recipe=recipe.to_dict(),
        metrics=dict(metrics),
        details={"command": recorded_command(sys.argv), "data": recorded_path(data.resolve()), "git": _git()},
        created=utc_now(),
        versions=versions(LIBRARIES),
    )
    card.write(out)
    return card
