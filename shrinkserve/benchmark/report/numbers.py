"""Figures as text."""

from __future__ import annotations

from shrinkserve.benchmark.stats import Interval


def percent(fraction: float) -> str:
    """Return e.g. ``98.90 %``."""
    return f"{100 * fraction:.2f} %"


def percent_range(ends: Interval) -> str:
    """Return an interval of fractions, e.g. ``97.12 to 99.50``."""
    return f"{100 * ends.low:.2f} to {100 * ends.high:.2f}"


def milliseconds(value: float) -> str:
    """Return three digits, the precision of the histograms: ``0.76``, ``18.3``, ``1,240``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate(value: float) -> str:
    """Return a number per second: ``87.7``, ``7,104``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def figure(value: float, unit: str) -> str:
    """Return a figure in the form of its unit."""
    if unit == "fraction":
        return percent(value)
    return milliseconds(value) if unit == "ms" else rate(value)
