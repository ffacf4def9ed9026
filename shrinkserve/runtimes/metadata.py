"""Class names and preprocessing in the metadata of an ONNX file."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.preprocess import Preprocess

PREPROCESS, CLASSES, CONTRACT = "shrinkserve.preprocess", "shrinkserve.classes", "shrinkserve.contract"
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
            ConfigError: another image size, normalisation or number of classes, or the same classes in another order.
        """
        if self.size is not None and self.size != preprocess.size:
            raise ConfigError(f"{path}: image size", expected=f"{self.size} (its metadata)", found=preprocess.size)
        if self.preprocess is not None and _values(self.preprocess) != _values(preprocess):
            expected, found = (", ".join(map(str, _values(one))) for one in (self.preprocess, preprocess))
            what = f"{path}: channel_order, scale, mean and std"
            raise ConfigError(
                what, expected=f"{expected} (its metadata)", found=found, hint="the graph applies its own"
            )
        if self.classes is not None and len(self.classes) != len(classes):
            expected = f"{len(self.classes)} (its metadata)"
            raise ConfigError(f"{path}: number of classes", expected=expected, found=len(classes))
        if self.classes is not None and self.classes != list(classes) and sorted(self.classes) == sorted(classes):
            number = next(i for i, name in enumerate(classes) if name != self.classes[i])
            expected, found = f"{self.classes[number]!r} (its metadata)", repr(classes[number])
            what = f"{path}: order of the classes: class {number}"
            raise ConfigError(what, expected=expected, found=found, hint="leave --labels out")


def _values(preprocess: Preprocess) -> tuple[object, ...]:
    return preprocess.channel_order, preprocess.scale, list(preprocess.mean), list(preprocess.std)


def to_metadata(preprocess: Preprocess, classes: Sequence[str]) -> dict[str, str]:
    """Return the metadata with which a file can be used without its card."""
    return {PREPROCESS: json.dumps(preprocess.to_dict()), CLASSES: json.dumps(list(classes))}


def read_description(properties: Mapping[str, str], where: str) -> FileDescription:
    """Return what the metadata of a file says.

    Args:
        properties: its metadata, which may come from anywhere.
        where: the file, for messages.

    Raises:
        ArtifactError: metadata of ours that is damaged, or images that are not square.
    """
    if any(len(value) > MAX_CHARACTERS for value in properties.values()):
        raise ArtifactError(f"{where}: metadata is too long", expected=f"at most {MAX_CHARACTERS} characters")
    if PREPROCESS in properties or CLASSES in properties:
        return _own_description(properties, where)
    return FileDescription(_ultralytics_names(properties), None, _ultralytics_size(properties, where))


def _own_description(properties: Mapping[str, str], where: str) -> FileDescription:
    """Return what `to_metadata` wrote."""
    try:
        raw, names = (json.loads(properties.get(key, "null")) for key in (PREPROCESS, CLASSES))
        preprocess = None if raw is None else Preprocess.from_dict(raw)
    except (ValueError, TypeError, AttributeError, RecursionError, DataError) as exc:
        raise ArtifactError(f"{where}: damaged metadata ({exc})", hint="export it again") from exc
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ArtifactError(f"{where}: damaged metadata ({CLASSES})", hint="export it again")
    if preprocess is None:
        return FileDescription(names)
    if properties.get(CONTRACT, preprocess.fingerprint) != preprocess.fingerprint:
        expected, found = f"{properties[CONTRACT][:16]!r}, its {CONTRACT}", preprocess.fingerprint
        raise ArtifactError(f"{where}: {PREPROCESS} was changed", expected=expected, found=found)
    return FileDescription(names, preprocess, preprocess.size)


def _ultralytics_names(properties: Mapping[str, str]) -> list[str] | None:
    """Return `names`: a dict with the numbers 0, 1, ... as keys, or a list in older files."""
    names = _literal(properties.get("names", ""))
    if isinstance(names, list | tuple):
        return [str(name) for name in names] or None
    if not isinstance(names, dict):
        return None
    by_number = {str(number): str(name) for number, name in names.items()}
    numbers = [str(number) for number in range(len(names))]
    return [by_number[number] for number in numbers] if by_number and set(by_number) == set(numbers) else None


def _ultralytics_size(properties: Mapping[str, str], where: str) -> int | None:
    """Return `imgsz`: height and width, or one number for both."""
    size = _literal(properties.get("imgsz", ""))
    sides = [side for side in (size if isinstance(size, list | tuple) else [size]) if isinstance(side, int)]
    if len(sides) == 2 and sides[0] != sides[1]:
        found = f"imgsz {size} (its metadata)"
        raise ArtifactError(f"{where}: images are not square", expected="one size", found=found)
    return sides[0] if len(sides) in {1, 2} else None


def _literal(text: str) -> object:
    try:
        found: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return found
