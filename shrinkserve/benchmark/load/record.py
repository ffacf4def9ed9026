"""Record of a load test in a bench record; the unit of a figure is in its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shrinkserve.benchmark.load.histogram import LatencyRecord
from shrinkserve.benchmark.load.resources import Resources
from shrinkserve.benchmark.load.triton_stats import ServerTime
from shrinkserve.benchmark.stats import Estimate


@dataclass(frozen=True)
class WindowRecord:
    """Window of a load test."""

    requests: int
    errors: int
    images_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Throughput(Estimate):
    """Throughput with its confidence interval."""

    unit: str = "images/s"


@dataclass(frozen=True)
class LoadRecord:
    """Load test in a bench record.

    Attributes:
        target: name of the target.
        mode: closed or open loop.
        batch: images in a request.
        concurrency: most requests in flight.
        offered_requests_per_second: rate of an open loop; None for a closed loop.
        arrivals: distribution of the arrivals in an open loop; None for a closed loop.
        seconds: length of the measurement.
        requests: number of responses.
        errors: number of failed requests.
        unsent: number of requests that were due and not sent before the end (open loop).
        images_per_second: throughput.
        throughput: the same with its confidence interval.
        latency: latency from the due time.
        windows: the same figures by window.
        server: time inside the server; None if the target keeps no statistics.
        resources: use of this machine.
        valid: True if the figures can be quoted.
        reasons: reasons why not.
    """

    target: str
    mode: Literal["closed", "open"]
    batch: int
    concurrency: int
    offered_requests_per_second: float | None
    arrivals: str | None
    seconds: float
    requests: int
    errors: int
    unsent: int
    images_per_second: float
    throughput: Throughput
    latency: LatencyRecord
    windows: list[WindowRecord]
    server: ServerTime | None
    resources: Resources
    valid: bool
    reasons: list[str]

    @property
    def title(self) -> str:
        """Short description, e.g. ``server grpc, concurrency 4, batch 8``."""
        images = "" if self.batch == 1 else f", batch {self.batch}"
        if self.mode == "closed":
            return f"{self.target}, concurrency {self.concurrency}{images}"
        return f"{self.target}, {self.offered_requests_per_second:g} requests/s {self.arrivals}{images}"

    def percentile(self, name: str) -> Estimate:
        """Return a percentile of the latency in milliseconds, e.g. ``p99``."""
        return self.latency.percentiles[name]
