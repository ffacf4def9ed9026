"""Checked dataclasses from TOML files and other plain data.

`load_toml` reads a file, `validate` checks plain data. Both report all errors in one message: unknown keys (with the
nearest known key), wrong types, and values out of range.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from shrinkserve.errors import ConfigError, ShrinkServeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

MAX_BYTES = 4 << 20
"""The largest TOML file that is read."""
SHOWN = 80
"""The longest value shown in a message, in characters."""

T = TypeVar("T")


def load_toml(kind: type[T], path: Path, *, check: Callable[[T], Sequence[str]] | None = None) -> T:
    """Load a TOML file into a dataclass.

    Args:
        kind: the dataclass. Its annotations give types and ranges (`annotated_types`); sections are nested dataclasses.
        path: the file.
        check: return one message per inconsistency between valid values.

    Returns:
        The instance.

    Raises:
        ConfigError: cannot read the file, or its content does not fit `kind`.

    Example:
        >>> import tempfile
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Limits:
        ...     images: int = 10
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "limits.toml")
        ...     _ = path.write_text("images = 3")
        ...     load_toml(Limits, path)
        Limits(images=3)
    """
    return validate(kind, read_toml(path), str(path), check=check)


def read_toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file as plain data.

    Raises:
        ConfigError: cannot read the file, or it is not TOML.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: cannot read the file ({getattr(exc, 'strerror', exc)})") from exc
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: the file is too large", expected=f"at most {MAX_BYTES} bytes")
    try:
        return parse_toml(content.decode("utf-8-sig"))  # some editors write a byte order mark
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not valid TOML ({exc})", hint="fix the line that it names") from exc


def parse_toml(text: str) -> dict[str, object]:
    """Return the content of TOML text as plain data.

    Raises:
        ValueError: not TOML.
    """
    return tomllib.loads(text)


def validate(
    kind: type[T],
    raw: Mapping[str, object],
    where: str,
    *,
    check: Callable[[T], Sequence[str]] | None = None,
    error: type[ShrinkServeError] = ConfigError,
    hint: str | None = None,
) -> T:
    """Check plain data and return it as a dataclass.

    The check is strict: ``"3"`` is no number and 1 is no boolean. Lists may become tuples. Infinity and NaN are errors.

    Args:
        kind: the dataclass.
        raw: TOML or JSON data.
        where: file name or other source, for the message.
        check: return one message per inconsistency between valid values.
        error: the class of the error to raise.
        hint: what to do, for the message.

    Raises:
        ShrinkServeError: an `error` that lists all unknown keys, wrong types and values out of range.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Limits:
        ...     images: int = 10
        >>> validate(Limits, {"image": 3}, "limits.toml")
        Traceback (most recent call last):
        shrinkserve.errors.ConfigError: limits.toml: image: unknown key, did you mean images?
    """
    from pydantic import ValidationError

    try:
        # JSON mode is the strict mode in which a list may become a tuple.
        adapter = _adapter(kind)  # type: ignore[arg-type] # mypy: a type is not Hashable
        found: T = adapter.validate_json(json.dumps([raw], default=str), strict=True)[0]
        problems = list(check(found)) if check else []
    except ValidationError as exc:
        problems = _describe_all(kind, raw, exc.errors(include_url=False))
    except RecursionError:
        problems = ["nested too deeply"]
    if problems:
        raise error(f"{where}: {'; '.join(problems)}", hint=hint)
    return found


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # pydantic takes no configuration for a dataclass that is not its own, but passes a list's on to the items.
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _describe_all(kind: type, raw: object, problems: Sequence[ErrorDetails]) -> list[str]:
    """Return one line for each key. pydantic reports each type of a union; their expectations are joined by "or"."""
    lines: dict[tuple[int | str, ...], str] = {}
    for problem in problems:
        path = _path_in(raw, problem["loc"][1:])
        line = _describe(kind, path, problem)
        if path in lines and ": expected " in line:
            first, _, found = lines[path].rpartition(", found ")
            line = f"{first} or {line.partition(': expected ')[2].rpartition(', found ')[0]}, found {found}"
        lines[path] = line
    return list(lines.values())


def _path_in(raw: object, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the path of a key without the name of a union's type, which pydantic adds."""
    for depth, part in enumerate(loc):
        if isinstance(raw, Mapping):
            raw = raw.get(str(part))
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
        elif raw is not None:
            return loc[:depth]
    return loc


def _describe(kind: type, path: tuple[int | str, ...], problem: ErrorDetails) -> str:
    """Return one line: the key, what was expected and what was found."""
    key = ".".join(map(str, path)) or "top level"
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key}: unknown key, {_suggest(str(path[-1]), _keys(kind, path[:-1]))}"
    if problem["type"] in {"missing", "missing_argument"}:
        return f"{key}: missing"
    found = repr(problem["input"])
    found = found if len(found) <= SHOWN else f"{found[:SHOWN]}..."
    message = problem["msg"].replace("Input should be", "expected").replace("Value error, ", "")
    return f"{key}: {message}, found {found}"


def _suggest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"


def _keys(kind: type, path: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at `path`."""
    for part in path:
        kind = get_type_hints(kind).get(str(part), kind) if is_dataclass(kind) else kind
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []
