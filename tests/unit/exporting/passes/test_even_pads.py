from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from shrinkserve.exporting.passes import EvenPads
from shrinkserve.exporting.passes.nodes import attribute


def graph_of(pads: list[int], kernel: int, stride: int, dilation: int) -> ir.Model:
    weight = np.random.default_rng(0).normal(size=(4, 3, kernel, kernel)).astype(np.float32)
    geometry = {"pads": pads, "strides": [stride] * 2, "dilations": [dilation] * 2, "kernel_shape": [kernel] * 2}
    ends = [("x", ["n", 3, "h", "w"]), ("y", ["n", 4, "a", "b"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **geometry)
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def run(model: ir.Model, height: int, width: int) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, 3, height, width)).astype(np.float32)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [2, 0, 1, 3], [1, 1, 1, 2]])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (3, 1, 1), (1, 1, 1), (5, 3, 1)])
def test_even_pads_keeps_outputs_for_every_size(pads: list[int], kernel: int, stride: int, dilation: int) -> None:
    model, before = graph_of(pads, kernel, stride, dilation), graph_of(pads, kernel, stride, dilation)
    assert EvenPads()(model).modified
    found = attribute(model.graph[0], "pads", None)
    assert tuple(found[:2]) == tuple(found[2:])
    for height, width in ((8, 8), (9, 7), (16, 11)):
        np.testing.assert_allclose(run(model, height, width), run(before, height, width), atol=1e-5)


def test_even_pads_leaves_what_it_cannot_embed() -> None:
    model = graph_of([0, 0, 1, 1], 3, 1, 2)
    assert not EvenPads()(model).modified
    assert not EvenPads()(graph_of([1, 1, 1, 1], 3, 2, 1)).modified
