"""Simulation compared with exact results of queueing theory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shrinkserve.benchmark.capacity import Replica, Service, highest_rate, plan_capacity, simulate
from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.benchmark.load.triton_stats import Phases, ServerTime
from shrinkserve.benchmark.service_times import most_measured, read_service
from shrinkserve.errors import ArtifactError, ConfigError

FIXED = Service("server grpc", (1,), (0.01,), np.ones(1), overhead=0.0)
EXPONENTIAL = Service("server grpc", (1,), (0.01,), -np.log1p(-np.linspace(0, 1, 20001)[:-1]), overhead=0.0)


def test_m_d_1_equals_pollaczek_khinchine() -> None:
    for load in (0.3, 0.6, 0.8):
        waited = simulate(Replica(FIXED, max_batch=1), load / 0.01).mean() - 0.01
        assert waited == pytest.approx(0.01 * load / (2 * (1 - load)), rel=0.15)


def test_m_m_1_has_exponential_latency() -> None:
    latencies = simulate(Replica(EXPONENTIAL, max_batch=1), 50.0)
    mean = 0.01 / (1 - 0.5)
    assert latencies.mean() == pytest.approx(mean, rel=0.1)
    assert np.percentile(latencies, 99) == pytest.approx(mean * math.log(100), rel=0.15)


def test_two_instances_equal_erlang_c() -> None:
    waited = simulate(Replica(EXPONENTIAL, max_batch=1, instances=2), 120.0).mean() - 0.01
    a, c = 1.2, 2
    waiting = a**c / math.factorial(c) * c / (c - a)
    probability = waiting / (sum(a**k / math.factorial(k) for k in range(c)) + waiting)
    assert waited == pytest.approx(probability * 0.01 / (c - a), rel=0.2)


def test_batching_serves_rates_beyond_single_requests() -> None:
    cheap = Service("server grpc", (1, 8), (0.010, 0.017), np.ones(1), overhead=0.001)
    assert cheap.of(4) == pytest.approx(0.013)
    assert cheap.of(16) == pytest.approx(0.034)
    latencies = simulate(Replica(cheap, max_batch=8), 250.0)  # 2.5 times what batch 1 could
    assert np.percentile(latencies, 99) < 0.06
    assert latencies.min() == pytest.approx(0.011)


def test_capacity_is_that_of_full_batches() -> None:
    """The batcher takes all waiting requests: at higher rates than full batches serve, the queue grows."""
    replica = Replica(Service("server grpc", (1, 8), (0.010, 0.100), np.ones(1), overhead=0.0), max_batch=8)
    assert replica.capacity == replica.unbatched_rate == pytest.approx(80.0)
    assert np.percentile(simulate(replica, 90.0), 50) > 10 * np.percentile(simulate(replica, 60.0), 50)
    cheap = Replica(Service("server grpc", (1, 8), (0.010, 0.017), np.ones(1), overhead=0.0), max_batch=8)
    assert cheap.unbatched_rate == pytest.approx(100.0)
    assert cheap.capacity > 400


def test_highest_rate_meets_the_objective_and_a_higher_one_does_not() -> None:
    replica, slo = Replica(FIXED, max_batch=1), Slo(99, 0.05)
    rate = highest_rate(replica, slo)
    assert np.percentile(simulate(replica, rate), 99) <= 0.05
    assert np.percentile(simulate(replica, 1.05 * rate), 99) > 0.05
    plan = plan_capacity(replica, 1000.0, slo)
    assert plan.replicas == math.ceil(1000 / rate)
    assert plan.p99_ms <= 50


def test_objective_below_the_service_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be met"):
        plan_capacity(Replica(FIXED, max_batch=1), 100.0, Slo(99, 0.005))


@pytest.fixture
def load(make_load) -> Callable[..., LoadRecord]:
    """Return a function that makes a load test at concurrency 1 with the given times in milliseconds."""

    def make(batch: int, infer_ms: float, latency_ms: float, **more: object) -> LoadRecord:
        phases = Phases(0.1, 0.1, infer_ms, 0.1)
        server = ServerTime(200, 0, phases, infer_ms + 0.3, 1.0, {})
        return make_load(batch=batch, concurrency=1, p99=latency_ms, server=server, **more)

    return make


@pytest.fixture
def waiting(load) -> Callable[..., LoadRecord]:
    """Return a function that makes a load test in which requests wait: images in an execution, images per second."""

    def make(batch: float, rate: float) -> LoadRecord:
        alone = load(1, 3.8, 12.0, images=rate)
        return replace(alone, concurrency=8, server=replace(alone.server, images_per_execution=batch))

    return make


def test_read_service_derives_service_times(load) -> None:
    service = read_service([load(8, 17.8, 20.0), load(1, 3.8, 5.0)])
    assert service.sizes == (1, 8)
    assert service.seconds == pytest.approx((0.004, 0.018))
    assert service.overhead == pytest.approx(0.001, rel=0.01)
    assert service.scatter.mean() == pytest.approx(1.0)


def test_read_service_adds_the_time_outside_the_compute_phases(load, waiting) -> None:
    """250 images/s in batches of 3 occupy the instance for 12 ms each, but the compute phases are 8 ms.

    A single request waited 1 ms longer than its compute phases, so at most 1 ms belongs to an execution and the other
    3 ms to the two additional requests.
    """
    service = read_service([load(8, 17.8, 20.0), load(1, 3.8, 5.0), waiting(3.0, 250.0)])
    assert service.seconds == pytest.approx((0.004 + 0.001, 0.018 + 0.001 + 7 * 0.0015), rel=1e-3)
    assert service.of(3) == pytest.approx(0.012, rel=0.01)
    assert service.overhead == pytest.approx(0.0, abs=1e-6)


def test_read_service_with_a_constant_time_for_each_execution(load, waiting) -> None:
    service = read_service([load(8, 17.8, 20.0), load(1, 3.8, 7.0), waiting(3.0, 3 / 0.010)])
    assert service.seconds == pytest.approx((0.004 + 0.002, 0.018 + 0.002))
    assert service.overhead == pytest.approx(0.001, rel=0.01)


def test_read_service_without_batching_uses_the_throughput(load, waiting) -> None:
    assert read_service([load(1, 3.8, 5.0), waiting(1.0, 125.0)]).seconds == pytest.approx((0.008,))


def test_read_service_takes_the_server_with_the_most_batch_sizes(load) -> None:
    loads = [load(1, 3.8, 5.0), load(8, 17.8, 20.0), load(1, 9.0, 11.0, target="server grpc jpeg")]
    assert read_service(loads).target == "server grpc"
    named = read_service(loads, "server grpc jpeg")
    assert (named.target, named.sizes) == ("server grpc jpeg", (1,))


@pytest.mark.parametrize(("batch", "target"), [(1, "server http"), (8, None)])
def test_read_service_refuses_a_record_without_the_load_test(load, batch: int, target: str | None) -> None:
    with pytest.raises(ArtifactError, match="concurrency 1 and batch 1"):
        read_service([load(batch, 17.8, 20.0)], target)


def test_most_measured_is_the_highest_rate_of_single_images(make_load) -> None:
    loads = [make_load(images=50.0), make_load(images=80.0), make_load(images=300.0, batch=8), make_load("x", 900.0)]
    assert most_measured(loads, "server grpc") == 80.0
    assert most_measured(loads, "absent") == 0.0
