"""Documentation of each recipe key, read from the dataclasses: meaning, default and range."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from shrinkserve.config.schema import Recipe

BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}
WORDS = {int: "integer", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Key:
    """Key of a recipe.

    Attributes:
        name: ``section.key``.
        meaning: one or more sentences.
        default: as plain data; None where the key may be left out or is required.
        required: the key has no default.
        values: type and range, for example ``number, > 0``.
    """

    name: str
    meaning: str
    default: object
    required: bool
    values: str


def recipe_keys() -> list[Key]:
    """Return all keys of a recipe in the order of the file.

    Example:
        >>> next(key for key in recipe_keys() if key.name == "schedule.epochs").values
        'integer, > 0'
    """
    return list(_keys(Recipe, ""))


def document_recipe(recipe: Recipe | None = None) -> str:
    """Return a recipe file in which a comment documents each key.

    Args:
        recipe: gives the values. Default: the default of each key.

    Returns:
        TOML. Keys without a value are commented out.

    Example:
        >>> print(document_recipe().splitlines()[-1])
        response_cache = false
    """
    values = None if recipe is None else flatten(recipe.to_dict())
    lines, section = [], ""
    for key in recipe_keys():
        before, _, name = key.name.rpartition(".")
        if before != section:
            section = before
            lines += ["", f"[{section}]"]
        default = f"default {_toml(key.default)}" if not key.required and key.default is not None else ""
        facts = "; ".join(filter(None, [key.values, "required" if key.required else default]))
        lines += [f"# {key.meaning} ({facts})"]
        value = (None if key.required else key.default) if values is None else values.get(key.name)
        lines += [f"# {name} =" if value is None else f"{name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def flatten(raw: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested data with keys such as ``section.key``."""
    found: dict[str, object] = {}
    for key, value in raw.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _toml(value: object) -> str:
    """Return a value as TOML on one line."""
    import tomli_w

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _keys(kind: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(kind, include_extras=True)
    meanings = field_docstrings(kind)
    for field in fields(kind):
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{field.name}.")
        else:
            default = _default(field)
            yield Key(
                prefix + field.name, meanings.get(field.name, ""), default, default is MISSING, _describe_type(hint)
            )


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _describe_type(hint: Any, bounds: tuple[object, ...] = ()) -> str:
    """Return type and range in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _describe_type(arguments[0], arguments[1:])
    if origin in {Union, UnionType}:
        return " or ".join(_describe_type(part) for part in arguments if part is not NoneType)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        count = "list of" if arguments[-1] is Ellipsis else f"{len(arguments)} x"
        return f"{count} {_describe_type(arguments[0])}"
    limits = [f"{sign} {getattr(bound, name)}" for bound in bounds for name, sign in [BOUNDS[type(bound)]]]
    return ", ".join([WORDS[hint], " and ".join(limits)] if limits else [WORDS[hint]])


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass, each as one line."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
