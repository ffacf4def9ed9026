"""Class names and preprocessing in the metadata of an ONNX file."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.preprocess import Preprocess

PREPROCESS, CLASSES = "shrinkserve.preprocess", "shrinkserve.classes"
MAX_CHARACTERS = 4 << 20
"""Longest value that is parsed."""


@dataclass(frozen=True)
class FileDescription:
    """Description of a file in its own metadata; None for missing parts.

    Attributes:
        classes: class names in the order of the logits: ours, or `names` of Ultralytics.
        preprocess: ours.
        size: height and width of an image: ours, or `imgsz` of Ultralytics.
    """

    classes: list[str] | None = None
    preprocess: Preprocess | None = None
    size: int | None = None

    def check(self, preprocess: Preprocess, classes: Sequence[str], path: Path) -> None:
        """Check that options do not contradict the file.

        Raises:
            ConfigError: another image size or number of classes.
        """
        if self.size is not None and self.size != preprocess.size:
            raise ConfigError(f"{path}: image size", expected=f"{self.size} (its metadata)", found=preprocess.size)
        if self.classes is not None and len(self.classes) != len(classes):
            expected = f"{len(self.classes)} (its metadata)"
            raise ConfigError(f"{path}: number of classes", expected=expected, found=len(classes))


def to_metadata(preprocess: Preprocess, classes: Sequence[str]) -> dict[str, str]:
    """Return the metadata with which a file can be used without its card."""
    return {PREPROCESS: json.dumps(preprocess.to_dict()), CLASSES: json.dumps(list(classes))}


def read_description(properties: Mapping[str, str], where: str) -> FileDescription:
    """Return what the metadata of a file says.

    Args:
        properties: its metadata, which may come from anywhere.
        where: the file, for messages.

    Raises:
        ArtifactError: metadata of ours that is damaged.
    """
    if any(len(value) > MAX_CHARACTERS for value in properties.values()):
        raise ArtifactError(f"{where}: metadata is too long", expected=f"at most {MAX_CHARACTERS} characters")
    if PREPROCESS in properties or CLASSES in properties:
        try:
            raw, names = json.loads(properties.get(PREPROCESS, "null")), json.loads(properties.get(CLASSES, "null"))
            preprocess = None if raw is None else Preprocess.from_dict(raw)
        except (ValueError, TypeError, AttributeError, RecursionError, DataError) as exc:
            raise ArtifactError(f"{where}: damaged metadata ({exc})", hint="export it again") from exc
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ArtifactError(f"{where}: damaged metadata ({CLASSES})", hint="export it again")
        return FileDescription(names, preprocess, None if preprocess is None else preprocess.size)
    return FileDescription(_ultralytics_names(properties), None, _ultralytics_size(properties))


def _ultralytics_names(properties: Mapping[str, str]) -> list[str] | None:
    names = _literal(properties.get("names", ""))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        return None
    return [str(names[index]) for index in range(len(names))]


def _ultralytics_size(properties: Mapping[str, str]) -> int | None:
    size = _literal(properties.get("imgsz", ""))
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1] and isinstance(size[0], int):
        return size[0]
    return None


def _literal(text: str) -> object:
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return found
