"""Merge convolutions of one tensor that are added up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, insert_conv, replace
from shrinkserve.exporting.passes.nodes import (
    Array,
    attribute,
    conv_bias,
    conv_weight,
    dense_producer,
    geometry,
    is_operator,
    sum_terms,
)


class MergeSums(GraphPass):
    """``A x + B x = (A + B) x`` and ``A x + x = (A + I) x``, anywhere in a chain of additions.

    Also merges inside a chain ``(A x + B y) + x``: addition is associative in real arithmetic.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        # One at a time: a merge leaves unused nodes behind, which the iteration would reach.
        return any(is_operator(node, "Add") and _merge(node) for node in self.nodes(graph))


def _merge(add: ir.Node) -> bool:
    for position in (0, 1):
        other, chain = add.inputs[position], add.inputs[1 - position]
        assert other is not None
        for conv in map(dense_producer, sum_terms(chain)):
            if conv is not None and _absorb(conv, other):
                summed = add.inputs[1 - position]  # `chain` or its replacement
                assert summed is not None
                replace(add.outputs[0], summed)
                return True
    return False


def _absorb(conv: ir.Node, other: ir.Value) -> bool:
    """Add `other` to the output of `conv`, if it is a linear function of the input of `conv`."""
    weight, bias = conv_weight(conv), conv_bias(conv)
    assert weight is not None
    added = _as_conv(conv, other, weight)
    if added is None:
        return False
    more_weight, more_bias = added
    shift = more_bias if bias is None else (bias if more_bias is None else bias + more_bias)
    x = conv.inputs[0]
    assert x is not None
    merged = insert_conv(conv, x, (weight + more_weight).astype(weight.dtype), shift, f"{conv.name}.merged", conv)
    replace(conv.outputs[0], merged)
    return True


def _as_conv(conv: ir.Node, other: ir.Value, weight: Array) -> tuple[Array, Array | None] | None:
    """Return the weights and the bias with which `conv` would compute `other`; None if there are none."""
    second = dense_producer(other)
    if second is not None and second.inputs[0] is conv.inputs[0]:
        own = conv_weight(second)
        return (own, conv_bias(second)) if own is not None and geometry(second) == geometry(conv) else None
    one_pixel = weight.shape[2:] == (1, 1) and all(s == 1 for s in attribute(conv, "strides", [1, 1]))
    unpadded = not any(attribute(conv, "pads", [0]))
    if other is conv.inputs[0] and weight.shape[0] == weight.shape[1] and one_pixel and unpadded:
        return np.eye(len(weight), dtype=weight.dtype)[:, :, None, None], None
    return None
