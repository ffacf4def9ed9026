"""Charts of the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shrinkserve.benchmark.report.svg import (
    cell,
    line,
    linear,
    log_ticks,
    logarithmic,
    marker,
    path,
    picture,
    text,
    ticks,
)
from shrinkserve.calibration import ReliabilityBin
from shrinkserve.confusion import NO_PREDICTION, ConfusionCell

WIDTH = 720.0
"""Width of a chart in pixels."""
LONGEST = 20
"""Letters of a class's name in the confusion matrix."""
LETTER, TALL = 7.0, 13.0
"""Width of a letter and height of a line of a label, rounded up; in pixels."""


@dataclass(frozen=True)
class LoadPoint:
    """Load test in the load curves.

    Attributes:
        load: concurrency or requests per second; points are joined in this order.
        throughput: images per second.
        p99: 99th percentile of the latency in milliseconds.
        low: lower end of its confidence interval.
        high: upper end.
        valid: False for a hollow point.
        label: text at the point; empty for none.
        title: tooltip.
    """

    load: float
    throughput: float
    p99: float
    low: float
    high: float
    valid: bool
    label: str
    title: str


def load_curves(series: dict[str, list[LoadPoint]], height: float = 400.0) -> str:
    """Return throughput against the 99th percentile, one line for each series."""
    points = [point for one in series.values() for point in one]
    across = ticks(max(point.throughput for point in points))
    up = ticks(max(max(point.p99 * 1.1, min(point.high, 1.5 * point.p99)) for point in points))
    left, right, top, bottom = 44.0, WIDTH - 16, 22.0, height - 40
    x, y = linear(0, across[-1], left, right), linear(0, up[-1], bottom, top)
    parts = [text(2, 11, "p99 in ms", kind="small"), text(WIDTH - 2, height - 4, "images/s", "end", "small")]
    for value in up:
        parts += [line(left, y(value), right, y(value), "grid"), text(38, y(value) + 4, f"{value:g}", "end", "small")]
    parts += [text(x(value), bottom + 18, f"{value:,g}", "middle", "small") for value in across[:-1]]
    parts.append(text(WIDTH - 2, bottom + 18, f"{across[-1]:,g}", "end", "small"))
    labels: list[tuple[float, float, float]] = []
    for number, one in enumerate(series.values()):
        parts.append(path([(x(point.throughput), y(point.p99)) for point in one], f"curve c{number % 6}"))
        for point in one:
            px, py = x(point.throughput), y(point.p99)
            parts.append(line(px, y(point.low), px, max(top, y(point.high)), f"whisker c{number % 6}"))
            parts.append(marker(px, py, number, point.title, hollow=not point.valid))
            parts.append(_label(px, py, point.label, labels))
    return picture(WIDTH, height, "Load curves: throughput against the 99th percentile of the latency", parts)


