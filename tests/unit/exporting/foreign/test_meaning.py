"""Meaning of a file's outputs, and outputs that are rejected."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parent))
from foreign_graphs import IMAGES, Net, export, number, run_unchanged

from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.onnx import OnnxModel

MERGED = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 1, 2]]
"""Eight classes -> five."""


def softmax(net: Net, classes: int = 5) -> str:
    return net.op("Softmax", net.logits(classes), axis=1)


def half(net: Net) -> str:
    return net.op("Mul", softmax(net), number(0.5))


def certain_sigmoid(net: Net) -> str:
    p = net.op("Sigmoid", net.op("Mul", net.logits(1), number(20)))
    return net.op("Concat", net.op("Sub", number(1), p), p, axis=1)


def normalised_sigmoids(net: Net) -> str:
    values = net.op("Sigmoid", net.op("Mul", net.logits(), number(5)))
    return net.op("Div", values, net.op("ReduceSum", values, np.array([1], np.int64)))


PROBABILITIES: dict[str, Callable[[Net], str]] = {
    "added zero": lambda net: net.op("Add", softmax(net), number(0)),
    "sum of two halves": lambda net: net.op("Add", half(net), half(net)),
    "merged classes": lambda net: net.op("MatMul", softmax(net, 8), MERGED),
    "merged classes in a Gemm": lambda net: net.op("Gemm", net.op("Identity", softmax(net, 8)), MERGED),
    "masked class": lambda net: net.op(
        "Softmax", net.op("Add", net.logits(), np.array([0, 0, -np.inf, 0, 0], np.float32))
    ),
    "normalised sigmoids": normalised_sigmoids,
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_recognised(tmp_path: Path, name: str) -> None:
    net = Net()
    path = net.out(PROBABILITIES[name](net)).save(tmp_path)
    found = OnnxModel(export(path).folder / "model.onnx").infer(IMAGES)
    np.testing.assert_allclose(found["probabilities"], run_unchanged(path), atol=1e-5)


def test_certain_sigmoid_of_two_classes_is_exported(tmp_path: Path) -> None:
    """1 - p is zero where p rounds to 1, so that its logarithm depends on the runtime."""
    net = Net()
    path = net.out(certain_sigmoid(net), ("N", 2)).save(tmp_path)
    original = run_unchanged(path)
    assert original.min() < 1e-6
    found = OnnxModel(export(path, 2).folder / "model.onnx").infer(IMAGES)
    np.testing.assert_allclose(found["probabilities"], original, atol=1e-6)


REJECTED: dict[str, tuple[Callable[[Net], str], str]] = {
    "per cent": (lambda net: net.op("Mul", softmax(net), number(100)), "sum to 100"),
    "bytes": (lambda net: net.op("Mul", softmax(net), number(255)), "sum to 255"),
    "sum of two": (lambda net: net.op("Sum", softmax(net), softmax(net)), "sum to 2"),
    "sigmoids plus zero": (lambda net: net.op("Add", net.op("Sigmoid", net.logits()), number(0)), "sigmoids"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_export_rejects_other_values(tmp_path: Path, name: str) -> None:
    make, part = REJECTED[name]
    net = Net()
    with pytest.raises(ArtifactError, match=part):
        export(net.out(make(net)).save(tmp_path))
    assert not (tmp_path / "models").exists()


def test_one_logit_is_rejected(tmp_path: Path) -> None:
    """The softmax of one number is always 1."""
    net = Net()
    with pytest.raises(ArtifactError, match="one class"):
        export(net.out(net.logits(1), ("N", 1)).save(tmp_path), 1)


def test_sorted_output_is_rejected(tmp_path: Path) -> None:
    net = Net()
    net.op("TopK", softmax(net), np.array([5], np.int64), axis=1)
    net.nodes[-1].output.append("places")
    with pytest.raises(ArtifactError, match="no output for the classes"):
        export(net.out(net.nodes[-1].output[0]).save(tmp_path))


@pytest.mark.parametrize("last", [("Add", 0.1), ("Div", 1.5)])
def test_linear_layer_with_small_values_gives_logits(tmp_path: Path, last: tuple[str, float]) -> None:
    """Logits in [0, 1] that do not sum to 1 are no sigmoids."""
    net = Net()
    mean = net.op("Gemm", net.features(), net.normal(20, 5) * np.float32(1e-3), np.full(5, 0.5, np.float32))
    path = net.out(net.op(last[0], mean, number(last[1]))).save(tmp_path)
    original = run_unchanged(path)
    assert original.min() > 0
    assert original.max() < 1
    found = OnnxModel(export(path).folder / "model.onnx").predict(IMAGES)
    np.testing.assert_allclose(found, original, atol=1e-5)


def test_dependence_on_the_batch_is_found_for_batches_of_one(tmp_path: Path) -> None:
    net = Net()
    features = net.features()
    mean = net.op("ReduceMean", features, axes=[0], keepdims=1)
    path = net.out(net.dense(net.op("Sub", features, mean))).save(tmp_path)
    with pytest.raises(ArtifactError, match="contradicts itself"):
        export(path, max_batch=1)


def test_batch_of_minus_one_is_dynamic(tmp_path: Path) -> None:
    """Old converters write the batch size as -1."""
    net = Net()
    path = net.out(net.logits()).save(tmp_path)
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(proto, path)
    found = OnnxModel(export(path).folder / "model.onnx").predict(IMAGES)
    np.testing.assert_allclose(found, run_unchanged(path), atol=1e-4)


def test_infinite_logits_name_the_class(tmp_path: Path) -> None:
    net = Net()
    path = net.out(net.op("Add", net.logits(), np.array([0, 0, 0, -np.inf, 0], np.float32))).save(tmp_path)
    with pytest.raises(ArtifactError, match="-inf for class 'class 3'"):
        export(path)


@pytest.mark.parametrize(("shape", "part"), [(("N", 0, "x"), "no output for the classes"), (("N", 5, 1), "")])
def test_export_handles_wrong_declared_shape_of_output(tmp_path: Path, shape: tuple[int | str, ...], part: str) -> None:
    """The second shape contradicts the nodes, but ONNX Runtime runs the file."""
    net = Net()
    path = net.out(net.op("Identity", net.logits()), shape).save(tmp_path)
    if part:
        with pytest.raises(ArtifactError, match=part):
            export(path)
        return
    found = OnnxModel(export(path).folder / "model.onnx").predict(IMAGES)
    np.testing.assert_allclose(found, run_unchanged(path), atol=1e-4)


def test_output_that_is_a_sequence_is_named(tmp_path: Path) -> None:
    from onnx import helper

    net = Net()
    name = net.op("SequenceConstruct", net.logits())
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    net.outputs.append(helper.make_value_info(name, kind))
    with pytest.raises(ArtifactError, match="sequence of float"):
        export(net.save(tmp_path))


def test_output_with_a_map_is_named(tmp_path: Path) -> None:
    """sklearn-onnx writes such an output."""
    from onnx import helper

    net = Net()
    net.out(net.logits())
    pairs = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    net.outputs.append(helper.make_value_info("maps", helper.make_sequence_type_proto(pairs)))
    with pytest.raises(ArtifactError, match=r"Map types .*export the network without them"):
        export(net.save(tmp_path))
