"""The report's pictures as SVG text: no script, colours from the page's style sheet, a title for screen readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 640
PHASES = ("queue", "compute_input", "compute_infer", "compute_output", "client and network")


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A picture that scales to its column."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """A label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def chain(stages: Sequence[dict[str, object]], flips: dict[tuple[int, int], int], reference: int) -> str:
    """The stages as boxes from left to right, the number of flips on each arrow."""
    depth: list[int] = []
    for stage in stages:
        parent = stage["parent"]
        depth.append(0 if parent is None else depth[int(str(parent))] + 1)
    rows = [depth[:n].count(level) for n, level in enumerate(depth)]
    box, gap, high = 150.0, 90.0, 64.0
    places = [(level * (box + gap) + 4, row * high + 20) for level, row in zip(depth, rows, strict=True)]
    parts = []
    for own, stage in enumerate(stages):
        x, y = places[own]
        parent = stage["parent"]
        if parent is not None:
            before = int(str(parent))
            x0, y0 = places[before][0] + box, places[before][1] + 20
            count = flips[before, own]
            kind = "bad" if count and stage["exact"] and stages[before]["exact"] else "line"
            parts.append(
                f'<line x1="{x0}" y1="{y0}" x2="{x - 7}" y2="{y + 20}" class="{kind}" marker-end="url(#tip)"/>'
            )
            label = f"{count} flip{'' if count == 1 else 's'}"
            parts.append(text((x0 + x) / 2 - 4, y0 + 0.7 * (y + 20 - y0) - 6, label, "middle", "halo"))
        kind = "box reference" if own == reference else "box"
        parts.append(f'<rect x="{x}" y="{y}" width="{box}" height="40" rx="6" class="{kind}"/>')
        parts.append(text(x + box / 2, y + 25, str(stage["name"]), "middle"))
    tip = '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    tip += '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
    width = max(x for x, _ in places) + box + 4
    return svg(width, max(y for _, y in places) + 48, "Chain of stages with flips on each arrow", [tip, *parts])


def distribution(buckets: Sequence[tuple[float, float, int]], marks: dict[str, float], title: str) -> str:
    """One load test's latencies on a logarithmic axis.

    Args:
        buckets: (low, high, count), seconds.
        marks: percentile name -> seconds.
        title: what it is.
    """
    if not buckets:
        return ""
    low, high = math.log10(max(buckets[0][0], 1e-6)), math.log10(buckets[-1][1])
    span = max(high - low, 1e-6)
    most = max(count for _, _, count in buckets)

    def at(seconds: float) -> float:
        return 10 + (WIDTH - 20) * (math.log10(max(seconds, 1e-6)) - low) / span

    parts = []
    for left, right, count in buckets:
        height = 60 * count / most
        wide = max(1.0, at(right) - at(left) - 0.5)
        parts.append(
            f'<rect x="{at(left):.1f}" y="{70 - height:.1f}" width="{wide:.1f}" height="{height:.1f}" class="s0"/>'
        )
    for number, (name, seconds) in enumerate(marks.items()):
        x = at(seconds)
        parts.append(f'<line x1="{x:.1f}" y1="6" x2="{x:.1f}" y2="70" class="mark"/>')
        anchor = "end" if x > WIDTH * 0.8 else "start"
        parts.append(text(x, 84 + 13 * number, f"{name} {1e3 * seconds:.2f} ms", anchor, "small"))
    return svg(WIDTH, 88 + 13 * len(marks), title, parts)


def load_curve(points: dict[str, list[tuple[float, float, str]]]) -> str:
    """Throughput against p99, a line a target.

    Args:
        points: target -> (images/s, p99 in ms, what the load was), in order.
    """
    everything = [point for line in points.values() for point in line]
    if not everything:
        return ""
    right, top = 1.1 * max(p[0] for p in everything), 1.15 * max(p[1] for p in everything)
    height, left = 260.0, 56.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (WIDTH - left - 20) * x / right, height - 40 - (height - 60) * y / top

    parts = []
    for step in range(5):
        x, y = place(right * step / 4, top * step / 4)
        parts += [f'<line x1="{left}" y1="{y:.1f}" x2="{WIDTH - 20}" y2="{y:.1f}" class="grid"/>']
        parts += [text(left - 6, y + 4, f"{top * step / 4:.3g}", "end", "small")]
        parts += [text(x, height - 24, f"{right * step / 4:.3g}", "middle", "small")]
    parts += [text(left, 12, "p99 in ms", "start", "small"), text(WIDTH - 20, height - 6, "images/s", "end", "small")]
    for number, (name, line) in enumerate(points.items()):
        places = [place(x, y) for x, y, _ in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" class="curve c{number % 4}"/>')
        for (x, y), (_, _, label) in zip(places, line, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="s{number % 4}"><title>{escape(label)}</title></circle>'
            )
        parts.append(text(WIDTH - 20, 14 + 14 * number, name, "end", f"t{number % 4}"))
    return svg(WIDTH, height, "Load curves: throughput against 99th percentile", parts)


def stacked(phases: dict[str, float], longest: float, title: str) -> str:
    """Where the mean request's time goes, milliseconds a phase, on a scale that ends at `longest`."""
    parts, x = [], 0.0
    for number, name in enumerate(PHASES):
        wide = WIDTH * max(0.0, phases.get(name, 0.0)) / longest
        parts.append(
            f'<rect x="{x:.1f}" y="2" width="{wide:.1f}" height="20" class="p{number}"><title>{name}</title></rect>'
        )
        x += wide
    return svg(WIDTH, 24, title, parts)
