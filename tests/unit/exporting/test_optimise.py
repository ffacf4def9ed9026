from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.arch.counts import count
from shrinkserve.arch.serialise import from_dict
from shrinkserve.artifact import read_card
from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.inspection import describe_artifact, differences
from shrinkserve.exporting.optimise import FORMS, SHIPPED, TARGETS, PassPlan, check_target, optimise, stages
from shrinkserve.exporting.passes.nodes import conv_weight, producer
from shrinkserve.exporting.samples import synthetic
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.exporting.tune import tune_passes
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel

SAMPLES = synthetic(32, 6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    OnnxFromCheckpoint(Checkpoint(tiny_run)).run(tiny_run, path, SAMPLES)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [0, 16])
def test_every_form_keeps_predictions(tmp_path: Path, plain: Path, form: str, block: int) -> None:
    model = graph.load(plain)
    optimise(model, PassPlan(form, block=block))
    graph.save(model, tmp_path / "m.onnx")
    right = OnnxModel(plain).predict(SAMPLES.images)
    np.testing.assert_allclose(OnnxModel(tmp_path / "m.onnx").predict(SAMPLES.images), right, atol=1e-4)


def test_shipped_plan_fills_blocks_and_leaves_sums_to_convolutions(plain: Path) -> None:
    model = graph.load(plain)
    optimise(model, SHIPPED["onnxruntime-cpu"])
    assert all(len(weight) % 16 == 0 for node in model.graph if (weight := conv_weight(node)) is not None)
    operators = Counter(node.op_type for node in model.graph)
    assert operators["Concat"] == 2, "one a cell"
    assert not {"Gather", "Split", "ReduceMean"} & set(operators)
    sums = [node for node in model.graph if node.op_type == "Add" and not str(node.name).startswith("normalise")]
    assert sums
    assert all(any(producer(value, "Conv") for value in node.inputs) for node in sums)


def test_form_of_one_stage_leaves_others(plain: Path) -> None:
    model = graph.load(plain)
    assert stages(model) == ["stage1"]
    assert optimise(model, PassPlan(stages={"elsewhere": "sums"})) == ["GlobalPool", "EvenPads"]
    assert "stage1.ConvOverConcat" in optimise(model, PassPlan(stages={"stage1": "sums"}))


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino"])
def test_tune_keeps_fastest_form(plain: Path, target: str) -> None:
    lines: list[str] = []
    found = tune_passes(plain, check_target(target), SAMPLES, lines.append)
    assert [entry["what"] for entry in found.comparisons] == ["stage1", "whole graph"]
    assert set(found.comparisons[0]["milliseconds"]) == set(FORMS)
    for entry in found.comparisons:
        times = entry["milliseconds"]
        assert times[entry["kept"]] <= min(times.values()) * 1.03 + 0.002
    assert len(lines) == 2


def test_every_target_has_a_plan() -> None:
    assert set(SHIPPED) == set(TARGETS)
    with pytest.raises(ConfigError, match="expected onnxruntime-cpu or openvino or tensorrt, found 'cuda'"):
        check_target("cuda")


def test_tune_rejects_tensorrt(plain: Path) -> None:
    with pytest.raises(ConfigError, match="a target that runs on this machine"):
        tune_passes(plain, "tensorrt", SAMPLES, print)


def test_openvino_predicts_like_onnxruntime(plain: Path) -> None:
    model = OpenVinoModel(plain, threads=1)
    np.testing.assert_allclose(model.predict(SAMPLES.images), OnnxModel(plain).predict(SAMPLES.images), atol=1e-4)
    assert (model.size, len(model.classes)) == (32, 10)


def test_summary_counts_equal_those_of_network(plain: Path, tiny_run: Path) -> None:
    found = describe_artifact(plain)
    assert found["multiply-accumulates"] == sum(count(from_dict(read_card(tiny_run).spec)).macs.values())
    assert found["inputs"] == {"images": "UINT8 [batch,32,32,3]"}
    assert describe_artifact(tiny_run)["kind"] == "checkpoint"
    assert describe_artifact(tiny_run)["multiply-accumulates"] == found["multiply-accumulates"]
    assert describe_artifact(tiny_run)["layers"]["dense"] == 1


def test_differences_lists_keys_that_differ() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == {"b": (2, 3), "c": (None, 4)}
