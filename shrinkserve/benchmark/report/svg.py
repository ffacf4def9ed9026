"""What pictures are made of: SVG text without a script, coloured by the page's style sheet, each with a title."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]
"""From a value to a coordinate."""


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A picture that scales to its column and is not drawn larger than it was made."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """A label; `kind` is its class in the style sheet."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points: Sequence[tuple[float, float]], kind: str, more: str = "") -> str:
    """A line through points."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" class="{kind}"{more}/>'


SHAPES = ("M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-5-5H5V5H-5z", "M0-6L6 0L0 6L-6 0z", "M0-6L6 5H-6z")


def marker(x: float, y: float, number: int, title: str, *, hollow: bool = False) -> str:
    """A point of series `number`: series differ in shape as well as in colour."""
    where = f'transform="translate({x:.1f} {y:.1f})"'
    kind = f"hollow c{number % 6}" if hollow else f"s{number % 6}"
    return f'<path d="{SHAPES[number % 4]}" {where} class="{kind}"><title>{escape(title)}</title></path>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Values from `low` to `high` on coordinates from `start` to `end`."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1.0)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """As `linear`, with equal steps for equal ratios."""
    on = linear(math.log(low), math.log(high), start, end)
    return lambda value: on(math.log(min(max(value, low), high)))


def ticks(high: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to beyond `high`, at most `most` steps."""
    raw = max(high, 1e-9) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * (1 - 1e-9))
    return [step * n for n in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """1, 2 and 5 times powers of ten within a range; powers of ten alone where these were too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            break
    return found
