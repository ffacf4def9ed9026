"""The sentence that a release is decided by, and the figures beside it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from shrinkserve.benchmark.report.terminal import outcome, render, tiles, verdict


def load(target: str, images: float, p99: float, *, valid: bool = True) -> dict[str, Any]:
    value = {"value": p99, "low": p99, "high": p99}
    return {
        "target": target, "mode": "closed", "concurrency": 4, "batch": 1, "valid": valid,
        "reasons": [] if valid else ["errors: 3 of 9 requests failed, the last with: [/red] shape [1,2]"],
        "images_per_second": images, "latency": {"percentiles": {"p50": value, "p90": value, "p99": value}},
    }  # fmt: skip


def record(flips: dict[str, int], *loads: dict[str, Any], **more: Any) -> dict[str, Any]:
    top1 = {"value": 0.7512, "low": 0.7474, "high": 0.7550}
    stages = [{"name": "checkpoint ema", "kind": "checkpoint"}, *({"name": n, "kind": "server"} for n in flips)]
    return {
        "model": "a", "stages": stages, "reference": 0, "partial": None, "misses": [], "slo": [], "left_out": [],
        "loads": list(loads), "gates": {"max_p99": None}, "dataset": {"root": "data"},
        "accuracy": {
            "images": 50_000,
            "stages": [{"stage": stage["name"], "top1": top1, "top5": top1} for stage in stages],
            "comparisons": [
                {"before": "checkpoint ema", "after": name, "flips": n, "worst": 0.0} for name, n in flips.items()
            ],
        },
        **more,
    }  # fmt: skip


def test_what_answers_alike_and_how_fast() -> None:
    loads = load("server grpc", 4011.3, 18.26), load("server http", 3000, 9.0)
    found = record({"server http": 0, "server grpc": 0}, *loads)
    assert verdict(found) == (
        "On 50,000 images server http and server grpc answer as the checkpoint does; top-1 75.12 %; 4,011 images/s "
        "with a p99 of 18.3 ms (server grpc, concurrency 4)."
    )
    found["gates"]["max_p99"] = 0.01  # what counts is the fastest within the bound
    assert "3,000 images/s with a p99 of 9.00 ms (server http, concurrency 4)" in verdict(found)


def test_the_speed_is_that_of_production_where_there_is_one() -> None:
    """`--everywhere` loads the stages in this process too: a graph without a server around it is always faster."""
    loads = load("onnx float32 v1", 11_589, 1.7), load("server grpc", 4011.3, 18.26)
    found = record({"server grpc": 0}, *loads)
    assert "; 4,011 images/s with a p99 of 18.3 ms (server grpc, concurrency 4)" in verdict(found)
    assert [tile["more"] for tile in tiles(found)[2:]] == ["server grpc, concurrency 4"] * 2
    found["stages"] = [{"name": "checkpoint ema", "kind": "checkpoint"}, {"name": "onnx float32 v1", "kind": "onnx"}]
    found["accuracy"]["stages"][1]["stage"] = "onnx float32 v1"
    assert "; 11,589 images/s with a p99 of 1.70 ms (onnx float32 v1, concurrency 4)" in verdict(found)


def test_who_differs_is_named_with_the_number() -> None:
    found = record({"server grpc": 0, "server grpc jpeg": 1203})
    assert "server grpc answers as the checkpoint does and server grpc jpeg differs from it on 1,203; top-1" in verdict(
        found
    )
    alone = verdict(record({"openvino bfloat16 v1": 40}))
    assert alone.startswith("On 50,000 images openvino bfloat16 v1 differs from the checkpoint on 40; top-1")
    assert tiles(found)[0] == {
        "name": "other answers than the checkpoint", "value": "1,203", "more": "of 50,000, server grpc jpeg",
    }  # fmt: skip


def test_figures_that_may_not_be_quoted_are_not() -> None:
    found = record({"server grpc": 0}, load("server grpc", 9999.0, 1.0, valid=False))
    assert "no load test gave figures that may be quoted" in verdict(found)
    assert "9,999" not in verdict(found)
    assert [tile["name"] for tile in tiles(found)] == ["other answers than the checkpoint", "top-1"]


def test_a_promise_that_was_searched_is_what_counts() -> None:
    search = {"target": "server grpc", "slo": "p99=20ms", "requests_per_second": 3912.4}
    found = record({"server grpc": 0}, load("server grpc", 9999.0, 50.0), slo=[search])
    assert "p99=20ms holds up to 3,912 requests/s (server grpc)" in verdict(found)
    search["requests_per_second"] = 0.0
    assert tiles(found)[-1]["value"] == "not met"


def test_partial_comes_before_all_else() -> None:
    found = record({"server grpc": 0}, partial="server grpc: stopped answering", misses=["x"])
    assert outcome(found) == "PARTIAL"
    assert verdict(found) == "PARTIAL: server grpc: stopped answering"
    assert outcome(record({"server grpc": 0}, misses=["x"])) == "MISSED"


def test_what_a_server_says_is_no_style() -> None:
    out = io.StringIO()
    found = record({"server grpc": 0}, load("server grpc", 1.0, 1.0, valid=False), left_out=["tensorrt: no GPU [x]"])
    render(found, Console(file=out, width=300))
    assert "[/red] shape [1,2]" in out.getvalue()
    assert "left out: tensorrt: no GPU [x]" in out.getvalue()