def _label(x: float, y: float, word: str, taken: list[tuple[float, float, float]]) -> str:
    """Return the label of a point; nothing if it would lie on another one. `taken` has (left, right, base) of each."""
    wide, base = LETTER * len(word), y - 9
    left = min(x + 6, WIDTH - wide)
    overlap = any(left < end and start < left + wide and abs(base - other) < TALL for start, end, other in taken)
    if not word or overlap:
        return ""
    taken.append((left, left + wide, base))
    return text(left, base, word, kind="small label")


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Return the accuracy of images by their confidence, with the diagonal of a calibrated model."""
    left, top, side = 44.0, 12.0, 280.0
    x, y = linear(0, 1, left, left + side), linear(0, 1, top + side, top)
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            line(left, y(value), left + side, y(value), "grid"),
            text(38, y(value) + 4, f"{value:g}", "end", "small"),
        ]
        parts.append(text(x(value), top + side + 18, f"{value:g}", "middle", "small"))
    parts += [
        text(left + side, top + side + 34, "confidence", "end", "small"),
        text(left + 4, top + 12, "accuracy", kind="small"),
    ]
    parts.append(line(x(0), y(0), x(1), y(1), "axis"))
    parts.append(path([(x(one.confidence), y(one.accuracy)) for one in bins], "curve c0"))
    for one in bins:
        title = f"{one.images:,} images: confidence {one.confidence:.3f}, accuracy {one.accuracy:.3f}"
        parts.append(marker(x(one.confidence), y(one.accuracy), 0, title))
    return picture(left + side + 8, top + side + 40, "Reliability: accuracy by confidence", parts)


@dataclass(frozen=True)
class LatencyRidge:
    """Latencies of one load test.

    Attributes:
        name: name of the load test.
        buckets: (low, high, count), in milliseconds, ascending.
        marks: name of a percentile -> milliseconds.
    """

    name: str
    buckets: Sequence[tuple[float, float, int]]
    marks: dict[str, float]


def ridges(loads: Sequence[LatencyRidge]) -> str:
    """Return distributions of latency, one below the other, on one logarithmic axis."""
    low, high = min(one.buckets[0][0] for one in loads), max(one.buckets[-1][1] for one in loads)
    low, high = max(0.9 * low, 1e-3), 1.1 * high
    x = logarithmic(low, high, 6, WIDTH - 6)
    row = 74.0
    bottom = row * len(loads) + 8
    parts = []
    for value in log_ticks(low, high, 10):
        parts.append(line(x(value), 4, x(value), bottom, "grid"))
        parts.append(text(x(value), bottom + 16, f"{value:g}", "middle", "small"))
    parts.append(text(WIDTH - 4, bottom + 30, "ms, logarithmic", "end", "small"))
    for number, one in enumerate(loads):
        base = row * (number + 1)
        most = max(count for *_, count in one.buckets)
        outline = [(x(one.buckets[0][0]), base)]
        for left, right, count in one.buckets:
            if x(left) - outline[-1][0] > 0.5:  # a gap between two buckets
                outline += [(outline[-1][0], base), (x(left), base)]
            tall = base - max(1.0, 36 * count / most)
            outline += [(x(left), tall), (x(right), tall)]
        outline.append((outline[-1][0], base))
        parts += [path(outline, "area"), line(6, base, WIDTH - 6, base, "axis")]
        shown = " · ".join(f"{name} {value:.3g}" for name, value in one.marks.items())
        parts += [text(6, base - 58, one.name, kind="name"), text(6, base - 43, f"{shown} ms", kind="small")]
        parts += [line(x(value), base - 38, x(value), base + 3, "mark") for value in one.marks.values()]
    return picture(WIDTH, bottom + 36, "Distributions of latency", parts)


def confusion_matrix(classes: Sequence[str], cells: Sequence[ConfusionCell]) -> str:
    """Return a heat map of the classes that have images: a row per class, a column per prediction.

    A darker square is a larger part of the row. Columns have the numbers of the rows.
    """
    shown = sorted({one.label for one in cells} | {one.prediction for one in cells} - {NO_PREDICTION})
    place = {number: position for position, number in enumerate(shown)}
    totals = {number: sum(one.images for one in cells if one.label == number) for number in shown}
    names = [
        classes[number] if len(classes[number]) <= LONGEST else f"{classes[number][:LONGEST]}..." for number in shown
    ]
    left, top = LETTER * (max(map(len, names)) + 5), 20.0
    side = min(26.0, (WIDTH - left) / len(shown))
    parts = []
    for position, name in enumerate(names):
        middle = (position + 0.5) * side + 4
        parts.append(text(left - 6, top + middle, f"{name}  {position + 1}", "end", "small"))
        parts.append(text(left + middle - 4, top - 6, str(position + 1), "middle", "small"))
    for one in cells:
        if one.prediction != NO_PREDICTION:
            x, y = left + place[one.prediction] * side, top + place[one.label] * side
            title = f"{classes[one.label]} predicted as {classes[one.prediction]}: {one.images} of {totals[one.label]}"
            parts.append(cell(x, y, side - 1, one.images / totals[one.label], title))
    return picture(WIDTH, top + len(shown) * side + 4, "Confusion matrix", parts)
