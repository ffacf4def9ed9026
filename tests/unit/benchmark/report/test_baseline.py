from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.plain import to_json
from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.gates import Gates
from shrinkserve.benchmark.report.misses import misses
from shrinkserve.benchmark.report.record import BaselineRecord, BenchRecord, read_record
from shrinkserve.errors import ArtifactError, DataError

SAME = "same within the intervals"
IMAGES = 364


@pytest.fixture
def release(make_record, make_load, make_score) -> Callable[..., BenchRecord]:
    """Return a function that makes the record of a release with one server."""

    def make(
        top1: float = 0.98, right: str = "1" * IMAGES, order: str = "o", loads: list[LoadRecord] | None = None
    ) -> BenchRecord:
        made = make_record({"server grpc": 0}, loads=[make_load()] if loads is None else loads)
        scores = [make_score("onnx float32 v7"), make_score("server grpc", top1, right)]
        return replace(made, accuracy=replace(made.accuracy, stages=scores, order=order))

    return make


def verdicts(now: BenchRecord, before: BenchRecord) -> dict[str, str]:
    return {entry.figure: entry.verdict for entry in compare_with_baseline(now, before)}


def test_figures_within_their_intervals_are_the_same(release, make_load) -> None:
    found = verdicts(release(0.979, order="another", loads=[make_load(p99=21.0)]), release())
    assert len(found) == 5
    assert set(found.values()) == {SAME}


def test_figures_beyond_both_intervals_are_a_regression_and_a_miss(release, make_load) -> None:
    now = release(0.96, order="another", loads=[make_load(p99=25.0)])
    figures = compare_with_baseline(now, release())
    found = {one.figure: one.verdict for one in figures}
    assert found["server grpc: top-1"] == "regression"
    assert found["server grpc, concurrency 4: p99"] == "regression"
    assert found["onnx float32 v7: top-1"] == SAME
    lines = misses(replace(now, baseline=BaselineRecord("old", figures)), Gates())
    assert len(lines) == list(found.values()).count("regression")
    assert any("was 20, is 25 ms" in line for line in lines)


def test_improvement_is_no_regression(release, make_load) -> None:
    found = verdicts(release(loads=[make_load(p99=10.0)]), release())
    assert found["server grpc, concurrency 4: p99"] == "better"


def test_invalid_load_tests_are_not_compared(release, make_load) -> None:
    found = verdicts(release(loads=[make_load(valid=False)]), release())
    assert set(found) == {"server grpc: top-1", "onnx float32 v7: top-1"}


@pytest.mark.parametrize(
    ("now", "before", "changes", "verdict"),
    [
        ("0" * 9 + "1" * 355, "1" * 364, (9, 0), "regression"),
        ("0" * 5 + "1" * 359, "1" * 359 + "0" * 5, (5, 5), SAME),
        ("1" * 364, "0" * 9 + "1" * 355, (0, 9), "better"),
    ],
)
def test_accuracy_is_compared_image_by_image(
    release, now: str, before: str, changes: tuple[int, int], verdict: str
) -> None:
    """Nine of 364 images are within the intervals, but exact McNemar gives p = 2 / 2**9."""
    figures = compare_with_baseline(release(0.975, right=now), release(0.98, right=before))
    (found,) = [one for one in figures if one.figure == "server grpc: top-1"]
    assert ((found.lost, found.gained), found.verdict) == (changes, verdict)
    assert found.mcnemar_p == pytest.approx(2 / 2**9 if verdict != SAME else 1.0)


def test_regression_of_accuracy_is_a_miss_with_its_evidence(release) -> None:
    now = release(0.975, right="0" * 9 + "1" * 355)
    figures = compare_with_baseline(now, release())
    (line,) = misses(replace(now, baseline=BaselineRecord("old", figures)), Gates())
    assert all(part in line for part in ("server grpc: top-1", "9 images lost", "p = 0.0039"))


def test_accuracy_in_another_order_is_compared_by_interval(release) -> None:
    figures = compare_with_baseline(release(0.979, right="0" * IMAGES, order="another"), release())
    assert all(one.mcnemar_p is None and one.verdict == SAME for one in figures[:2])


def test_stages_of_another_version_are_compared(release, make_score) -> None:
    now = release()
    scores = [make_score("onnx float32 v8"), *now.accuracy.stages[1:]]
    assert "onnx float32 v8: top-1" in verdicts(replace(now, accuracy=replace(now.accuracy, stages=scores)), release())


@pytest.mark.parametrize(("rate", "verdict"), [(40.0, "regression"), (49.0, SAME), (60.0, "better")])
def test_throughput_is_compared_by_interval(release, make_load, rate: float, verdict: str) -> None:
    found = verdicts(release(loads=[make_load(images=rate)]), release())
    assert found["server grpc, concurrency 4: throughput"] == verdict


def test_other_images_are_refused(release) -> None:
    other = release()
    with pytest.raises(DataError, match="other images"):
        compare_with_baseline(release(), replace(other, accuracy=replace(other.accuracy, fingerprint="cd")))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 0}', '{"format": 2}', "[" * 100_000])
def test_read_record_refuses_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="record"):
        read_record(path)


def test_read_record_returns_the_written_record(release, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    written = release()
    path.write_text(to_json(written))
    assert read_record(path) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "fast", None])
def test_read_record_refuses_figures_that_are_no_finite_numbers(release, tmp_path: Path, value: object) -> None:
    raw = json.loads(to_json(release()))
    raw["loads"][0]["images_per_second"] = value
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=r"loads\.0\.images_per_second"):
        read_record(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("loads", 0, "latency", "hdr"), "HISTFAAAACJ4"),
        (("loads", 0, "latency", "hdr"), "text"),
        (("loads", 0, "latency", "percentiles"), {}),
        (("accuracy", "stages", 1, "right"), "A"),
        (("accuracy", "stages", 1, "right"), "AAAA"),
    ],
)
def test_read_record_refuses_damaged_figures(
    release, tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    raw = json.loads(to_json(release()))
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "bench.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=r"\.".join(map(str, path))):
        read_record(tmp_path / "bench.json")
