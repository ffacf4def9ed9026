"""The simulation against queueing theory, which knows these cases exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shrinkserve.benchmark.capacity import Replica, Service, highest_rate, read_service, simulate, size
from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.slo import Slo
from shrinkserve.errors import ArtifactError, ConfigError

FIXED = Service("server grpc", (1,), (0.01,), np.ones(1), overhead=0.0)
EXPONENTIAL = Service("server grpc", (1,), (0.01,), -np.log1p(-np.linspace(0, 1, 20001)[:-1]), overhead=0.0)


def test_m_d_1_is_pollaczek_khinchine() -> None:
    for load in (0.3, 0.6, 0.8):
        waited = simulate(Replica(FIXED, max_batch=1), load / 0.01).mean() - 0.01
        assert waited == pytest.approx(0.01 * load / (2 * (1 - load)), rel=0.15)


def test_m_m_1_has_exponential_latency() -> None:
    latencies = simulate(Replica(EXPONENTIAL, max_batch=1), 50.0)
    mean = 0.01 / (1 - 0.5)
    assert latencies.mean() == pytest.approx(mean, rel=0.1)
    assert np.percentile(latencies, 99) == pytest.approx(mean * math.log(100), rel=0.15)


def test_two_instances_are_erlang_c() -> None:
    waited = simulate(Replica(EXPONENTIAL, max_batch=1, instances=2), 120.0).mean() - 0.01
    a, c = 1.2, 2
    waiting = a**c / math.factorial(c) * c / (c - a)
    probability = waiting / (sum(a**k / math.factorial(k) for k in range(c)) + waiting)
    assert waited == pytest.approx(probability * 0.01 / (c - a), rel=0.2)


def test_batching_carries_what_single_requests_cannot() -> None:
    cheap = Service("server grpc", (1, 8), (0.010, 0.017), np.ones(1), overhead=0.001)
    assert cheap.of(4) == pytest.approx(0.013)
    assert cheap.of(16) == pytest.approx(0.034)
    latencies = simulate(Replica(cheap, max_batch=8), 250.0)  # 2.5 times what batch 1 could
    assert np.percentile(latencies, 99) < 0.06
    assert latencies.min() == pytest.approx(0.011)


def test_where_batches_cost_more_than_their_images_alone_full_ones_are_the_limit() -> None:
    """The batcher takes what waits: beyond the rate of full batches the queue grows, whatever single ones would do."""
    replica = Replica(Service("server grpc", (1, 8), (0.010, 0.100), np.ones(1), overhead=0.0), max_batch=8)
    assert replica.capacity == replica.unbatched_rate == pytest.approx(80.0)
    assert np.percentile(simulate(replica, 90.0), 50) > 10 * np.percentile(simulate(replica, 60.0), 50)
    cheap = Replica(Service("server grpc", (1, 8), (0.010, 0.017), np.ones(1), overhead=0.0), max_batch=8)
    assert cheap.unbatched_rate == pytest.approx(100.0)
    assert cheap.capacity > 400


def test_the_highest_rate_keeps_the_promise_and_little_more_breaks_it() -> None:
    replica, slo = Replica(FIXED, max_batch=1), Slo(99, 0.05)
    rate = highest_rate(replica, slo)
    assert np.percentile(simulate(replica, rate), 99) <= 0.05
    assert np.percentile(simulate(replica, 1.05 * rate), 99) > 0.05
    plan = size(replica, 1000.0, slo)
    assert plan["replicas"] == math.ceil(1000 / rate)
    assert plan["p99_ms"] <= 50


def test_a_promise_below_the_service_time_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match="cannot be met by any number of replicas: expected p99 of at least 10"):
        size(Replica(FIXED, max_batch=1), 100.0, Slo(99, 0.005))


def record(batch: int, infer_ms: float, latency_ms: float) -> dict:
    histogram = LatencyHistogram()
    for _ in range(200):
        histogram.record(latency_ms / 1e3)
    phases = {"queue": 0.1, "compute_input": 0.1, "compute_infer": infer_ms, "compute_output": 0.1}
    return {
        "target": "server grpc", "mode": "closed", "concurrency": 1, "batch": batch,
        "server": {"mean_ms": phases}, "latency": histogram.to_dict(),
    }  # fmt: skip


def test_service_times_come_out_of_a_record() -> None:
    service = read_service({"loads": [record(8, 17.8, 20.0), record(1, 3.8, 5.0)]})
    assert service.sizes == (1, 8)
    assert service.seconds == pytest.approx((0.004, 0.018))
    assert service.overhead == pytest.approx(0.001, rel=0.01)
    assert service.scatter.mean() == pytest.approx(1.0)


def waiting(batch: float, rate: float) -> dict:
    """A load test in which requests wait: images of an execution, and images a second."""
    load = record(1, 3.8, 12.0) | {"concurrency": 8, "images_per_second": rate}
    load["server"]["images_per_execution"] = batch
    return load


def test_what_an_execution_takes_beyond_its_compute_phases_is_seen_where_requests_wait() -> None:
    """Batches of 3 held the instance for 12 ms, as 250 images/s say; their compute phases are 8 ms by interpolation.

    Of a lone request the client saw 1 ms beyond the compute phases: that is all it can have been held for, and the
    other 3 ms came with the other two requests.
    """
    service = read_service({"loads": [record(8, 17.8, 20.0), record(1, 3.8, 5.0), waiting(3.0, 250.0)]})
    assert service.seconds == pytest.approx((0.004 + 0.001, 0.018 + 0.001 + 7 * 0.0015), rel=1e-3)
    assert service.of(3) == pytest.approx(0.012, rel=0.01)
    assert service.overhead == 0.0  # of 5 ms alone, all is the instance's


def test_a_hand_over_that_is_the_same_for_every_batch_stays_so() -> None:
    service = read_service({"loads": [record(8, 17.8, 20.0), record(1, 3.8, 7.0), waiting(3.0, 3 / 0.010)]})
    assert service.seconds == pytest.approx((0.004 + 0.002, 0.018 + 0.002))
    assert service.overhead == pytest.approx(0.001, rel=0.01)


def test_a_server_that_does_not_batch_is_held_as_long_as_its_throughput_says() -> None:
    service = read_service({"loads": [record(1, 3.8, 5.0), waiting(1.0, 125.0)]})
    assert service.seconds == pytest.approx((0.008,))


def test_the_server_with_the_most_batch_sizes_is_taken_unless_one_is_named() -> None:
    loads = [record(1, 3.8, 5.0), record(8, 17.8, 20.0), {**record(1, 9.0, 11.0), "target": "server grpc jpeg"}]
    assert read_service({"loads": loads}).target == "server grpc"
    named = read_service({"loads": loads}, "server grpc jpeg")
    assert (named.target, named.sizes) == ("server grpc jpeg", (1,))
    with pytest.raises(ArtifactError, match="no load test of server http"):
        read_service({"loads": loads}, "server http")


def test_a_record_without_them() -> None:
    with pytest.raises(ArtifactError, match="at concurrency 1 and batch 1"):
        read_service({"loads": [record(8, 17.8, 20.0)]})
