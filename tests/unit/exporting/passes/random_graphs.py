"""Random graphs of the operators that passes rewrite, and what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

SIZE = 6


class Drawing:
    """A graph that grows by one random node at a time; every tensor is [N, C, 6, 6]."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.rng = draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"x": draw(st.integers(1, 6))}

    def pick(self) -> str:
        # Prefer the last tensors, so that graphs are deep and still have branches.
        names = list(self.channels)[-4:]
        return self.draw(st.sampled_from(names))

    def weight(self, *shape: int, positive: bool = False) -> str:
        array = (
            self.rng.uniform(0.5, 1.5, shape) if positive else self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        )
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, op: str, inputs: list[str], channels: int, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def conv(self, x: str, outputs: int | None = None, depthwise: bool = False, kernel: int | None = None) -> str:
        kernel = kernel or self.draw(st.sampled_from([1, 1, 3]))
        c = self.channels[x]
        f, group = (c, c) if depthwise else (outputs or self.draw(st.integers(1, 6)), 1)
        inputs = [x, self.weight(f, c // group, kernel, kernel)]
        if self.draw(st.booleans()):
            inputs.append(self.weight(f))
        return self.add("Conv", inputs, f, group=group, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)

    def norm(self, x: str) -> str:
        c = self.channels[x]
        parameters = [self.weight(c), self.weight(c), self.weight(c), self.weight(c, positive=True)]
        return self.add("BatchNormalization", [x, *parameters], c, epsilon=1e-3)

    def concat(self, *parts: str) -> str:
        parts = parts or tuple(self.pick() for _ in range(self.draw(st.integers(2, 3))))
        return self.add("Concat", parts, sum(self.channels[part] for part in parts), axis=1)

    def total(self) -> str:
        x = self.pick()
        alike = [name for name, count in self.channels.items() if count == self.channels[x]]
        return self.add("Add", [x, self.draw(st.sampled_from(alike))], self.channels[x])

    def step(self) -> None:
        kind = self.draw(st.sampled_from(["conv", "depthwise", "norm", "concat", "concat", "total", "same", "unary"]))
        if kind in {"conv", "depthwise"}:
            self.conv(self.pick(), depthwise=kind == "depthwise")
        elif kind == "norm":
            self.norm(self.conv(self.pick()))
        elif kind == "concat":
            self.concat()
        elif kind == "total":
            self.total()
        elif kind == "same":
            x = self.pick()
            self.conv(x, outputs=self.channels[x])
            self.add("Add", [x, list(self.channels)[-1]], self.channels[x])
        else:
            x = self.pick()
            op = self.draw(st.sampled_from(["Relu", "Sigmoid", "MaxPool"]))
            pool = {"kernel_shape": [3, 3], "pads": [1] * 4} if op == "MaxPool" else {}
            self.add(op, [x], self.channels[x], **pool)

    def model(self) -> ir.Model:
        """Return the graph with a global pool and a dense layer after its last tensor."""
        last = list(self.channels)[-1]
        axes = numpy_helper.from_array(np.array([2, 3]), "axes")
        head = self.weight(4, self.channels[last])
        nodes = [
            *self.nodes,
            helper.make_node("ReduceMean", [last, "axes"], ["pooled"], name="pool", keepdims=0),
            helper.make_node("Gemm", ["pooled", head, self.weight(4)], ["y"], name="dense", transB=1),
        ]
        ends = [("x", ["n", self.channels["x"], SIZE, SIZE]), ("y", ["n", 4])]
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
        graph = helper.make_graph(nodes, "random", [x], [y], [*self.weights, axes])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return ir.serde.deserialize_model(shape_inference.infer_shapes(proto, strict_mode=True))


@st.composite
def models(draw: st.DrawFn) -> ir.Model:
    """Graphs of 2 to 12 nodes."""
    drawing = Drawing(draw)
    for _ in range(draw(st.integers(2, 12))):
        drawing.step()
    return drawing.model()


def run(model: ir.Model) -> np.ndarray:
    """Return the output for two fixed random images, without the runtime's own rewrites."""
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    channels = session.get_inputs()[0].shape[1]
    x = np.random.default_rng(0).normal(size=(2, channels, SIZE, SIZE)).astype(np.float32)
    return session.run(None, {"x": x})[0]


def count(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)
