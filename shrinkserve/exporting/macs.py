"""Multiply-accumulates of an ONNX graph for one image."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx_ir as ir

from shrinkserve.exporting import graph
from shrinkserve.exporting.passes.nodes import all_known

CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Convolution -> position of its weights [F, C / group, ...] among the inputs."""
PRODUCTS = {"Gemm": 1, "FusedGemm": 1, "MatMul": 1, "FusedMatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
"""Matrix product -> position of the second matrix among the inputs."""
UNKNOWN = frozenset({"ConvTranspose", "DeformConv", "Einsum", "LSTM", "GRU", "RNN"})
"""Operators that multiply, for which there is no formula here; so do all whose name ends in Attention."""
REPEATED = frozenset({"Loop", "Scan", "SequenceMap"})
"""Operators that run their subgraph any number of times."""
STANDARD = frozenset({"", "com.microsoft"})


def count_macs(model: ir.Model) -> int | None:
    """Return the multiply-accumulates of all convolutions and matrix products for one image; None if unknown.

    Args:
        model: a graph from `graph.load`; its shapes with a batch of 1 are inferred on a copy.
    """
    single = ir.from_proto(ir.to_proto(model))
    for value in single.graph.inputs:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([1, *value.shape[1:]])
    for node in single.graph:
        for value in node.outputs:
            value.shape = None
    graph.infer_shapes(single)
    return _total(single.graph.all_nodes())


def _total(nodes: Iterable[ir.Node]) -> int | None:
    counts = all_known(_macs(node) for node in nodes)
    return None if counts is None else sum(counts)


def _macs(node: ir.Node) -> int | None:
    if node.domain not in STANDARD or node.op_type in UNKNOWN or node.op_type.endswith("Attention"):
        return None
    if node.op_type in REPEATED:
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        return 0 if all(_total(body.all_nodes()) == 0 for body in bodies) else None
    if node.op_type in CONVOLUTIONS:
        weight, output = _sizes(node.inputs[CONVOLUTIONS[node.op_type]]), _sizes(node.outputs[0])
        return None if weight is None or output is None else prod(output) * prod(weight[1:])
    if node.op_type in PRODUCTS:
        return _product(node, _sizes(node.inputs[PRODUCTS[node.op_type]]), _sizes(node.outputs[0]))
    return None if node.domain and any(_is_matrix(value) for value in node.inputs) else 0


def _is_matrix(value: ir.Value | None) -> bool:
    """Return True for constant weights that an operator without a formula may multiply."""
    return value is not None and value.const_value is not None and len(value.const_value.shape) > 1


def _product(node: ir.Node, right: list[int] | None, output: list[int] | None) -> int | None:
    if right is None or output is None:
        return None
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    inner = right[-1] if transposed or len(right) == 1 else right[-2]
    return prod(output) * inner


def _sizes(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None:
        return None
    return all_known(size if isinstance(size, int) else None for size in value.shape)
