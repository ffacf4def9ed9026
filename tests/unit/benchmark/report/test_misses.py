from __future__ import annotations

from dataclasses import replace

import pytest

from shrinkserve.benchmark.load.slo import SearchRecord
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.report.misses import misses


def test_misses_are_empty_if_gates_pass(make_record, make_load) -> None:
    gates = Gates(min_top1=0.97, max_flips=0, max_p99=0.02, min_throughput=100)
    assert misses(make_record({"server http": 0}, loads=[make_load("server http", 120.0, 15.0)]), gates) == []


@pytest.mark.parametrize(
    ("gated", "max_flips", "lines"), [(True, None, 1), (True, 2, 0), (False, None, 0), (False, 1, 1)]
)
def test_flips_are_bounded_by_0_in_float32_or_by_the_gate(
    make_record, gated: bool, max_flips: int | None, lines: int
) -> None:
    found = misses(make_record({"server http": 2}, gated=gated), Gates(max_flips=max_flips))
    assert len(found) == lines
    assert all("server http: 2 of 364" in line for line in found)


def test_each_missed_gate_has_a_line(make_record, make_load) -> None:
    loads = [make_load("server http", 80.0, 25.0), make_load("server grpc", 101.0, 15.0)]
    gates = Gates(min_top1=0.99, max_p99=0.02, min_throughput=100)
    flips, top1, p99, throughput = misses(make_record({"server http": 1}, loads=loads), gates)
    assert flips.startswith("server http: 1 of 364")
    assert "98.00%" in top1
    assert "99.00%" in top1
    assert p99.startswith("server http, concurrency 4: p99 25.0 ms")
    assert throughput.startswith("server http: ")
    assert "80.0 images/s" in throughput


def test_invalid_figures_pass_no_gate(make_record, make_load) -> None:
    record = make_record({"server http": 0}, loads=[make_load("server http", valid=False, reasons=["unstable: x"])])
    (line,) = misses(record, Gates(max_p99=0.1))
    assert "unstable: x" in line
    (line,) = misses(record, Gates(min_throughput=1))
    assert "not valid" in line


@pytest.mark.parametrize("gates", [Gates(max_p99=0.02), Gates(min_throughput=1.0)])
def test_gate_without_a_load_test_is_missed(make_record, gates: Gates) -> None:
    record = make_record({"server http": 0})
    assert len(misses(record, gates)) == 1
    assert misses(replace(record, partial="interrupted"), gates) == []


def test_search_without_a_rate_is_missed(make_record, make_load) -> None:
    trial = make_load(mode="open", offered_requests_per_second=4.0, arrivals="poisson", p99=30.0)
    search = SearchRecord("server grpc", "p99=20ms", 99.0, 20.0, 0.0, 0.0, 80.0, [trial])
    (line,) = misses(make_record({"server grpc": 0}, slo=[search]), Gates())
    assert "p99 is 30.0 ms at 4.0 requests/s" in line
    assert misses(make_record({"server grpc": 0}, slo=[replace(search, requests_per_second=4.0)]), Gates()) == []
