"""The report's charts, each drawn for a wide and for a narrow page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shrinkserve.benchmark.report.svg import line, linear, log_ticks, logarithmic, marker, path, picture, text, ticks

LETTER, TALL, MARK = 7.0, 13.0, 6.0
"""Width of a letter of a label and height of a line, on the safe side, and half a marker; in pixels."""
AXIS = 42.0
"""Where the scale of the load curves ends."""
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class LoadPoint:
    """A load test in the load curves.

    Attributes:
        load: concurrency or requests a second, by which points are joined.
        throughput: images a second.
        p99: of the latency, in milliseconds.
        low: end of its confidence interval.
        high: the other end.
        valid: whether its figures may be quoted; the point is hollow otherwise.
        label: a word beside the point.
        title: what it is.
    """

    load: float
    throughput: float
    p99: float
    low: float
    high: float
    valid: bool
    label: str
    title: str


def load_curves(series: dict[str, list[LoadPoint]], width: float, height: float) -> str:
    """Throughput against the 99th percentile, a line a series.

    Args:
        series: name -> points in the order in which they are joined.
        width: of the picture, in pixels.
        height: of the picture.
    """
    points = [point for one in series.values() for point in one]
    across = ticks(max(point.throughput for point in points), 4 if width < 500 else 6)
    up = ticks(max(max(point.p99 * 1.1, min(point.high, 1.5 * point.p99)) for point in points))
    x, y = linear(0, across[-1], 44, width - 16), linear(0, up[-1], height - 40, 22)
    parts = [text(2, 11, "p99 in ms", kind="small"), text(width - 2, height - 4, "images/s", "end", "small")]
    for value in up:
        parts.append(line(44, y(value), width - 16, y(value), "grid"))
        parts.append(text(38, y(value) + 4, f"{value:g}", "end", "small"))
    parts += [text(x(value), height - 22, f"{value:,g}", "middle", "small") for value in across[:-1]]
    parts.append(text(width - 2, height - 22, f"{across[-1]:,g}", "end", "small"))
    places = {name: [(x(point.throughput), y(point.p99)) for point in one] for name, one in series.items()}
    taken = [(px - MARK, py - MARK, px + MARK, py + MARK) for one in places.values() for px, py in one]
    for number, (name, one) in enumerate(series.items()):
        parts.append(path(places[name], f"curve c{number % 6}"))
        for (px, py), point in zip(places[name], one, strict=True):
            parts.append(line(px, y(point.low), px, max(20.0, y(point.high)), f"whisker c{number % 6}"))
            parts.append(marker(px, py, number, point.title, hollow=not point.valid))
            parts.append(_label(px, py, point.label, width, taken))
    return picture(width, height, "Load curves: throughput against the 99th percentile of the latency", parts)


def _label(x: float, y: float, word: str, width: float, taken: list[Rectangle]) -> str:
    """A point's label where nothing else is, which then is taken; none when there is no such place."""
    for side, base in ((1, y - MARK), (-1, y - MARK), (1, y + MARK + TALL), (-1, y + MARK + TALL)):
        near = x + side * MARK
        left, right = sorted((near, near + side * LETTER * len(word)))
        place = (left, base - TALL, right, base)
        if left >= AXIS and right <= width and not any(_overlap(place, other) for other in taken):
            taken.append(place)
            return text(near, base - 3, word, "start" if side > 0 else "end", "small label")
    return ""


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class LatencyRidge:
    """One load test's latencies.

    Attributes:
        name: what it is.
        buckets: (low, high, count), in milliseconds, ascending.
        marks: percentile name -> milliseconds.
    """

    name: str
    buckets: Sequence[tuple[float, float, int]]
    marks: dict[str, float]


def ridges(loads: Sequence[LatencyRidge], width: float) -> str:
    """Distributions of latency one below the other, on one logarithmic axis.

    Args:
        loads: with a latency each.
        width: of the picture, in pixels.
    """
    low, high = min(one.buckets[0][0] for one in loads), max(one.buckets[-1][1] for one in loads)
    low, high = max(0.9 * low, 1e-3), 1.1 * high
    x = logarithmic(low, high, 6, width - 6)
    row, bottom = 74.0, 74.0 * len(loads) + 8
    parts = []
    for value in log_ticks(low, high, 6 if width < 500 else 12):
        parts.append(line(x(value), 4, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + 16, f"{value:g}", "middle", "small"))
    parts.append(text(width - 4, bottom + 30, "ms, logarithmic", "end", "small"))
    for number, one in enumerate(loads):
        base = row * (number + 1)
        most = max(count for *_, count in one.buckets)
        outline = [(x(one.buckets[0][0]), base)]
        for left, right, count in one.buckets:
            if x(left) - outline[-1][0] > 0.5:  # an empty stretch lies between
                outline += [(outline[-1][0], base), (x(left), base)]
            tall = base - max(1.0, 36 * count / most)
            outline += [(x(left), tall), (x(right), tall)]
        outline.append((outline[-1][0], base))
        parts.append(path(outline, "area"))
        parts.append(line(6, base, width - 6, base, "axis"))
        parts.append(text(6, base - 58, one.name, kind="name"))
        shown = " · ".join(f"{name} {value:.3g}" for name, value in one.marks.items())
        parts.append(text(6, base - 43, f"{shown} ms", kind="small"))
        parts += [line(x(value), base - 38, x(value), base + 3, "mark") for value in one.marks.values()]
    return picture(width, bottom + 36, "Distributions of latency", parts)
