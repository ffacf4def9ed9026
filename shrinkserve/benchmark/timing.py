"""Duration of a measurement, and the text form of durations."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shrinkserve.errors import ConfigError


@dataclass(frozen=True)
class Timing:
    """Duration of a load test.

    Attributes:
        warmup: seconds of load before the measurement starts.
        window: seconds of one window.
        agree: number of consecutive windows that must agree.
        most: number of windows after which the test ends even if they do not agree.
        drain: seconds to wait for the last requests of an open loop.
    """

    warmup: float = 1.0
    window: float = 2.0
    agree: int = 3
    most: int = 10
    drain: float = 5.0


def parse_duration(text: str, where: str = "duration") -> float:
    """Return the seconds of a text such as ``20ms``, ``1.5s`` or ``800us``.

    Raises:
        ConfigError: the text is not a positive duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(where, expected="a duration such as 20ms", found=repr(text))
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]
