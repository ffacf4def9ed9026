"""Duration of a measurement, and the text forms of durations and loads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shrinkserve.errors import ConfigError


@dataclass(frozen=True)
class Timing:
    """How long a load test lasts.

    Attributes:
        warmup: seconds of load that are not counted.
        window: seconds of one window.
        agree: so many windows in a row must agree.
        most: after so many windows the test ends, whether or not they do.
        drain: seconds in which an open loop's last requests may still be answered.
    """

    warmup: float = 1.0
    window: float = 2.0
    agree: int = 3
    most: int = 10
    drain: float = 5.0


def parse_duration(text: str, where: str = "duration") -> float:
    """Seconds of a text such as ``20ms``, ``1.5s`` or ``800us``.

    Raises:
        ConfigError: something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(where, expected="a duration such as 20ms", found=repr(text))
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


def describe_load(load: dict[str, Any]) -> str:
    """What a load test was, in a few words."""
    images = "" if load["batch"] == 1 else f", batch {load['batch']}"
    if load["mode"] == "closed":
        return f"{load['target']}, concurrency {load['concurrency']}{images}"
    return f"{load['target']}, {load['offered_requests_per_second']:g} requests/s {load['arrivals']}{images}"
