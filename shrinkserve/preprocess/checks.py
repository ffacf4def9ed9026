"""Checks of single values of a preprocessing description."""

from __future__ import annotations

from typing import TypeGuard, get_args

MAX_SIZE = 4096
"""The largest input height and width of a network, in pixels."""
LIMIT = 1e9
"""Numbers of a description are smaller than this: refuses infinity, NaN and integers that no float represents."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return True for a finite number below `LIMIT`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LIMIT


def is_size(value: object) -> bool:
    """Return True for an integer from 1 to `MAX_SIZE`."""
    return type(value) is int and 0 < value <= MAX_SIZE


def are_numbers(values: object, count: int) -> bool:
    """Return True for a tuple of `count` numbers."""
    return isinstance(values, tuple) and len(values) == count and all(map(is_number, values))


def is_colour(values: object) -> bool:
    """Return True for three integers from 0 to 255."""
    return isinstance(values, tuple) and len(values) == 3 and all(type(v) is int and 0 <= v <= 255 for v in values)


def is_word(value: object, kind: object) -> bool:
    """Return True for one of the words of a `Literal`."""
    return isinstance(value, str) and value in get_args(kind)


def one_of(kind: object) -> str:
    """Return the words of a `Literal`, for messages."""
    return f"one of {', '.join(get_args(kind))}"
