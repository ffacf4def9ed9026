from __future__ import annotations

from pathlib import Path

import pytest

from shrinkserve.exporting import graph, tune
from shrinkserve.exporting.optimise import SHIPPED, OptimisedOnnx, PassPlan
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.tune import Tuned, choose_plan

SAMPLES = synthetic(32, 8)
NAMES = ["shipped", "unpadded", "as-is", "source"]


def choose(source: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> Tuned:
    monkeypatch.setattr(tune, "interleaved", lambda models, *_: dict(zip(models, seconds, strict=True)))
    return choose_plan(source, "onnxruntime-cpu", SAMPLES, 8, measured=False)


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ([1.0, 1.0, 1.0, 1.0], "shipped"),
        ([1.0, 0.97, 1.0, 1.0], "shipped"),
        ([2.0, 1.0, 1.5, 1.5], "unpadded"),
        ([2.0, 1.5, 1.0, 1.0], "as-is"),
        ([2.0, 2.0, 2.0, 1.0], "source"),
    ],
)
def test_choose_plan_keeps_fastest(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float], kept: str
) -> None:
    found = choose(tiny_onnx, monkeypatch, seconds)
    assert [comparison["kept"] for comparison in found.comparisons] == [kept, kept]
    assert found.comparisons[0]["milliseconds"] == dict(zip(NAMES, [1e3 * s for s in seconds], strict=True))
    expected = {"shipped": SHIPPED["onnxruntime-cpu"], "as-is": PassPlan(), "source": None}
    assert kept not in expected or found.plan == expected[kept]


def test_source_plan_leaves_graph_unchanged(tiny_onnx: Path, tmp_path: Path) -> None:
    details = OptimisedOnnx("onnxruntime-cpu", None).run(tiny_onnx, tmp_path / "same.onnx", SAMPLES)
    assert details["passes"] == []
    assert details["operators"] == graph.operators(graph.load(tiny_onnx))


@pytest.mark.parametrize(("measured", "plan"), [(True, SHIPPED["tensorrt"]), (False, PassPlan())])
def test_choose_plan_times_nothing_for_a_target_elsewhere(tiny_onnx: Path, measured: bool, plan: PassPlan) -> None:
    assert choose_plan(tiny_onnx, "tensorrt", SAMPLES, 8, measured=measured) == Tuned(plan, [])
