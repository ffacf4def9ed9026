"""Dataclasses as JSON data. `shrinkserve.toml.validate` is the way back."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass

OPTIONAL = {"optional": True}
"""Metadata of a dataclass field that is left out of the JSON data where it is None."""


def to_json(value: object, indent: int | None = 1) -> str:
    """Return a dataclass as JSON text.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False) + "\n"


def plain(value: object) -> object:
    """Return dataclasses, at any depth, as dictionaries."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: plain(one) for field, one in pairs if one is not None or not field.metadata.get("optional")}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value
