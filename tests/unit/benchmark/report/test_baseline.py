from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shrinkserve.benchmark.accuracy.score import pack
from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.gates import Gates, misses
from shrinkserve.benchmark.report.record import read_record
from shrinkserve.errors import ArtifactError, DataError


def interval(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def record(
    top1: float = 0.98,
    p99: float = 20.0,
    *,
    fingerprint: str = "ab",
    order: str = "o",
    right: str = "1" * 364,
    valid: bool = True,
    rate: float = 50.0,
) -> dict[str, Any]:
    load = {
        "target": "server grpc", "mode": "closed", "concurrency": 1, "batch": 1, "valid": valid, "reasons": [],
        "images_per_second": rate, "throughput": interval(rate, 2.0),
        "latency": {"percentiles": {"p50": interval(9.0, 0.1), "p99": interval(p99, 1.0)}},
    }  # fmt: skip
    return {
        "format": 2,
        "reference": 0,
        "stages": [{"name": "server grpc", "kind": "server"}, {"name": "onnx float32 v7", "kind": "onnx"}],
        "dataset": {"root": "data"},
        "accuracy": {
            "fingerprint": fingerprint,
            "order": order,
            "images": 364,
            "comparisons": [],
            "stages": [
                {"stage": "server grpc", "top1": interval(top1, 0.005), "images": 364, "right": pack(right)},
                {"stage": "onnx float32 v7", "top1": interval(0.9, 0.01), "images": 364, "right": pack("1" * 364)},
            ],
        },
        "loads": [load],
        "partial": None,
    }


def verdicts(now: dict[str, Any], before: dict[str, Any]) -> dict[str, str]:
    return {entry["figure"]: entry["verdict"] for entry in compare_with_baseline(now, before)}


def test_figures_within_their_intervals_are_the_same() -> None:
    assert set(verdicts(record(0.979, 21.0), record()).values()) == {"same within the intervals"}


def test_what_is_beyond_both_intervals_is_flagged_and_missed() -> None:
    now = record(0.96, 25.0, order="another")
    found = verdicts(now, record())
    assert found["server grpc: top-1"] == "regression"
    assert found["server grpc, concurrency 1: p99"] == "regression"
    assert found["server grpc, concurrency 1: p50"] == "same within the intervals"
    lines = misses({**now, "baseline": {"figures": compare_with_baseline(now, record())}}, Gates())
    assert len(lines) == 2
    assert "was 20, is 25 ms, beyond both intervals" in lines[1]


def test_better_is_no_regression() -> None:
    assert verdicts(record(0.999, 10.0), record())["server grpc, concurrency 1: p99"] == "better"


def test_figures_that_are_not_valid_are_not_compared() -> None:
    assert list(verdicts(record(valid=False), record())) == ["server grpc: top-1", "onnx float32 v7: top-1"]


def test_accuracy_is_compared_image_by_image() -> None:
    """Nine of 364 images lost is within the intervals, and yet no accident: exact McNemar, p = 2 / 2**9."""
    now = record(0.975, right="0" * 9 + "1" * 355)
    found = compare_with_baseline(now, record(0.98))[0]
    assert (found["lost"], found["gained"], found["verdict"]) == (9, 0, "regression")
    (line, *_) = misses({**now, "baseline": {"figures": [found]}}, Gates())
    assert line == "server grpc: top-1: was 0.98, is 0.975 fraction, 9 images lost, 0 gained (p = 0.0039)"
    assert found["mcnemar_p"] == pytest.approx(2 / 2**9)
    exchanged = compare_with_baseline(record(right="0" * 5 + "1" * 359), record(right="1" * 359 + "0" * 5))[0]
    assert (exchanged["lost"], exchanged["gained"], exchanged["verdict"]) == (5, 5, "same within the intervals")
    gained = compare_with_baseline(record(), record(right="0" * 9 + "1" * 355))[0]
    assert gained["verdict"] == "better"


def test_images_in_another_order_are_compared_by_their_intervals() -> None:
    found = compare_with_baseline(record(0.979, order="another", right="0" * 364), record())[0]
    assert "mcnemar_p" not in found
    assert found["verdict"] == "same within the intervals"


def test_the_number_of_a_version_makes_no_other_stage() -> None:
    now = record()
    now["accuracy"]["stages"][1]["stage"] = "onnx float32 v8"
    assert "onnx float32 v8: top-1" in verdicts(now, record())


def test_throughput_is_compared_too() -> None:
    assert verdicts(record(rate=40.0), record())["server grpc, concurrency 1: throughput"] == "regression"
    assert verdicts(record(rate=49.0), record())["server grpc, concurrency 1: throughput"] != "regression"


def test_another_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="measured on other images"):
        compare_with_baseline(record(), record(fingerprint="cd"))


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
