"""Files that ONNX Runtime runs although they are unusual, and files that are damaged."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from foreign_graphs import IMAGES, Net, export, number, run_unchanged

from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting import graph
from shrinkserve.runtimes.onnx import OnnxModel


def check(path: Path, atol: float = 1e-4) -> None:
    found = OnnxModel(export(path).folder / "model.onnx").predict(IMAGES)
    np.testing.assert_allclose(found, run_unchanged(path), atol=atol)


@pytest.mark.parametrize("shape", [["N", 20, 16, 16], ["N", 32, 32, 32], ["N", 20]])
def test_wrong_shapes_in_the_file_are_ignored(tmp_path: Path, shape: list[int | str]) -> None:
    net = Net()
    features = net.op("Relu", net.conv("x", 3, 20))
    net.shapes.append(helper.make_tensor_value_info(features, TensorProto.FLOAT, shape))
    total = net.op("Add", features, net.conv(features, 20, 20))
    check(net.out(net.dense(net.pooled(total))).save(tmp_path), 1e-3)


def test_nodes_in_another_order_are_sorted(tmp_path: Path) -> None:
    net = Net()
    net.out(net.logits())
    net.nodes.reverse()
    check(net.save(tmp_path))


def test_sequences_and_optionals_keep_their_types(tmp_path: Path) -> None:
    net = Net()
    sequence = net.op("SequenceConstruct", net.op("OptionalGetElement", net.op("Optional", net.logits())))
    check(net.out(net.op("ConcatFromSequence", sequence, axis=1)).save(tmp_path))


@pytest.mark.parametrize("form", ["autocast", "one tensor", "output"])
def test_rounding_to_float16_inside_float32_is_allowed(tmp_path: Path, form: str) -> None:
    net, half = Net(), TensorProto.FLOAT16
    if form == "autocast":  # float32 weights, cast at run time
        weights = net.op("Cast", net.weight(net.normal(20, 3, 3, 3)), to=half)
        features = net.op("Relu", net.op("Conv", net.op("Cast", "x", to=half), weights, pads=[1] * 4))
        net.out(net.dense(net.op("Cast", net.pooled(features), to=TensorProto.FLOAT)))
    elif form == "one tensor":
        rounded = net.op("Cast", net.op("Cast", net.features(), to=half), to=TensorProto.FLOAT)
        net.out(net.dense(rounded))
    else:
        net.out(net.op("Cast", net.logits(), to=half), dtype=half)
    path = net.save(tmp_path)
    original = run_unchanged(path)
    check(path, 0.01 * float(np.abs(original).max()))
    with pytest.raises(ConfigError, match="float16"):
        export(path, to="fp16")


def test_weights_that_are_stored_in_sixteen_bits_are_computed_in_float32(tmp_path: Path) -> None:
    net = Net()
    stored = helper.make_tensor("stored", TensorProto.BFLOAT16, [20, 3, 3, 3], net.normal(20, 3, 3, 3).ravel().tolist())
    net.weights.append(stored)
    features = net.op("Relu", net.op("Conv", "x", net.op("Cast", "stored", to=TensorProto.FLOAT)))
    path = net.out(net.dense(net.pooled(features))).save(tmp_path)
    assert export(path).card.details["precision"] == "float32"
    check(path)


@pytest.mark.parametrize("kind", ["sparse", "missing"])
def test_weights_that_are_missing_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    net = Net()
    proto = net.out(net.op("Gemm", net.features(), "w")).proto()
    if kind == "sparse":
        sparse = proto.graph.sparse_initializer.add(dims=[20, 5])
        sparse.values.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]))
        sparse.indices.CopyFrom(helper.make_tensor("places", TensorProto.INT64, [1], [3]))
    onnx.save(proto, path := tmp_path / "net.onnx")
    with caplog.at_level(logging.WARNING), pytest.raises(ArtifactError, match="Gemm reads 'w'"):
        export(path)
    assert not caplog.records


def constant(**value: object) -> str:
    net = Net()
    features = net.op("Mul", net.features(), net.op("Constant", **value))
    return graph.weights_sha256(onnx_model(net.out(net.dense(features))))


def onnx_model(net: Net) -> graph.ir.Model:
    return graph.ir.from_proto(net.proto())


def test_weights_hash_covers_all_forms_of_constants() -> None:
    hashes = [constant(value_float=1.0), constant(value_float=2.0), constant(value_int=1)]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("dtype", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4])
def test_weights_hash_covers_other_types(dtype: int) -> None:
    hashes = set()
    for value in (1, 2):
        net = Net()
        net.weights.append(helper.make_tensor("w", dtype, [2], [value, value]))
        hashes.add(graph.weights_sha256(onnx_model(net.out(net.logits()))))
    assert len(hashes) == 2


def test_weights_hash_covers_coefficients_in_attributes() -> None:
    hashes = set()
    for factor in (1, 2):
        net = Net()
        values = (factor * np.arange(100.0)).tolist()
        net.op("LinearClassifier", net.features(), domain="ai.onnx.ml", coefficients=values, classlabels_ints=range(5))
        hashes.add(graph.weights_sha256(onnx_model(net.out(net.logits()))))
    assert len(hashes) == 2


def test_weights_hash_covers_strings() -> None:
    hashes = []
    for text in ("one", "two", "one"):
        net = Net()
        net.weight(np.array([text + "!", "x"], object))
        hashes.append(graph.weights_sha256(onnx_model(net.out(net.logits()))))
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_other_files_are_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="not a file"):
        export(path)


def test_export_accepts_image_of_one_pixel(tmp_path: Path) -> None:
    net = Net()
    (tmp_path / "pre.toml").write_text(
        "size=1\ncrop_fraction=1.0\ninterpolation='bilinear'\nmean=[0.5,0.5,0.5]\nstd=[1,1,1]"
    )
    net.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 1, 1])]
    path = net.out(net.op("Flatten", net.op("Mul", "x", number(2))), ("N", 3)).save(tmp_path)
    model = OnnxModel(export(path, 3, preprocess=tmp_path / "pre.toml").folder / "model.onnx")
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    np.testing.assert_allclose(model.predict(images), [[-1.0, -0.6, 1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"imgsz": "64"}, "64 .its metadata"),
        ({"imgsz": "(64, 64)"}, "64 .its metadata"),
        ({"imgsz": "[32, 64]"}, "not square"),
        ({"names": "{0: 'class 1', 1: 'class 0', 2: 'class 2', 3: 'class 3', 4: 'class 4'}"}, "order of the classes"),
        ({"names": "['a', 'b']"}, "number of classes"),
    ],
)
def test_metadata_that_contradicts_options(tmp_path: Path, metadata: dict[str, str], part: str) -> None:
    net = Net()
    path = net.out(net.logits()).save(tmp_path, metadata)
    with pytest.raises((ArtifactError, ConfigError), match=part):
        export(path)


def branches(net: Net, x: str) -> str:
    """Add an If whose branches read `x` from the graph around them, the first in a convolution."""
    weight = numpy_helper.from_array(net.normal(20, 20, 1, 1) / 5, "branch_weight")
    graphs = [
        helper.make_graph(
            [node], "branch", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)], weights
        )
        for node, weights in (
            (helper.make_node("Conv", [x, "branch_weight"], ["first"]), [weight]),
            (helper.make_node("Identity", [x], ["second"]), []),
        )
    ]
    condition = net.op("Greater", net.op("Size", "x"), np.array(0, np.int64))
    return net.op("If", condition, then_branch=graphs[0], else_branch=graphs[1])


def test_int8_does_not_rename_what_a_subgraph_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    net = Net()
    read = branches(net, net.op("Relu", net.conv("x", 3, 20)))
    path = net.out(net.dense(net.pooled(net.op("Relu", net.conv(read, 20, 20))))).save(tmp_path)
    step = export(path, to="int8", max_top1_drop=20).engines[0].record["steps"][-1]
    assert step["parity"]["worst"] < 0.1 * step["parity"]["scale"]


def test_int8_of_tensors_without_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    net = Net()
    features = net.op("Relu", net.conv("x", 3, 20))
    nothing = net.op("Slice", features, *(np.array([n], np.int64) for n in (0, 0, 1)))
    path = net.out(net.dense(net.pooled(net.op("Concat", features, nothing, axis=1)))).save(tmp_path)
    assert export(path, to="int8", max_top1_drop=20).engines[0].precision == "int8"


@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_huge_logits_raise_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    monkeypatch.setattr("shrinkserve.exporting.quantise.step.timed", lambda *_: (0.002, 0.001))
    net = Net()
    path = net.out(net.op("Mul", net.logits(), number(1e30))).save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert export(path, to=to, max_top1_drop=20).engines
