from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shrinkserve.benchmark.report.gates import Gates, misses, read_gates
from shrinkserve.benchmark.timing import parse_duration
from shrinkserve.errors import ConfigError


def load(target: str, p99: float, throughput: float, **more: Any) -> dict[str, Any]:
    return {
        "target": target, "mode": "closed", "concurrency": 4, "batch": 1, "valid": True, "reasons": [],
        "images_per_second": throughput, "latency": {"percentiles": {"p99": {"value": p99}}}, **more,
    }  # fmt: skip


def record(flips: int = 0, top1: float = 0.98, *, gated: bool = True, loads: list[Any] | None = None) -> dict[str, Any]:
    return {
        "reference": 0,
        "stages": [{"name": "checkpoint ema", "kind": "checkpoint"}, {"name": "server http", "kind": "server"}],
        "accuracy": {
            "stages": [
                {"stage": "checkpoint ema", "top1": {"value": 0.98}},
                {"stage": "server http", "top1": {"value": top1}},
            ],
            "comparisons": [
                {"before": "checkpoint ema", "after": "server http", "gated": gated, "flips": flips, "images": 364}
            ],
        },
        "loads": loads or [],
        "partial": None,
    }


def test_all_holds() -> None:
    gates = Gates(min_top1=0.97, max_flips=0, max_p99=0.02, min_throughput=100)
    assert misses(record(loads=[load("server http", 15.0, 120.0)]), gates) == []


def test_float32_must_not_flip_unless_it_is_allowed() -> None:
    (line,) = misses(record(flips=2), Gates())
    assert line == "server http: 2 of 364 answers differ from the checkpoint ema's, at most 0 allowed"
    assert misses(record(flips=2), Gates(max_flips=2)) == []


def test_another_precision_may_unless_it_is_forbidden() -> None:
    assert misses(record(flips=2, gated=False), Gates()) == []
    assert len(misses(record(flips=2, gated=False), Gates(max_flips=1))) == 1


def test_each_miss_has_its_line() -> None:
    gates = Gates(min_top1=0.99, max_p99=0.02, min_throughput=100)
    lines = misses(record(flips=1, loads=[load("server http", 25.0, 80.0), load("server grpc", 15.0, 101.0)]), gates)
    assert lines == [
        "server http: 1 of 364 answers differ from the checkpoint ema's, at most 0 allowed",
        "server http: top-1 98.00%, at least 99.00% asked",
        "server http, concurrency 4: p99 25.0 ms, at most 20 ms asked",
        "server http: 80.0 images/s at best, at least 100 asked",
    ]


def test_a_figure_that_is_not_valid_passes_no_gate() -> None:
    unsteady = load("server http", 5.0, 80.0, valid=False, reasons=["unstable: x"])
    (line,) = misses(record(loads=[unsteady]), Gates(max_p99=0.02))
    assert "cannot be judged (unstable: x)" in line
    assert misses(record(loads=[unsteady]), Gates(min_throughput=50)) == [
        "server http: throughput cannot be judged (no load test gave valid figures)"
    ]


def test_without_a_load_test_no_promise_holds() -> None:
    for gates in (Gates(max_p99=0.02), Gates(min_throughput=1.0)):
        (line,) = misses(record(), gates)
        assert line.startswith("no load test")
    assert misses({**record(), "partial": "interrupted"}, Gates(max_p99=0.02)) == []


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("800us", 0.0008), (" 3 s ", 3.0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["20", "ms", "-1ms", "0ms", "20 min", "1e3ms"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="20ms"):
        parse_duration(text)


def test_a_file_of_gates_and_options_before_it(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('min_top1 = 0.97\nmax_p99 = "20ms"\nmax_flips = 3\n')
    gates = read_gates(path).override(Gates(max_flips=0))
    assert gates == Gates(min_top1=0.97, max_p99=0.02, max_flips=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("min_top = 0.9", "min_top: unknown key, did you mean min_top1?"),
        ("speed = 9", "speed: unknown key"),
        ('min_top1 = "high"', "min_top1: expected a fraction from 0 to 1, found 'high'"),
        ("min_top1 = 75.1", "min_top1: expected a fraction from 0 to 1, found 75.1"),
        ("max_flips = 0.5", "max_flips: expected a whole number from 0, found 0.5"),
        ("min_throughput = true", "min_throughput: expected a number from 0, found True"),
        ("max_flips = -1\nmin_throughput = -1", "max_flips: expected a whole number from 0, found -1; min_throughput:"),
        ("max_p99 = 20", 'max_p99: expected a duration such as "20ms", found 20'),
        ('max_p99 = "fast"', "a duration such as 20ms"),
        ("min_top1 = ", "not a readable gates file"),
    ],
)
def test_faults_of_a_gates_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_gates(path)
    assert message in str(caught.value)


def test_no_gates_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a readable gates file"):
        read_gates(tmp_path / "absent.toml")
