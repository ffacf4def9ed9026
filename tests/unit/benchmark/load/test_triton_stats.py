"""Readings have the form of a real Triton 2.51 (one instance), reduced to the fields that are used."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from shrinkserve.benchmark.load.triton_stats import BatchTime, TritonStatistics


def reading(count: int, queue: int, infer: int, executions: int, batches: dict[int, tuple[int, int]]) -> dict:
    phases = {
        "success": {"count": count, "ns": queue + infer},
        "queue": {"count": count, "ns": queue},
        "compute_input": {"count": count, "ns": 1000 * count},
        "compute_infer": {"count": count, "ns": infer},
        "compute_output": {"count": count, "ns": 500 * count},
    }
    return {
        "name": "tiny",
        "version": "1",
        "inference_count": count,
        "execution_count": executions,
        "inference_stats": phases,
        "batch_stats": [
            {"batch_size": size, "compute_infer": {"count": n, "ns": ns}} for size, (n, ns) in batches.items()
        ],
    }


def measured(before: dict, after: dict) -> TritonStatistics:
    readings = iter([before, after])
    statistics = TritonStatistics(lambda: next(readings))
    statistics.begin()
    statistics.end()
    return statistics


def test_statistics_are_the_difference_of_two_readings() -> None:
    found = measured(
        reading(10, 5_000_000, 20_000_000, 10, {1: (10, 20_000_000)}),
        reading(30, 45_000_000, 100_000_000, 20, {1: (12, 24_000_000), 4: (6, 30_000_000)}),
    ).to_record()
    assert found is not None
    assert found.requests == 20
    assert asdict(found.mean_ms) == pytest.approx(
        {"queue": 2.0, "compute_input": 0.001, "compute_infer": 4.0, "compute_output": 0.0005}
    )
    assert found.images_per_execution == 2.0
    assert found.batches == {"1": BatchTime(2, pytest.approx(2.0)), "4": BatchTime(6, pytest.approx(5.0))}


def test_statistics_take_missing_counters_as_zero() -> None:
    # protobuf's JSON leaves out zeros: a model without requests has no counters
    found = measured({"name": "tiny"}, reading(4, 400, 4000, 4, {})).to_record()
    assert found is not None
    assert found.requests == 4


def test_statistics_accept_counters_as_text() -> None:
    # protobuf's JSON has 64-bit numbers as strings
    text = json.loads(json.dumps(reading(4, 400, 4000, 4, {1: (4, 4000)})), parse_int=str)
    found = measured({}, text).to_record()
    assert found is not None
    assert (found.requests, found.batches["1"].executions) == (4, 4)


@pytest.mark.parametrize(
    "statistics", [TritonStatistics(None), measured(reading(4, 400, 4000, 4, {}), reading(4, 400, 4000, 4, {}))]
)
def test_to_record_is_none_without_a_request(statistics: TritonStatistics) -> None:
    assert statistics.to_record() is None
