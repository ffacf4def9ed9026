from __future__ import annotations

from dataclasses import replace

from shrinkserve.benchmark.load.slo import SearchRecord
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.report.headline import headline, outcome, tiles


def test_headline_names_servers_that_agree_and_the_highest_throughput(make_record, make_load) -> None:
    loads = [make_load("server grpc", 4011.3, 18.26), make_load("server http", 3000.0, 9.0)]
    text = headline(make_record({"server http": 0, "server grpc": 0}, loads=loads, top1=0.7512))
    assert "server http and server grpc predict the same classes as the checkpoint for all 364 images" in text
    assert "top-1 75.12 %" in text
    assert "4,011 images/s with a p99 of 18.3 ms (server grpc, concurrency 4)" in text


def test_headline_has_the_fastest_load_test_within_the_bound_on_p99(make_record, make_load) -> None:
    loads = [make_load("server grpc", 4011.3, 18.26), make_load("server http", 3000.0, 9.0)]
    found = make_record({"server http": 0, "server grpc": 0}, loads=loads, gates=Gates(max_p99=0.01))
    assert "3,000 images/s with a p99 of 9.00 ms (server http, concurrency 4)" in headline(found)


def test_speed_is_that_of_the_server_and_not_of_local_stages(make_record, make_load) -> None:
    """A graph in this process is always faster than one behind a server."""
    loads = [make_load("onnx float32 v1", 11_589.0, 1.7), make_load("server grpc", 4011.3, 18.26)]
    found = make_record({"server grpc": 0}, loads=loads)
    assert "4,011 images/s" in headline(found)
    assert [tile.more for tile in tiles(found)[2:]] == ["server grpc, concurrency 4"] * 2


def test_speed_is_that_of_local_stages_without_a_server(make_record, make_load) -> None:
    found = make_record({"onnx float32 v1": 0}, loads=[make_load("onnx float32 v1", 11_589.0, 1.7)])
    stages = [replace(stage, kind="onnx") for stage in found.stages]
    assert "11,589 images/s with a p99 of 1.70 ms" in headline(replace(found, stages=stages))


def test_headline_has_the_number_of_differences(make_record) -> None:
    found = make_record({"server grpc": 0, "server grpc jpeg": 120})
    assert "server grpc predicts the same classes as the checkpoint" in headline(found)
    assert "server grpc jpeg differs from the checkpoint for 120 of 364 images" in headline(found)
    assert (tiles(found)[0].value, tiles(found)[0].more) == ("120", "of 364, server grpc jpeg")


def test_invalid_figures_are_not_in_the_headline(make_record, make_load) -> None:
    found = make_record({"server grpc": 0}, loads=[make_load(images=9999.0, valid=False, reasons=["errors: x"])])
    assert "no load test has valid figures" in headline(found)
    assert "9,999" not in headline(found)
    assert len(tiles(found)) == 2


def test_searched_rate_is_in_the_headline(make_record, make_load) -> None:
    search = SearchRecord("server grpc", "p99=20ms", 99.0, 20.0, 3912.4, 3912.4, 5000.0, [])
    found = make_record({"server grpc": 0}, loads=[make_load(images=9999.0, p99=50.0)], slo=[search])
    assert "p99=20ms is met up to 3,912 requests/s (server grpc)" in headline(found)
    found.slo = [replace(search, requests_per_second=0.0)]
    assert tiles(found)[-1].value == "not met"


def test_outcome_partial_comes_first(make_record) -> None:
    found = make_record({"server grpc": 0}, partial="server grpc: no responses", misses=["x"])
    assert outcome(found) == "PARTIAL"
    assert headline(found) == "PARTIAL: server grpc: no responses"
    assert outcome(replace(found, partial=None)) == "FAILED"
    assert outcome(replace(found, partial=None, misses=[])) == "PASSED"
