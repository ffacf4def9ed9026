"""Hash, check and copy the files of an artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shrinkserve.atomic import unwritable
from shrinkserve.errors import ArtifactError


def verify_file(path: Path, sha256: str) -> None:
    """Check that a file exists and has the recorded content.

    Raises:
        ArtifactError: the file is missing or its hash differs.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", hint="make the artifact again")
    found = sha256_file(path)
    if found != sha256:
        raise _mismatch(path, sha256, found)


def safe_join(folder: Path, name: str) -> Path:
    """Return ``folder / name`` for an untrusted `name` that must stay inside `folder`.

    Raises:
        ArtifactError: an absolute name, a name that leads out of the folder, or one that no file can have.
    """
    path = folder / name
    try:
        path.resolve()
        path.is_file()
    except (OSError, ValueError) as exc:  # a NUL, a surrogate, a name that is too long
        what = f"{folder}: names a file that cannot exist"
        raise ArtifactError(what, found=ascii(name)[:100], hint="do not use this artifact") from exc
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder}: names a file outside itself", found=repr(name), hint="do not use this artifact")
    return path


def sha256_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def copy_file(source: Path, target: Path, sha256: str | None = None) -> str:
    """Copy a file, hashing it on the way, and return its sha256.

    Args:
        source: the file.
        target: is replaced; another hard link to it keeps its content.
        sha256: the recorded hash of the source; None accepts any content.

    Raises:
        ArtifactError: the source is missing or changed, or the target cannot be written.
    """
    if not source.is_file():
        raise ArtifactError(f"{source}: no such file", hint="make the artifact again")
    digest = hashlib.sha256()
    with unwritable(target):
        target.unlink(missing_ok=True)
        with source.open("rb") as reader, target.open("xb") as writer:
            while block := reader.read(1 << 20):
                digest.update(block)
                writer.write(block)
    found = digest.hexdigest()
    if sha256 is not None and found != sha256:
        raise _mismatch(source, sha256, found)
    return found


def _mismatch(path: Path, expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: sha256 does not match its card",
        expected=expected[:12],
        found=found[:12],
        hint="the file was changed or damaged: make the artifact again",
    )


def tensors_sha256(tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return the hexadecimal sha256 of named tensors: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        if array.dtype == object:  # strings
            array = np.array([str(text).encode() for text in array.flat], np.bytes_)
        builtin = array.dtype.isbuiltin == 1  # other types, e.g. bfloat16, have no buffer and one `str` for all
        digest.update(f"{name}|{array.dtype.str if builtin else array.dtype.name}|{array.shape}|".encode())
        digest.update((array if builtin else array.view(np.uint8)).data.cast("B") if array.size else b"")
    return digest.hexdigest()
