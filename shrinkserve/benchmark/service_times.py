"""Service times of a server, derived from load tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from shrinkserve.benchmark.capacity import Service
from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.load.triton_stats import ServerTime
from shrinkserve.errors import ArtifactError


def read_service(loads: Sequence[LoadRecord], target: str | None = None, instances: int = 1) -> Service:
    """Derive a target's service times from load tests.

    Args:
        loads: closed loops at concurrency 1, preferably with several batch sizes, and one in which requests wait
            (``--concurrency 1 --concurrency 8 --batch 4 ...``).
        target: name of the target; None for the server with the most batch sizes, the last one of several.
        instances: number of instances of the model on the measured server.

    Raises:
        ArtifactError: there is no such load test.
    """
    closed = [load for load in loads if load.mode == "closed" and load.server]
    name = target or _default_target(closed)
    mine = [load for load in closed if load.target == name]
    alone = sorted((load for load in mine if load.concurrency == 1), key=lambda load: load.batch)
    if not alone or alone[0].batch != 1:
        raise ArtifactError(
            f"the record has no load test of {target or 'a server'} at concurrency 1 and batch 1",
            hint="measure one: shrinkserve bench ... --concurrency 1 --concurrency 8 --batch 4 --batch 16 --json FILE",
        )
    single = LatencyHistogram(alone[0].latency.hdr)
    sizes = tuple(load.batch for load in alone)
    compute = tuple(_server(load).mean_ms.compute / 1e3 for load in alone)
    # Without scatter and overhead: used to interpolate the compute phases between batch sizes.
    draft = Service(name, sizes, compute, np.ones(1), 0.0)
    busy = _busy_time(mine, draft, instances, single.mean)
    seconds = tuple(own + more for own, more in zip(compute, busy, strict=True))
    overhead = max(0.0, single.mean - seconds[0])
    drawn = np.array([single.percentile(p) for p in np.linspace(0.05, 99.95, 1000)])
    # The shortest latencies may be below the mean overhead; service times stay above zero.
    noise = np.maximum(drawn - overhead, 0.1 * seconds[0])
    return Service(name, sizes, seconds, noise / noise.mean(), overhead)


def _default_target(closed: Sequence[LoadRecord]) -> str:
    """Return the target with the most batch sizes at concurrency 1, the last one of several; empty without any."""
    counts = Counter(load.target for load in reversed(closed) if load.concurrency == 1)
    return max(counts, key=lambda name: counts[name], default="")


def _server(load: LoadRecord) -> ServerTime:
    assert load.server is not None
    return load.server


def _busy_time(loads: Sequence[LoadRecord], compute: Service, instances: int, alone: float) -> list[float]:
    """Return the seconds for which an execution of each size occupies an instance in addition to its compute phases.

    Triton's compute phases do not include the transfer to the backend's process (constant for an execution) and the
    CPU time of the frontend on the same cores (proportional to the number of requests in a batch). So this time is a
    linear function of the batch size. Two points define it:

    * While requests wait, no instance is idle. An execution then occupies an instance for ``instances / executions per
      second``. This point is at the mean batch size of the load test with the highest throughput.
    * A single request cannot occupy an instance for longer than its client waited. This point is at batch size 1.

    Args:
        loads: closed loops of the target.
        compute: compute phases of each batch size.
        instances: number of instances.
        alone: mean latency of a single request at concurrency 1, in seconds.
    """
    waiting = [load for load in loads if load.batch == 1 and load.concurrency > instances]
    if not waiting:
        return [0.0] * len(compute.sizes)
    busiest = max(waiting, key=lambda load: load.images_per_second)
    batch = _server(busiest).images_per_execution or 1.0
    executions_per_second = busiest.images_per_second / batch
    at_batch = max(0.0, instances / executions_per_second - compute.of(batch))
    if batch <= 1:
        return [at_batch] * len(compute.sizes)
    at_one = min(at_batch, max(0.0, alone - compute.of(1)))
    slope = (at_batch - at_one) / (batch - 1)
    return [at_one + slope * (size - 1) for size in compute.sizes]


def most_measured(loads: Sequence[LoadRecord], target: str) -> float:
    """Return the highest measured rate of a target in requests of one image per second."""
    return max((load.images_per_second for load in loads if load.target == target and load.batch == 1), default=0.0)
