"""What stages hand each other: files that are whole or absent, and a card that says where they came from.

Every stage writes its outputs beside their final place, syncs them and renames them in, so that a reader
never sees half of one. A card (``card.json``) binds files to their sha256 and to what they were made from.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError

CARD = "card.json"
MAX_CARD_BYTES = 64 << 20
"""Of a card that is read; ShrinkCNN-A's has 200 kB."""


@dataclass(frozen=True)
class Card:
    """Provenance of one artifact, stored as ``card.json`` beside its files.

    Attributes:
        kind: ``"checkpoint"``, ``"onnx"`` or ``"engine"``.
        name: the model's name, as Triton will know it.
        weights: which weights these are, ``"ema"`` or ``"raw"``.
        weights_sha256: hash of the weight tensors; the same along the chain checkpoint -> ONNX -> engine.
        files: file name (relative to the card's folder) -> sha256.
        parents: path -> sha256 of what this was made from.
        preprocess: `shrinkserve.preprocess.Preprocess.to_dict()`.
        classes: class names in the order of the logits.
        spec: the network as node-link data (checkpoints only).
        recipe: the frozen recipe (checkpoints only).
        metrics: figures measured on the artifact, e.g. ``{"top1": 0.98}`` as fractions.
        checks: one record a hand-over check: what, tolerance, worst difference, flips.
        details: what else the stage wants to be remembered, e.g. opset or tensor types.
        created: UTC time, ISO 8601.
        versions: of Python, the operating system, this package and the libraries that took part.
    """

    kind: str
    name: str
    weights: str = "ema"
    weights_sha256: str = ""
    files: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    spec: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the card into `folder` atomically and return its path."""
        path = folder / CARD
        write_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())
        return path


def read_card(folder: Path, kind: str | None = None, *, verify: bool = True) -> Card:
    """Read the card of an artifact's folder.

    Args:
        folder: the folder that holds ``card.json``.
        kind: the kind of artifact that is wanted; another one is refused.
        verify: hash every file that the card names and refuse a mismatch.

    Raises:
        ArtifactError: no card, not a card, another kind, or a file that is missing or was changed.
    """
    path = folder / CARD
    try:
        with path.open("rb") as stream:
            card = _parse_card(stream.read(MAX_CARD_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path}: no such card", hint="name the folder that `train` or `export` wrote") from None
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise ArtifactError(f"{path}: not a readable card ({exc})", hint="make the artifact again") from exc
    if kind is not None and card.kind != kind:
        raise ArtifactError(f"{path}: another kind of artifact", expected=kind, found=card.kind)
    if verify:
        for name, expected in card.files.items():
            verify_file(safe_join(folder, name), expected)
    return card


def _parse_card(content: bytes) -> Card:
    """A card out of a file from anywhere; raises `ValueError` or `TypeError` when it is none."""
    if len(content) > MAX_CARD_BYTES:
        raise ValueError(f"more than {MAX_CARD_BYTES} bytes")
    raw = json.loads(content)
    json.dumps(raw, ensure_ascii=False).encode()  # lone surrogates: no file name, label or message can have them
    card = Card(**raw)
    for name, kind in get_type_hints(Card).items():
        if not _fits(getattr(card, name), kind):
            raise ValueError(f"{name} is not what it should be")
    return card


def _fits(value: Any, kind: Any) -> bool:
    """Whether plain data is of a type such as `str` or ``list[dict[str, Any]]``."""
    if kind is Any:
        return True
    inner = get_args(kind)
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, get_origin(kind) or kind) and (not inner or all(_fits(item, inner[-1]) for item in items))


def verify_file(path: Path, sha256: str) -> None:
    """Refuse a file that is missing or whose content is not the one that was recorded.

    Raises:
        ArtifactError: with both hashes.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", hint="make the artifact again")
    found = sha256_file(path)
    if found != sha256:
        raise ArtifactError(
            f"{path}: sha256 does not match its card",
            expected=sha256[:12],
            found=found[:12],
            hint="the file was changed or damaged: make the artifact again",
        )


def safe_join(folder: Path, name: str) -> Path:
    """`folder / name`, where `name` came from outside and must stay inside `folder`.

    Raises:
        ArtifactError: an absolute name, or one that climbs out.
    """
    path = folder / name
    try:
        path.resolve()
        path.is_file()
    except (OSError, ValueError) as exc:  # a NUL, a surrogate, thousands of letters
        what = f"{folder}: names a file that cannot exist"
        raise ArtifactError(what, found=ascii(name)[:100], hint="do not use this artifact") from exc
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder}: names a file outside itself", found=repr(name), hint="do not use this artifact")
    return path


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Hexadecimal sha256 of named tensors: their names, dtypes, shapes and values, whatever file holds them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


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
    return text if home == "/" else re.sub(rf"(?<![^=:]){re.escape(home)}(?=/|$)", "~", text)


def utc_now() -> str:
    """The time now in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, the platform, this package and those of `packages` that are installed.

    With the build of one that is loaded and says it (``2.13.0+cu130``): PyTorch's package leaves it out on PyPI.
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
