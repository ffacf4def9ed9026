"""Figures as people read them."""

from __future__ import annotations


def percent(fraction: float) -> str:
    """``98.90 %``."""
    return f"{100 * fraction:.2f} %"


def milliseconds(value: float) -> str:
    """Three digits, as many as the histograms hold: ``0.761``, ``18.3``, ``1,240``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate(value: float) -> str:
    """Of something a second: ``87.7``, ``7,104``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def figure(value: float, unit: str) -> str:
    """A figure of a comparison in its unit."""
    if unit == "fraction":
        return percent(value)
    return milliseconds(value) if unit == "ms" else rate(value)
