"""Rewrite the mean over all pixels into the operator that runtimes have kernels for."""

from __future__ import annotations

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, insert, replace
from shrinkserve.exporting.passes.nodes import attribute, channels, constant, is_operator


class GlobalPool(GraphPass):
    """``ReduceMean`` over height and width becomes ``GlobalAveragePool``, which has int8 and blocked-layout kernels."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if is_operator(node, "ReduceMean") and _over_pixels(node):
                pooled = insert(node, "GlobalAveragePool", node.inputs[:1], f"{node.name}.global")
                x = node.inputs[0]
                assert x is not None
                assert x.shape is not None
                pooled.shape = ir.Shape([*x.shape[:2], 1, 1])
                if not attribute(node, "keepdims", 1):
                    pooled = insert(node, "Flatten", [pooled], f"{node.name}.flatten", {"axis": 1})
                replace(node.outputs[0], pooled)
                modified = True
        return modified


def _over_pixels(node: ir.Node) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or channels(node.inputs[0]) is None:
        return False
    x = node.inputs[0]
    rank = 0 if x is None or x.shape is None else len(x.shape)
    return rank == 4 and sorted(int(axis) % 4 for axis in axes.ravel()) == [2, 3]
