"""Capacity plan: number of replicas for a rate and a latency objective, simulated from measured service times."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.benchmark.plain import OPTIONAL
from shrinkserve.errors import ConfigError

Seconds = npt.NDArray[np.float64]

ARRIVALS = 40_000
"""Simulated requests: about 400 of them are beyond the 99th percentile."""
WARM = 2_000
"""Requests at the start that are not counted, because the queue starts empty."""
STEPS = 12
"""Bisections in the search for a replica's highest rate."""


@dataclass(frozen=True)
class Service:
    """Service times of one replica.

    Attributes:
        target: name of the measured target.
        sizes: batch sizes, ascending.
        seconds: mean time for which a batch of each size occupies an instance.
        scatter: measured times divided by their mean, to draw the noise of the machine from.
        overhead: seconds of client and network, added to every request.
    """

    target: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    scatter: Seconds
    overhead: float

    def of(self, size: float) -> float:
        """Return the mean seconds of a batch: interpolated, and proportional beyond the largest measured size."""
        if size > self.sizes[-1]:
            return self.seconds[-1] * size / self.sizes[-1]
        return float(np.interp(size, self.sizes, self.seconds))


@dataclass(frozen=True)
class Replica:
    """Server in a capacity plan.

    Attributes:
        service: its service times.
        max_batch: largest batch.
        instances: number of batches at the same time, each at the measured speed.
    """

    service: Service
    max_batch: int
    instances: int = 1

    @property
    def capacity(self) -> float:
        """Requests per second with full batches. The queue grows without bound at higher rates."""
        return self.instances * self.max_batch / self.service.of(self.max_batch)

    @property
    def unbatched_rate(self) -> float:
        """Requests per second that the replica serves with and without batching."""
        return min(self.instances / self.service.of(1), self.capacity)


@dataclass(frozen=True)
class CapacityCheck:
    """Predicted and measured latency of a real replica at one rate; `holds` is None without an objective."""

    requests_per_second: float
    valid: bool
    reasons: list[str]
    requests: int
    predicted_p50_ms: float
    measured_p50_ms: float
    predicted_p99_ms: float
    measured_p99_ms: float
    measured_p99_low_ms: float
    measured_p99_high_ms: float
    holds: bool | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class CapacityPlan:
    """Replicas for a rate and a latency objective.

    Attributes:
        target: name of the measured target.
        slo: the objective as text.
        requests_per_second: rate of all replicas.
        replicas: number of replicas.
        requests_per_second_each: rate of each.
        highest_each: highest rate of a replica that meets the objective.
        capacity_each: highest rate of a replica without an objective.
        p50_ms: simulated median latency.
        p99_ms: simulated 99th percentile.
        measured_each: highest measured rate; higher rates are extrapolated. 0 if unknown.
        check: measurements of a real replica; None without any.
    """

    target: str
    slo: str
    requests_per_second: float
    replicas: int
    requests_per_second_each: float
    highest_each: float
    capacity_each: float
    p50_ms: float
    p99_ms: float
    measured_each: float = 0.0
    check: list[CapacityCheck] | None = field(default=None, metadata=OPTIONAL)

    @property
    def extrapolated(self) -> bool:
        """True if the planned rate of a replica is higher than any measured one."""
        return self.requests_per_second_each > self.measured_each


def simulate(replica: Replica, rate: float, seed: int = 0) -> Seconds:
    """Return latencies of Poisson arrivals at one replica, in seconds.

    A free instance takes the waiting requests, up to the largest batch, in the order of their arrival. This is
    Triton's dynamic batcher without a queue delay.
    """
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, ARRIVALS))
    noise = random.choice(replica.service.scatter, ARRIVALS).tolist()
    times = arrivals.tolist()  # the loop is three times as fast with Python's numbers as with NumPy's
    means = [0.0, *(replica.service.of(size) for size in range(1, replica.max_batch + 1))]
    done: list[float] = []
    free = [0.0] * replica.instances
    while (first := len(done)) < ARRIVALS:
        start = max(heapq.heappop(free), times[first])
        size = bisect_right(times, start, first + 1, min(first + replica.max_batch, ARRIVALS)) - first
        end = start + means[size] * noise[first]  # one draw for each execution
        done += [end] * size
        heapq.heappush(free, end)
    return (np.array(done) - arrivals + replica.service.overhead)[WARM:]


def percentile_ms(latencies: Seconds, percent: float) -> float:
    """Return a percentile of latencies in milliseconds."""
    return 1e3 * float(np.percentile(latencies, percent))


def highest_rate(replica: Replica, slo: Slo) -> float:
    """Return the highest rate at which one replica meets the objective; 0 if it never does."""

    def meets(rate: float) -> bool:
        return percentile_ms(simulate(replica, rate), slo.percent) <= 1e3 * slo.seconds

    low, high = 0.0, replica.capacity
    if not meets(high / 100):
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def plan_capacity(replica: Replica, rate: float, slo: Slo) -> CapacityPlan:
    """Return the number of replicas for a rate.

    Raises:
        ConfigError: no number of replicas meets the objective.
    """
    each = highest_rate(replica, slo)
    if each == 0:
        alone = percentile_ms(simulate(replica, replica.capacity / 100), slo.percent)
        raise ConfigError(
            f"--slo {slo}: cannot be met by any number of replicas",
            expected=f"p{slo.percent:g} of at least {alone:.1f} ms",
            found=f"{1e3 * slo.seconds:g} ms",
            hint="use a faster engine or a weaker objective",
        )
    replicas = math.ceil(rate / each)
    latencies = simulate(replica, rate / replicas)
    return CapacityPlan(
        target=replica.service.target,
        slo=str(slo),
        requests_per_second=rate,
        replicas=replicas,
        requests_per_second_each=rate / replicas,
        highest_each=each,
        capacity_each=replica.capacity,
        p50_ms=percentile_ms(latencies, 50),
        p99_ms=percentile_ms(latencies, 99),
    )
