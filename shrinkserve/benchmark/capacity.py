"""How many replicas a promised latency needs at a rate: simulated from measured service times, batching included."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.run import open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.benchmark.targets.target import Images, Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import ArtifactError, ConfigError

Seconds = npt.NDArray[np.float64]

ARRIVALS = 40_000
"""Simulated requests: some 400 of them decide a 99th percentile."""
WARM = 2_000
"""The first so many are not counted: the queue starts empty."""
STEPS = 12
"""Halvings of the range in which a replica's highest rate is searched."""


@dataclass(frozen=True)
class Service:
    """What one replica takes.

    Attributes:
        target: the stage that was measured.
        sizes: batch sizes, ascending.
        seconds: mean time for which a batch of each size holds an instance.
        scatter: measured times over their mean, to draw from: what the machine's noise looks like.
        overhead: seconds of client and network, added to every request.
    """

    target: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    scatter: Seconds
    overhead: float

    def of(self, size: int) -> float:
        """Mean seconds of a batch; between measured sizes on the line, beyond the largest in its proportion."""
        return _between(size, self.sizes, self.seconds)


@dataclass(frozen=True)
class Replica:
    """One server.

    Attributes:
        service: its times.
        max_batch: most requests that it computes together.
        instances: batches that it computes at once, each at the measured speed.
    """

    service: Service
    max_batch: int
    instances: int = 1

    @property
    def capacity(self) -> float:
        """Requests a second with every batch full: no queue is stable beyond it."""
        return self.instances * self.max_batch / self.service.of(self.max_batch)

    @property
    def unbatched_rate(self) -> float:
        """Requests a second that it answers whether or not they wait for each other."""
        return min(self.instances / self.service.of(1), self.capacity)


def read_service(record: dict[str, Any], target: str | None = None, instances: int = 1) -> Service:
    """Take a target's service times out of a record of `bench`.

    Args:
        record: with closed loops at concurrency 1, best at several batch sizes, and one at which requests wait
            (``--concurrency 1 --concurrency 8 --batch 4 ...``).
        target: its name; the server with the most batch sizes when None, the last one of several.
        instances: of the model on the server that was measured.

    Raises:
        ArtifactError: no load test to take them from.
    """
    alone = [
        load for load in record["loads"] if load["mode"] == "closed" and load["concurrency"] == 1 and load["server"]
    ]
    counts = Counter(load["target"] for load in reversed(alone))
    name = target or max(counts, key=lambda one: counts[one], default=None)
    mine = sorted((load for load in alone if load["target"] == name), key=lambda load: int(load["batch"]))
    if not mine or mine[0]["batch"] != 1:
        raise ArtifactError(
            f"the record has no load test of {target or 'a server'} at concurrency 1 and batch 1",
            hint="measure one: shrinkserve bench ... --concurrency 1 --concurrency 8 --batch 4 --batch 16 --json FILE",
        )
    sizes = [int(load["batch"]) for load in mine]
    inside = np.array([sum(load["server"]["mean_ms"][p] for p in _COMPUTE) / 1e3 for load in mine])
    single = LatencyHistogram(mine[0]["latency"]["hdr"])
    inside += _held_longer(record, mine[0]["target"], instances, sizes, inside, single.mean)
    drawn = np.array([single.percentile(p) for p in np.linspace(0.05, 99.95, 1000)])
    overhead = max(0.0, single.mean - float(inside[0]))
    noise = np.maximum(drawn - overhead, 0.1 * inside[0])
    return Service(name or "", tuple(sizes), tuple(map(float, inside)), noise / noise.mean(), overhead)


_COMPUTE = ("compute_input", "compute_infer", "compute_output")


def most_measured(record: dict[str, Any], target: str) -> float:
    """The most requests/s of one image that a target was seen to answer: beyond them a plan extrapolates."""
    mine = [load for load in record["loads"] if load["target"] == target and load["batch"] == 1]
    return max((float(load["images_per_second"]) for load in mine), default=0.0)


def _held_longer(
    record: dict[str, Any], target: str, instances: int, sizes: Sequence[int], compute: Seconds, alone: float
) -> Seconds:
    """Seconds by which an execution of each size holds an instance beyond its compute phases.

    Triton's phases leave out the hand-over to the backend's process, which is an execution's, and what the frontend
    takes of the same cores, which grows with the requests of a batch. While requests wait an instance is never idle,
    so there it is held for ``instances / executions a second``; a lone request cannot be held for longer than its
    client waited, `alone` seconds on average. Between and beyond these two sizes of a batch it is a straight line.
    """
    loads = [
        load
        for load in record["loads"]
        if load["mode"] == "closed" and load["target"] == target and load["server"] and load["batch"] == 1
    ]
    waiting = [load for load in loads if load["concurrency"] > instances]
    if not waiting:
        return np.zeros(len(sizes))
    busiest = max(waiting, key=lambda load: float(load["images_per_second"]))
    batch = float(busiest["server"]["images_per_execution"])
    held = instances * batch / float(busiest["images_per_second"])
    most = max(0.0, held - _between(batch, sizes, compute))
    least = min(most, max(0.0, alone - float(compute[0])))
    return least + (most - least) * (np.array(sizes) - 1) / (batch - 1) if batch > 1 else np.full(len(sizes), most)


