"""Search for the highest rate that keeps a latency objective (the server scenario of MLPerf)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.load.run import Load, closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.load.validity import Reason
from shrinkserve.benchmark.targets.target import RequestImages, Target
from shrinkserve.benchmark.timing import Timing, parse_duration
from shrinkserve.errors import ConfigError

PROBE = 8
"""Concurrency of the closed loop that gives the upper end of the search."""
STEPS = 6
"""Number of bisections: the rate is found to within 1/64 of the closed loop's throughput."""
LEAST = 0.05
"""Lowest rate of the search, as a fraction of the closed loop's throughput."""


@dataclass(frozen=True)
class Slo:
    """Latency objective such as ``p99=20ms``: the percentile of the latency is at most this many seconds."""

    percent: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Parse a text such as ``p99=20ms``.

        Raises:
            ConfigError: the text has another form.
        """
        match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)=(.+)", text.strip())
        if match is None or not 0 < float(match[1]) < 100:
            raise ConfigError("--slo", expected="an objective such as p99=20ms", found=repr(text))
        return cls(float(match[1]), parse_duration(match[2], "--slo"))

    def met_by(self, load: Load) -> bool:
        """Return True if a load test met the objective and all requests got a response.

        A late load generator does not matter: it makes the latency longer only.
        """
        failed = any(one.reason in {Reason.ERRORS, Reason.OVERLOADED} for one in load.reasons)
        return not failed and load.latency.percentile(self.percent) <= self.seconds

    def __str__(self) -> str:
        return f"p{self.percent:g}={1e3 * self.seconds:g}ms"


@dataclass(frozen=True)
class SearchRecord:
    """Result of a search.

    Attributes:
        target: name of the target.
        slo: the objective as text.
        percent: its percentile.
        bound_ms: its bound.
        requests_per_second: highest rate that meets it; 0 if none does.
        images_per_second: images of those requests.
        closed_loop_requests_per_second: throughput of the closed loop.
        trials: the load tests.
    """

    target: str
    slo: str
    percent: float
    bound_ms: float
    requests_per_second: float
    images_per_second: float
    closed_loop_requests_per_second: float
    trials: list[LoadRecord]


def search(
    target: Target,
    requests: Sequence[RequestImages],
    slo: Slo,
    in_flight: int,
    timing: Timing,
    say: Callable[[str], None],
) -> SearchRecord:
    """Find the highest rate of Poisson arrivals that meets an objective, by bisection.

    Args:
        target: target of the requests.
        requests: requests, sent in turn.
        slo: the objective.
        in_flight: most requests in flight.
        timing: duration of each trial.
        say: receives a line before each trial.

    Raises:
        RequestError: the target does not respond.
    """
    capacity = closed_loop(target, requests, PROBE, timing)
    top = capacity.throughput / capacity.batch
    trials: list[LoadRecord] = []

    def meets(rate: float) -> bool:
        say(f"slo: {target.name}, {slo} at {rate:.0f} requests/s")
        load = open_loop(target, requests, OpenSchedule(rate), in_flight, timing)
        trials.append(load.to_record())
        return slo.met_by(load)

    good, bad = 0.0, 1.2 * top  # an open loop has more requests in flight than the probe, so it may serve more
    if top > 0 and meets(LEAST * top):
        good = LEAST * top
        for _ in range(STEPS):
            middle = (good + bad) / 2
            good, bad = (middle, bad) if meets(middle) else (good, middle)
    return SearchRecord(
        target=target.name,
        slo=str(slo),
        percent=slo.percent,
        bound_ms=1e3 * slo.seconds,
        requests_per_second=good,
        images_per_second=good * capacity.batch,
        closed_loop_requests_per_second=top,
        trials=trials,
    )
