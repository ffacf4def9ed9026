"""The highest rate that a promise holds at: MLPerf's server scenario."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.targets.target import Images, Target
from shrinkserve.benchmark.timing import Timing, parse_duration
from shrinkserve.errors import ConfigError

PROBE = 8
"""Concurrency of the closed loop that says where to look."""
STEPS = 6
"""Halvings of the range: the rate is found to within 1/64 of what the closed loop reached."""
LEAST = 0.05
"""The lowest rate that is tried, as a fraction of what the closed loop reached."""


@dataclass(frozen=True)
class Slo:
    """A promise such as ``p99=20ms``: that percentile of the latency is at most so many seconds."""

    percent: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read ``p99=20ms``.

        Raises:
            ConfigError: something else.
        """
        match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)=(.+)", text.strip())
        if match is None or not 0 < float(match[1]) < 100:
            raise ConfigError("--slo", expected="a promise such as p99=20ms", found=repr(text))
        return cls(float(match[1]), parse_duration(match[2], "--slo"))

    def holds(self, load: Load) -> bool:
        """Whether a load test kept the promise and everything that was asked was answered.

        A generator that is late only makes the latency longer: a promise that holds all the same holds.
        """
        broken = any(reason.startswith(("errors", "overloaded")) for reason in load.reasons)
        return not broken and load.latency.percentile(self.percent) <= self.seconds

    def __str__(self) -> str:
        return f"p{self.percent:g}={1e3 * self.seconds:g}ms"


def search(
    target: Target, requests: Sequence[Images], slo: Slo, in_flight: int, timing: Timing, say: Callable[[str], None]
) -> dict[str, Any]:
    """Find the highest rate of Poisson arrivals at which the promise holds, by halving.

    Args:
        target: what is measured.
        requests: what is sent in turn.
        slo: the promise.
        in_flight: most requests under way at once.
        timing: of each trial.
        say: told before each trial.

    Returns:
        ``requests_per_second``, 0 when the promise does not even hold at `LEAST` of the capacity, and the trials.

    Raises:
        RequestError: nobody answers.
    """
    capacity = closed_loop(target, requests, PROBE, timing)
    top = capacity.throughput / capacity.batch
    trials: list[Load] = []

    def try_rate(rate: float) -> bool:
        say(f"slo: {target.name}, {slo} at {rate:.0f} requests/s")
        trials.append(open_loop(target, requests, OpenSchedule(rate), in_flight, timing))
        return slo.holds(trials[-1])

    holds, fails = 0.0, 1.2 * top
    if top > 0 and try_rate(LEAST * top):
        holds = LEAST * top
        for _ in range(STEPS):
            middle = (holds + fails) / 2
            holds, fails = (middle, fails) if try_rate(middle) else (holds, middle)
    return {
        "target": target.name,
        "slo": str(slo),
        "percent": slo.percent,
        "bound_ms": 1e3 * slo.seconds,
        "requests_per_second": holds,
        "images_per_second": holds * capacity.batch,
        "closed_loop_requests_per_second": top,
        "trials": [trial.to_dict() for trial in trials],
    }