def _between(size: float, sizes: Sequence[int], seconds: Sequence[float] | Seconds) -> float:
    """Seconds of a batch of `size`: on the line between measured sizes, beyond the largest in its proportion."""
    if size > sizes[-1]:
        return float(seconds[-1] * size / sizes[-1])
    return float(np.interp(size, sizes, seconds))


def simulate(replica: Replica, rate: float, seed: int = 0) -> Seconds:
    """Latencies of Poisson arrivals at one replica, in seconds.

    A free instance takes what waits, up to the largest batch, first come first served: Triton's dynamic batcher
    without a queue delay.
    """
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, ARRIVALS))
    noise = random.choice(replica.service.scatter, ARRIVALS)
    means = [0.0, *(replica.service.of(size) for size in range(1, replica.max_batch + 1))]
    done = np.empty(ARRIVALS)
    free = [0.0] * replica.instances
    first = 0
    while first < ARRIVALS:
        start = max(heapq.heappop(free), float(arrivals[first]))
        waiting = int(np.searchsorted(arrivals, start, side="right"))
        last = min(max(waiting, first + 1), first + replica.max_batch)
        end = start + means[last - first] * float(noise[first])
        done[first:last] = end
        heapq.heappush(free, end)
        first = last
    return (done - arrivals + replica.service.overhead)[WARM:]


def highest_rate(replica: Replica, slo: Slo) -> float:
    """The highest rate at which one replica keeps the promise; 0 when it never does."""

    def holds(rate: float) -> bool:
        return float(np.percentile(simulate(replica, rate), slo.percent)) <= slo.seconds

    low, high = 0.0, replica.capacity
    if not holds(high / 100):
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def size(replica: Replica, rate: float, slo: Slo) -> dict[str, Any]:
    """How many replicas a rate needs.

    Raises:
        ConfigError: no number of them keeps the promise.
    """
    each = highest_rate(replica, slo)
    if each == 0:
        alone = 1e3 * float(np.percentile(simulate(replica, replica.capacity / 100), slo.percent))
        raise ConfigError(
            f"--slo {slo}: cannot be met by any number of replicas",
            expected=f"p{slo.percent:g} of at least {alone:.1f} ms",
            found=f"{1e3 * slo.seconds:g} ms",
            hint="use a faster engine or promise less",
        )
    replicas = math.ceil(rate / each)
    latencies = simulate(replica, rate / replicas)
    return {
        "target": replica.service.target,
        "slo": str(slo),
        "requests_per_second": rate,
        "replicas": replicas,
        "requests_per_second_each": rate / replicas,
        "highest_each": each,
        "capacity_each": replica.capacity,
        "p50_ms": 1e3 * float(np.percentile(latencies, 50)),
        "p99_ms": 1e3 * float(np.percentile(latencies, 99)),
    }


def check(
    replica: Replica,
    target: Target,
    requests: Sequence[Images],
    rates: Sequence[float],
    timing: Timing,
    say: Callable[[str], None],
    a_window: int = 300,
    slo: Slo | None = None,
) -> list[dict[str, Any]]:
    """Predicted and measured latency of a real server at several loads.

    Args:
        replica: what is believed of the server.
        target: the server.
        requests: uint8 [1, S, S, 3] each.
        rates: the loads, in requests/s.
        timing: of each measurement.
        say: told before each.
        a_window: windows are longer than `timing` says where fewer requests would be due in one: a 99th percentile
            of some hundred requests is the luck of a few.
        slo: what each row says about whether it ``holds``.
    """
    rows = []
    for rate in rates:
        say(f"check: {target.name} at {rate:.1f} requests/s")
        enough = replace(timing, window=max(timing.window, a_window / rate))
        load = open_loop(target, requests, OpenSchedule(rate), 64, enough)
        predicted = simulate(replica, rate)
        row: dict[str, Any] = {"requests_per_second": rate, "valid": load.valid, "reasons": load.reasons}
        row["requests"] = load.latency.count
        for percent in (50, 99):
            row[f"predicted_p{percent}_ms"] = 1e3 * float(np.percentile(predicted, percent))
            row[f"measured_p{percent}_ms"] = 1e3 * load.latency.percentile(percent)
        ends = load.latency.interval(99)
        row |= {"measured_p99_low_ms": 1e3 * ends.low, "measured_p99_high_ms": 1e3 * ends.high}
        if slo is not None:
            row["holds"] = slo.holds(load)
        rows.append(row)
    return rows
