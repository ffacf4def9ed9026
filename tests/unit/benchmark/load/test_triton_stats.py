"""Against two readings of a real Triton 2.51 (model `tiny`, one instance), trimmed to the fields that are used."""

from __future__ import annotations

import pytest

from shrinkserve.benchmark.load.triton_stats import TritonStatistics, split


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


def test_what_happened_between_two_readings() -> None:
    statistics = measured(
        reading(10, 5_000_000, 20_000_000, 10, {1: (10, 20_000_000)}),
        reading(30, 45_000_000, 100_000_000, 20, {1: (12, 24_000_000), 4: (6, 30_000_000)}),
    )
    found = split(statistics)
    assert found is not None
    assert found["requests"] == 20
    assert found["mean_ms"] == pytest.approx(
        {"queue": 2.0, "compute_input": 0.001, "compute_infer": 4.0, "compute_output": 0.0005}
    )
    assert found["images_per_execution"] == 2.0
    assert found["batches"] == {
        "1": {"executions": 2, "mean_ms": pytest.approx(2.0)},
        "4": {"executions": 6, "mean_ms": pytest.approx(5.0)},
    }


def test_fields_that_are_zero_may_be_missing() -> None:
    # protobuf's JSON leaves zeros out: a model that never was asked has no counts at all
    after = reading(4, 400, 4000, 4, {})
    assert split(measured({"name": "tiny"}, after))["requests"] == 4  # type: ignore[index]


def test_without_a_server_or_a_request_there_is_nothing_to_split() -> None:
    assert split(TritonStatistics(None)) is None
    same = reading(4, 400, 4000, 4, {})
    assert split(measured(same, same)) is None
