from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shrinkserve.benchmark.baseline import compare, read_record
from shrinkserve.benchmark.gates import Gates, misses
from shrinkserve.errors import ArtifactError, DataError


def interval(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def record(top1: float = 0.98, p99: float = 20.0, *, fingerprint: str = "ab", valid: bool = True) -> dict[str, Any]:
    load = {
        "target": "server grpc", "mode": "closed", "concurrency": 1, "batch": 1, "valid": valid, "reasons": [],
        "images_per_second": 50.0,
        "latency": {"percentiles": {"p50": interval(9.0, 0.1), "p99": interval(p99, 1.0)}},
    }  # fmt: skip
    return {
        "format": 1,
        "reference": 0,
        "stages": [{"name": "server grpc", "kind": "server"}],
        "dataset": {"root": "data"},
        "accuracy": {
            "fingerprint": fingerprint,
            "images": 364,
            "comparisons": [],
            "stages": [{"stage": "server grpc", "top1": interval(top1, 0.005)}],
        },
        "loads": [load],
    }


def verdicts(now: dict[str, Any], before: dict[str, Any]) -> dict[str, str]:
    return {entry["figure"]: entry["verdict"] for entry in compare(now, before)}


def test_figures_within_their_intervals_are_the_same() -> None:
    assert set(verdicts(record(0.979, 21.0), record()).values()) == {"same within the intervals"}


def test_what_is_beyond_both_intervals_is_flagged_and_missed() -> None:
    now = record(0.96, 25.0)
    found = verdicts(now, record())
    assert found["server grpc: top-1"] == "regression"
    assert found["server grpc, concurrency 1: p99"] == "regression"
    assert found["server grpc, concurrency 1: p50"] == "same within the intervals"
    lines = misses({**now, "baseline": {"figures": compare(now, record())}}, Gates())
    assert len(lines) == 2
    assert "was 20, is 25 ms, beyond both intervals" in lines[1]


def test_better_is_no_regression() -> None:
    assert verdicts(record(0.999, 10.0), record())["server grpc, concurrency 1: p99"] == "better"


def test_figures_that_are_not_valid_are_not_compared() -> None:
    assert list(verdicts(record(valid=False), record())) == ["server grpc: top-1"]


def test_another_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="measured on other images"):
        compare(record(), record(fingerprint="cd"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 0}'])
def test_what_is_no_record(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="record"):
        read_record(path)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(record()))
    assert read_record(path) == record()
