"""Histogram of execution times, as metrics of the server.

Triton 2.51 has counters and gauges only for its Python backend, so the histogram is three families of counters with the
names and labels of a Prometheus histogram, which `histogram_quantile` reads. Its buckets add up over instances, servers
and time. It does not contain the time in Triton's queue, which no backend learns.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Protocol

NAME = "shrinkserve_execution_seconds"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, float("inf"))
"""Upper bounds in seconds."""
FLUSH_SECONDS = 1.0
"""Least time between two reports. Each of its calls takes 13 us, which is too much for every execution."""


class Counter(Protocol):
    """Triton's `pb_utils.Metric` of the kind counter."""

    def increment(self, value: float) -> None: ...


class Family(Protocol):
    """Triton's `pb_utils.MetricFamily`."""

    def Metric(self, *, labels: Mapping[str, str]) -> Counter: ...  # noqa: N802 - Triton's name


class ExecutionTimes:
    """Execution times of one model instance.

    Args:
        arguments: Triton's arguments of `initialize`.
    """

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self._counts = [0] * len(BUCKETS)
        self._sum = 0.0
        self._flushed = 0.0
        labels = {"model": arguments["model_name"], "version": arguments["model_version"]}
        self._buckets: list[Counter] = []
        try:
            families = [_family(part) for part in ("bucket", "count", "sum")]
            self._buckets = [families[0].Metric(labels={**labels, "le": _bound(bound)}) for bound in BUCKETS]
            self._total, self._seconds = (family.Metric(labels=labels) for family in families[1:])
            self._families = families  # must outlive their counters, so it is the last attribute
        except Exception:  # noqa: BLE001 - a server without metrics refuses in its own ways
            self._buckets = []

    def add(self, seconds: float, requests: int) -> None:
        """Count an execution for each of its requests, and report to the server if it is time."""
        self._counts[bisect_left(BUCKETS, seconds)] += requests
        self._sum += seconds * requests
        now = time.monotonic()
        if self._buckets and now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self._flush()

    def _flush(self) -> None:
        total = 0
        for count, bucket in zip(self._counts, self._buckets, strict=True):
            total += count
            if total:
                bucket.increment(total)
        self._total.increment(total)
        self._seconds.increment(self._sum)
        self._counts, self._sum = [0] * len(BUCKETS), 0.0


def _family(part: str) -> Family:
    import triton_python_backend_utils as pb_utils

    family: Family = pb_utils.MetricFamily(
        name=f"{NAME}_{part}", description="Execution time of requests", kind=pb_utils.MetricFamily.COUNTER
    )
    return family


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else f"{bound:g}"
