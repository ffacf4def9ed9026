from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting import graph
from shrinkserve.exporting.quantise.calibration import clip, observe
from shrinkserve.exporting.quantise.sensitivity import rank
from shrinkserve.exporting.quantise.static import SCHEMES, TARGETS, WEIGHTED, quantise
from shrinkserve.exporting.quantise.step import Int8
from shrinkserve.exporting.samples import Samples, synthetic
from shrinkserve.runtimes.onnx import OnnxModel

IMAGES = synthetic(32, 32).images


@pytest.fixture(scope="module")
def ranges(tiny_onnx: Path) -> dict[str, tuple[float, float]]:
    return clip(observe(graph.load(tiny_onnx), IMAGES), "minmax")


def weighted_nodes(path: Path) -> list[str]:
    return [str(node.name) for node in graph.load(path).graph if node.op_type in WEIGHTED]


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_int8_with_scale_per_channel(tiny_onnx: Path, ranges, target: str):
    proto = quantise(graph.load(tiny_onnx), ranges, target)
    values = constants(proto)
    producers = {name: node for node in proto.graph.node for name in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in graph.load(tiny_onnx).graph) > 0
    for node in convolutions:
        weight = producers[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].shape == (len(values[weight.input[0]]),)
        assert values[node.input[2]].dtype == np.float32, "TensorRT rejects other biases"


def test_tensorrt_gets_symmetric_activations(tiny_onnx: Path, ranges):
    proto = quantise(graph.load(tiny_onnx), ranges, "tensorrt")
    values = constants(proto)
    zeros = [values[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zeros} == {np.dtype(np.int8)}
    assert not any(z.any() for z in zeros)


def test_onnxruntime_computes_in_eight_bits(tiny_onnx: Path, ranges, tmp_path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    content = quantise(graph.load(tiny_onnx), ranges, "onnxruntime").SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Conv" not in operators
    assert operators.count("QLinearConv") == len(weighted_nodes(tiny_onnx)) - 1  # the last one is a Gemm


def test_inputs_of_concat_share_a_scale(tiny_onnx: Path, ranges):
    proto = quantise(graph.load(tiny_onnx), ranges, "onnxruntime")
    producers = {name: node for node in proto.graph.node for name in node.output}
    values = constants(proto)
    concats = [node for node in proto.graph.node if node.op_type == "Concat"]
    assert concats
    for node in concats:
        assert len({values[producers[name].input[1]].item() for name in node.input}) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_predictions_are_near_float32(tiny_onnx: Path, ranges, tmp_path: Path, target: str):
    onnx.save(quantise(graph.load(tiny_onnx), ranges, target), tmp_path / "int8.onnx")
    right, found = OnnxModel(tiny_onnx).predict(IMAGES), OnnxModel(tmp_path / "int8.onnx").predict(IMAGES)
    assert 0 < np.sqrt(np.mean((right - found) ** 2)) < 0.1 * right.std()


def test_kept_layer_stays_float(tiny_onnx: Path, ranges):
    first = weighted_nodes(tiny_onnx)[0]
    proto = quantise(graph.load(tiny_onnx), ranges, "onnxruntime", keep_float=[first])
    node = next(node for node in proto.graph.node if node.name == first)
    assert node.input[1] in constants(proto)


def test_rank_finds_sensitive_layer(tiny_onnx: Path, ranges):
    model = graph.load(tiny_onnx)
    before = model.graph.num_nodes(), len(model.graph.initializers)
    victim = next(node for node in model.graph if node.op_type == "Conv" and node is not model.graph[0])
    # Weights are rounded by channel, so only its activations can hurt: a range a hundred times too wide.
    name = victim.inputs[0].name
    spoilt = {**ranges, name: (100 * ranges[name][0], 100 * ranges[name][1])}
    sharing = {n.name for n in model.graph if n.op_type == "Conv" and n.inputs[0].name == name}
    ranked = rank(model, spoilt, SCHEMES["tensorrt"], IMAGES[:4])
    assert ranked[0][0] in sharing
    assert (model.graph.num_nodes(), len(model.graph.initializers)) == before


def step(**changes) -> Int8:
    return Int8("onnxruntime", IMAGES, **{"demand_faster": False, **changes})


def test_int8_step_compares_methods(tiny_onnx: Path, tmp_path: Path):
    record = step(max_top1_drop=20).run(tiny_onnx, tmp_path / "int8.onnx", Samples(IMAGES, None, "test"))
    assert set(record["errors"]) == {"minmax", "percentile", "entropy"}
    assert record["errors"][record["method"]] == min(record["errors"].values())
    assert record["top1_drop"] <= 20
    assert (tmp_path / "int8.onnx").is_file()


def test_int8_step_rejects_inaccurate_graph(tiny_onnx: Path, tmp_path: Path):
    demand = step(max_top1_drop=-101)  # below what any graph can do
    with pytest.raises(GateError, match=r"not accurate enough.*max-top1-drop"):
        demand.run(tiny_onnx, tmp_path / "int8.onnx", Samples(IMAGES, None, "test"))
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("allowed", "advice"),
    [(0.5, "32 images resolve 3.1 points: give --data with at least 200"), (5, "allow more with")],
)
def test_int8_step_names_too_few_images(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: float, advice: str
):
    monkeypatch.setattr("shrinkserve.exporting.quantise.step._drop", lambda *_: 6.25)
    with pytest.raises(GateError, match=f"6.25 points below on 32 images without labels.*{advice}"):
        step(max_top1_drop=allowed).run(tiny_onnx, tmp_path / "int8.onnx", Samples(IMAGES, None, "test"))


def test_int8_step_measures_top1_on_labels(tiny_onnx: Path, tmp_path: Path):
    """All labels wrong but for one image: whatever eight bits change, top-1 cannot fall by more than that one."""
    labels = (OnnxModel(tiny_onnx).predict(IMAGES).argmax(1) + 1) % 10
    labels[0] = (labels[0] + 9) % 10
    judge = step(max_top1_drop=4, validation=Samples(IMAGES, labels, "labelled"))
    record = judge.run(tiny_onnx, tmp_path / "int8.onnx", Samples(IMAGES[:4], None, "test"))
    assert record["top1_drop"] <= 3.125 == record["resolves"]
    assert record["judged_by"] == "32 images with labels"


def test_int8_step_rejects_slower_graph(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.001, 0.002))
    with pytest.raises(GateError, match="not faster"):
        step(max_top1_drop=20, demand_faster=True).run(tiny_onnx, tmp_path / "x.onnx", Samples(IMAGES, None, "test"))
    assert not (tmp_path / "x.onnx").exists()


def test_int8_step_rejects_too_few_calibration_images(tiny_onnx: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="at least 16 calibration images"):
        Int8("onnxruntime", IMAGES[:3]).run(tiny_onnx, tmp_path / "x.onnx", synthetic(32, 4))
