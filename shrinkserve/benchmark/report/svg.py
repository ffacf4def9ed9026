"""Elements of SVG pictures. They have no scripts, a title each, and colours from the page's style sheet.

matplotlib is not used: its pictures have fixed colours, so they do not follow a light or dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]
"""Function from a value to a coordinate."""


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a picture that is shown at its own size; a narrower page scrolls it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """Return a label; `kind` is its class in the style sheet."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def cell(x: float, y: float, side: float, opacity: float, title: str) -> str:
    """Return a square of a heat map."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"'
    return f'<rect {place} class="s0" fill-opacity="{opacity:.2f}"><title>{escape(title)}</title></rect>'


def path(points: Sequence[tuple[float, float]], kind: str, more: str = "") -> str:
    """Return a line through points."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" class="{kind}"{more}/>'


SHAPES = ("M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-5-5H5V5H-5z", "M0-6L6 0L0 6L-6 0z", "M0-6L6 5H-6z")


def marker(x: float, y: float, number: int, title: str, *, hollow: bool = False) -> str:
    """Return a point of series `number`: series differ in shape and colour."""
    where = f'transform="translate({x:.1f} {y:.1f})"'
    kind = f"hollow c{number % 6}" if hollow else f"s{number % 6}"
    return f'<path d="{SHAPES[number % 4]}" {where} class="{kind}"><title>{escape(title)}</title></path>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return a scale of values from `low` to `high` on coordinates from `start` to `end`."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1.0)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return a logarithmic scale; see `linear`."""
    on = linear(math.log(low), math.log(high), start, end)
    return lambda value: on(math.log(min(max(value, low), high)))


def ticks(high: float, most: int = 5) -> list[float]:
    """Return round numbers from 0 to beyond `high`, with at most `most` steps."""
    raw = max(high, 1e-9) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * (1 - 1e-9))
    return [step * n for n in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return 1, 2 and 5 times powers of ten in a range; only powers of ten if these are more than `most`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) <= most:
            break
    return found
