"""Number of replicas for a rate and a latency objective, from a bench record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.capacity import CapacityPlan, Replica, plan_capacity
from shrinkserve.benchmark.capacity_check import RealReplica, check_plan
from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.benchmark.plain import to_json
from shrinkserve.benchmark.report.record import BenchRecord, read_record
from shrinkserve.benchmark.service_times import most_measured, read_service
from shrinkserve.benchmark.timing import Timing
from shrinkserve.errors import ConfigError, check_range
from shrinkserve.paths import StrPath


def plan(  # noqa: PLR0913 - the options of the command
    record: BenchRecord | StrPath,
    rate: float,
    slo: str,
    *,
    target: str | None = None,
    max_batch: int = 32,
    instances: int = 1,
    check: str | None = None,
    data: StrPath | None = None,
    window: float = 2.0,
    json: StrPath | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> CapacityPlan:
    """Return the number of replicas that a rate and a latency objective need.

    The latency is simulated from the measured service times of one server, with dynamic batching.

    Args:
        record: result of `bench`, or its file, with closed loops at several concurrencies (1 among them) and batches.
        rate: requests per second of all replicas together.
        slo: latency objective, e.g. ``"p99=20ms"``.
        target: server of the record, e.g. ``"server grpc"``; None for the one with the most batch sizes.
        max_batch: largest batch of a replica.
        instances: number of instances of a replica.
        check: URL of a real replica; its latency is measured at several rates.
        data: dataset for the requests of `check`.
        window: seconds of one window of `check`; three must agree.
        json: file of the plan.
        say: receives a line before each measurement of `check`.

    Returns:
        The number of replicas, the predicted latency, and the measurements of `check`.

    Raises:
        ArtifactError: the record cannot be read or lacks the load tests.
        ConfigError: an option is invalid, the objective cannot be met, or `check` has no `data`.
        DataError: `data` has no validation images.
        RequestError: the server does not respond.

    Example:
        >>> found = plan("report/bench.json", rate=500, slo="p99=20ms")  # doctest: +SKIP
        >>> found.replicas  # doctest: +SKIP
        3
    """
    check_range(1, max_batch=max_batch, instances=instances)
    check_range(0.1, window=window)
    check_range(0.001, rate=rate)
    if check and data is None:
        raise ConfigError("--check", expected="--data with the dataset for the requests", found="none")
    measured = record if isinstance(record, BenchRecord) else read_record(Path(record))
    replica = Replica(read_service(measured.loads, target, instances), max_batch, instances)
    objective = Slo.parse(slo)
    found = plan_capacity(replica, rate, objective)
    found = replace(found, measured_each=most_measured(measured.loads, found.target))
    if check and data is not None:
        real, timing = RealReplica(check, measured.model, Path(data)), Timing(warmup=min(1.0, window), window=window)
        found = replace(found, check=check_plan(found, replica, objective, real, timing, say))
    if json:
        write_atomic(Path(json), to_json(found).encode())
    return found
