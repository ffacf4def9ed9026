"""What works on each channel by itself may as well work before channels are joined."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from shrinkserve.export.editing import (
    CHANNELS,
    GraphPass,
    concat_sizes,
    insert,
    is_channel_concat,
    replace,
    with_channels,
)

UNARY = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "AveragePool", "Swish"})
BINARY = frozenset({"Add", "Mul", "Sub"})


class ElementwiseOverConcat(GraphPass):
    """``f([x, y]) = [f(x), f(y)]`` and ``[x, y] + [u, v] = [x + u, y + v]``, also for pools, which mix no channels."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if len(node.outputs) == 1 and (node.op_type in UNARY or node.op_type in BINARY):
                concats = [None if value is None else value.producer() for value in node.inputs]
                if all(is_channel_concat(concat) for concat in concats):
                    modified |= _split(node, [concat for concat in concats if concat is not None])
        return modified


def _split(node: ir.Node, concats: Sequence[ir.Node]) -> bool:
    sizes = concat_sizes(concats[0])
    if sizes is None or any(concat_sizes(other) != sizes for other in concats):
        return False
    attributes = {key: value.value for key, value in node.attributes.items()}
    parts = []
    for number, size in enumerate(sizes):
        inputs = [concat.inputs[number] for concat in concats]
        part = insert(node, node.op_type, inputs, f"{node.name}.part{number}", attributes)
        parts.append(with_channels(part, node.outputs[0], size))
    replace(node.outputs[0], insert(node, "Concat", parts, f"{node.name}.joined", {"axis": CHANNELS}))
    return True
