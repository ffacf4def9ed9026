"""Move operators that work on each channel by itself before a concat."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import OverConcat, insert, replace, with_channels
from shrinkserve.exporting.passes.nodes import CHANNELS, all_known, concat_of, concat_sizes, is_operator

POOLS = frozenset({"MaxPool", "AveragePool"})
ACTIVATIONS = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Swish"})
BINARY = frozenset({"Add", "Mul", "Sub"})


class ElementwiseOverConcat(OverConcat):
    """``f([x, y]) = [f(x), f(y)]`` and ``[x, y] + [u, v] = [x + u, y + v]``, also for pools, which mix no channels.

    `alone` concerns pools only: ``x sigmoid(x)`` reads its concat twice and still is one activation.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if len(node.outputs) == 1 and is_operator(node, *POOLS, *ACTIVATIONS, *BINARY):
                found = [self.concat(value) if node.op_type in POOLS else concat_of(value) for value in node.inputs]
                concats = all_known(found)
                if concats is not None:
                    modified |= _split(node, concats)
        return modified


def _split(node: ir.Node, concats: Sequence[ir.Node]) -> bool:
    sizes = concat_sizes(concats[0])
    if sizes is None or any(concat_sizes(other) != sizes for other in concats):
        return False
    shapes = [value.shape for concat in concats for value in concat.inputs if value is not None]
    if len({None if shape is None else len(shape) for shape in shapes}) > 1:
        return False  # the channels of tensors of other ranks are not on the same axis
    attributes = {key: value.value for key, value in node.attributes.items()}
    parts = []
    for number, size in enumerate(sizes):
        inputs = [concat.inputs[number] for concat in concats]
        part = insert(node, node.op_type, inputs, f"{node.name}.part{number}", attributes)
        parts.append(with_channels(part, node.outputs[0], size))
    replace(node.outputs[0], insert(node, "Concat", parts, f"{node.name}.joined", {"axis": CHANNELS}))
    return True
