"""Check of a capacity plan: predicted and measured latency of a real replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shrinkserve.benchmark.capacity import CapacityCheck, CapacityPlan, Replica, percentile_ms, simulate
from shrinkserve.benchmark.load.plan import pixel_requests
from shrinkserve.benchmark.load.run import open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.benchmark.targets.target import RequestImages, Target, server_target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.data import open_dataset
from shrinkserve.serving.client.client import Client

CHECKED_LOADS = (0.2, 0.4, 0.6, 0.8)
"""Checked rates, as fractions of a replica's rate without batching; the planned rate is checked as well."""
IN_FLIGHT = 64
"""Most requests in flight."""
REQUESTS_PER_WINDOW = 300
"""Least requests in a window: the 99th percentile of fewer depends on a few samples."""


@dataclass(frozen=True)
class RealReplica:
    """Server to check a plan with."""

    url: str
    model: str
    data: Path


def check_plan(
    plan: CapacityPlan, replica: Replica, slo: Slo, real: RealReplica, timing: Timing, say: Callable[[str], None]
) -> list[CapacityCheck]:
    """Measure a real replica at several rates, the planned one last."""
    with Client(real.url) as client:
        served = client.model_info(real.model)
    requests = pixel_requests(open_dataset(real.data, "validation"), served.preprocess, 1)
    target = server_target(real.url, served.model, served.precision)
    rates = [*(load * replica.unbatched_rate for load in CHECKED_LOADS), plan.requests_per_second_each]
    return measure_rates(replica, target, requests, rates, timing, say, slo)


def measure_rates(
    replica: Replica,
    target: Target,
    requests: Sequence[RequestImages],
    rates: Sequence[float],
    timing: Timing,
    say: Callable[[str], None],
    slo: Slo | None = None,
) -> list[CapacityCheck]:
    """Predict and measure the latency of a server at several rates.

    Args:
        replica: model of the server.
        target: the server.
        requests: uint8 [1, S, S, 3] each.
        rates: requests per second.
        timing: duration of each measurement; windows are longer if they would have few requests.
        say: receives a line before each measurement.
        slo: objective to check; None for none.

    Raises:
        RequestError: the server does not respond.
    """
    records = []
    for rate in rates:
        say(f"check: {target.name} at {rate:.1f} requests/s")
        enough = replace(timing, window=max(timing.window, REQUESTS_PER_WINDOW / rate))
        load = open_loop(target, requests, OpenSchedule(rate), IN_FLIGHT, enough)
        predicted, ends = simulate(replica, rate), load.latency.interval(99)
        records.append(
            CapacityCheck(
                requests_per_second=rate,
                valid=load.valid,
                reasons=list(map(str, load.reasons)),
                requests=load.latency.count,
                predicted_p50_ms=percentile_ms(predicted, 50),
                measured_p50_ms=1e3 * load.latency.percentile(50),
                predicted_p99_ms=percentile_ms(predicted, 99),
                measured_p99_ms=1e3 * load.latency.percentile(99),
                measured_p99_low_ms=1e3 * ends.low,
                measured_p99_high_ms=1e3 * ends.high,
                holds=slo.met_by(load) if slo else None,
            )
        )
    return records
