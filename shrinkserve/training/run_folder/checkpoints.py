"""Checkpoint files: one file each, complete or absent.

``step-00000120.safetensors`` has the tensors, and in its header everything else as JSON and the sha256 of both.
A rename puts it in place, or replaces an earlier checkpoint of the same step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shrinkserve.artifact import tensors_sha256
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError

FOLDER = "checkpoints"


@dataclass(frozen=True)
class TrainingSnapshot:
    """Content of a checkpoint.

    Attributes:
        tensors: by dotted name; the first part is the owner: model, ema, optimizer, random, figures.
        state: JSON data, see `shrinkserve.training.run_folder.run_state.RunState`.
    """

    tensors: dict[str, Tensor]
    state: dict[str, object]


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` updates."""
    return folder / f"step-{step:08d}.safetensors"


def step_of(path: Path) -> int:
    """Return the number of updates before a checkpoint: the reverse of `path_of`."""
    return int(path.stem.partition("-")[2])


def listed(folder: Path) -> list[Path]:
    """Return the checkpoints, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def write(folder: Path, step: int, snapshot: TrainingSnapshot) -> Path:
    """Write a checkpoint and return its path.

    Raises:
        ArtifactError: cannot write the file.
        ValueError: the state has infinity or NaN.
    """
    path = path_of(folder, step)
    tensors = {name: value.detach().cpu().contiguous() for name, value in snapshot.tensors.items()}
    state = json.dumps(snapshot.state, allow_nan=False)
    write_atomic(path, save(tensors, {"state": state, "sha256": _sha256(tensors, state)}))
    return path


def read(path: Path) -> TrainingSnapshot:
    """Read a checkpoint and compare its content with its sha256.

    Raises:
        ArtifactError: missing, damaged or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            header = stream.metadata()
        expected, found = header["sha256"], _sha256(tensors, header["state"])
        if found != expected:
            raise ArtifactError(f"{path}: damaged", expected=f"sha256 {expected[:12]}", found=found[:12])
        return TrainingSnapshot(tensors, json.loads(header["state"]))
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such checkpoint", hint="name a step-*.safetensors of a run") from exc
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
        raise ArtifactError(f"{path}: not a readable checkpoint ({exc})", hint="name another one") from exc


def _sha256(tensors: Mapping[str, Tensor], state: str) -> str:
    arrays = tensors_sha256({name: value.numpy() for name, value in tensors.items()})
    return hashlib.sha256(f"{arrays} {state}".encode()).hexdigest()


def newest(folder: Path, report: Callable[[str], None]) -> tuple[Path, TrainingSnapshot] | None:
    """Return the newest undamaged checkpoint; call `report` for each damaged one that is skipped."""
    for path in reversed(listed(folder)):
        try:
            return path, read(path)
        except ArtifactError as exc:
            report(f"{exc}; falling back to the checkpoint before it")
    return None


def prune(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the last `keep` checkpoints and the one of step `best`."""
    kept = None if best is None else path_of(folder, best)
    for path in listed(folder)[:-keep]:
        if path != kept:
            path.unlink(missing_ok=True)
