from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from shrinkserve.exporting.precision import DTYPES, Lower, lower
from shrinkserve.exporting.quantise.calibration import observe
from shrinkserve.exporting.samples import synthetic
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel

IMAGES = synthetic(32, 16).images


def types(path: Path) -> dict[str, set[int]]:
    """Operator -> element types of what it computes, as onnx's own strict inference sees them."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    known = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.value_info, *proto.graph.output)}
    found: dict[str, set[int]] = {}
    for node in proto.graph.node:
        found.setdefault(node.op_type, set()).update(known[name] for name in node.output)
    return found


@pytest.mark.parametrize(("precision", "code"), [("float16", 10), ("bfloat16", 16)])
def test_lower_types_are_in_graph(tiny_onnx: Path, tmp_path: Path, precision: str, code: int):
    target = tmp_path / "low.onnx"
    record = Lower(precision, IMAGES).run(tiny_onnx, target, synthetic(32, 4))
    found = types(target)
    assert found["Conv"] == {code}
    assert found["Concat"] == {code}
    assert found["Softmax"] == {onnx.TensorProto.FLOAT}
    assert "Softmax accumulates" in record["float32_nodes"].values()
    inputs, outputs = onnx.load(target).graph.input, onnx.load(target).graph.output
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*inputs, *outputs)] == [
        ("images", onnx.TensorProto.UINT8),
        ("logits", onnx.TensorProto.FLOAT),
        ("probabilities", onnx.TensorProto.FLOAT),
    ]


@pytest.mark.parametrize(("precision", "limit"), [("float16", 0.004), ("bfloat16", 0.04)])
def test_predictions_are_near_float32(tiny_onnx: Path, tmp_path: Path, precision: str, limit: float):
    target = tmp_path / "low.onnx"
    Lower(precision, IMAGES).run(tiny_onnx, target, synthetic(32, 4))
    right = OnnxModel(tiny_onnx).predict(IMAGES)
    found = OpenVinoModel(target, precision="bf16" if precision == "bfloat16" else "f32").predict(IMAGES)
    assert 0 < np.abs(found - right).max() < limit * np.abs(right).max()


LARGE = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (uint8[N, 8] images) => (float[N, 2] logits)
<float[8, 4] first, float[4, 2] second>
{
    x = Cast <to = 1> (images)
    big = MatMul (x, first)
    small = Relu (big)
    logits = MatMul (small, second)
}
"""


def large(factor: float) -> ir.Model:
    model = onnx.parser.parse_model(LARGE)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.full(shape, value, np.float32), name)
        for name, shape, value in (("first", (8, 4), factor), ("second", (4, 2), 1e-4))
    )
    model = ir.from_proto(model)
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    return model


def test_lower_keeps_overflowing_nodes_in_float32():
    images = np.full((4, 8), 255, np.uint8)
    model = large(40.0)  # 8 * 255 * 40 = 81,600: beyond float16's 65,504
    kept = lower(model, DTYPES["float16"], observe(model, images))
    assert {name: reason.split()[0] for name, reason in kept.items()} == {
        "node0": "normalisation",
        "node1": "values",
        "node2": "reads",
        "node3": "reads",
    }
    tame = large(0.1)
    assert "node1" not in lower(tame, DTYPES["float16"], observe(tame, images))


def test_bfloat16_keeps_no_node_for_its_range():
    images = np.full((4, 8), 255, np.uint8)
    model = large(40.0)
    assert set(lower(model, DTYPES["bfloat16"], observe(model, images))) == {"node0"}


def test_lower_keeps_resize_scales_in_float32():
    text = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[4] scales = {1, 1, 2, 2}>
        { c = Conv (x, w)  y = Resize (c, , scales) }
    """)
    model = ir.from_proto(text)
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    lower(model, DTYPES["float16"], {})
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[0].dtype == ir.DataType.FLOAT16
    assert resize.inputs[2].dtype == ir.DataType.FLOAT


def test_lower_gives_subgraphs_float32():
    """A branch reads a tensor that is computed in sixteen bits."""
    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (bool c, float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}>
        { v = Conv (x, w)
          y = If (c) <then_branch = a () => (float[1, 2, 4, 4] p) { p = Identity (v) },
                      else_branch = b () => (float[1, 2, 4, 4] q) { q = Relu (v) }> }
    """)
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    proto = ir.to_proto(model)
    kept = lower(model, DTYPES["float16"], {})
    assert list(kept) == ["node1"]
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert conv.inputs[0].dtype == ir.DataType.FLOAT16
    image = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    for branch in (True, False):
        right, found = (run_proto(one, {"c": np.array(branch), "x": image}) for one in (proto, ir.to_proto(model)))
        np.testing.assert_allclose(found, right, atol=0.02)


def run_proto(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def test_float16_graph_runs_in_onnxruntime(tiny_onnx: Path, tmp_path: Path):
    target = tmp_path / "half.onnx"
    Lower("float16", IMAGES).run(tiny_onnx, target, synthetic(32, 4))
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(None, {"images": IMAGES})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert logits.dtype == np.float32
