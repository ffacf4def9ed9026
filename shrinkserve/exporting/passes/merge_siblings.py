"""Branches that read one tensor, as one branch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import (
    CHANNELS,
    Array,
    GraphPass,
    add_constant,
    attribute,
    conv_bias,
    conv_weight,
    geometry,
    insert,
    insert_conv,
    is_dense,
    is_depthwise,
    replace,
    with_channels,
)

UNARY = frozenset({"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Swish"})


class MergeSiblings(GraphPass):
    """Convolutions that read one tensor become one with all their filters, and a Split behind it.

    Depthwise ones filter the tensor joined with itself. What then reads all parts of a Split alike moves before it:
    activations as they are, convolutions as the groups of one.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        for node in self.nodes(graph):
            x = node.inputs[0] if node.op_type == "Conv" else None
            siblings = [] if x is None else [user for user in x.consumers() if user.op_type == "Conv"]
            for chosen in (_alike(siblings, is_dense), _alike(siblings, is_depthwise)):
                if x is not None and len(chosen) > 1:
                    _merge(graph, chosen, x, dense=is_dense(chosen[0]))
                    return True
            if node.op_type == "Split" and attribute(node, "axis", 0) == CHANNELS and _sink(graph, node):
                return True
        return False


def _alike(convs: Sequence[ir.Node], kind: object) -> list[ir.Node]:
    fitting = [conv for conv in convs if callable(kind) and kind(conv) and not conv.outputs[0].is_graph_output()]
    return [conv for conv in fitting if geometry(conv) == geometry(fitting[0])]


def _merge(graph: ir.Graph, convs: Sequence[ir.Node], x: ir.Value, *, dense: bool) -> None:
    """Insert one convolution before the first of `convs`, and a Split that makes their outputs."""
    weight, bias, sizes = _stacked(convs)
    first = min(convs, key=list(graph).index)
    name, group = f"{first.name}.siblings", 1
    if not dense:
        x = with_channels(
            insert(first, "Concat", [x] * len(convs), f"{name}.input", {"axis": CHANNELS}), x, len(weight)
        )
        group = len(weight)
    merged = insert_conv(first, x, weight, bias, name, first, group)
    _split(graph, first, merged, [conv.outputs[0] for conv in convs], sizes)


def _stacked(convs: Sequence[ir.Node]) -> tuple[Array, Array | None, list[int]]:
    weights = [weight for conv in convs if (weight := conv_weight(conv)) is not None]
    biases = [conv_bias(conv) for conv in convs]
    sizes = [len(weight) for weight in weights]
    if all(bias is None for bias in biases):
        return np.concatenate(weights), None, sizes
    filled = [np.zeros(n, w.dtype) if b is None else b for b, n, w in zip(biases, sizes, weights, strict=True)]
    return np.concatenate(weights), np.concatenate(filled), sizes


def _split(
    graph: ir.Graph, before: ir.Node, merged: ir.Value, replaced: Sequence[ir.Value], sizes: Sequence[int]
) -> None:
    lengths = add_constant(graph, f"{merged.name}.sizes", np.array(sizes, np.int64))
    split = ir.node("Split", [merged, lengths], {"axis": CHANNELS}, num_outputs=len(sizes), name=f"{merged.name}.split")
    graph.insert_before(before, split)
    for number, (old, new, size) in enumerate(zip(replaced, split.outputs, sizes, strict=True)):
        new.name, new.type = f"{merged.name}.part{number}", merged.type
        with_channels(new, old, size)
        replace(old, new)


def _sink(graph: ir.Graph, split: ir.Node) -> bool:
    """Move what reads every part of a Split alike, and is its only reader, before the Split."""
    readers = [value.consumers() for value in split.outputs]
    if any(len(users) != 1 or value.is_graph_output() for users, value in zip(readers, split.outputs, strict=True)):
        return False
    users = [users[0] for users in readers]
    merged = split.inputs[0]
    assert merged is not None
    if len({id(user) for user in users}) < len(users) or any(user.outputs[0].is_graph_output() for user in users):
        return False
    # The readers' outputs are made where the Split is: that is before all of them.
    if all(user.op_type in UNARY and _attributes(user) == _attributes(users[0]) for user in users):
        if len({user.op_type for user in users}) > 1:
            return False
        moved = insert(split, users[0].op_type, [merged], f"{users[0].name}.siblings", _attributes(users[0]))
        moved.shape = merged.shape
        sizes = [int(value.shape[CHANNELS]) for value in split.outputs if value.shape is not None]  # type: ignore[arg-type]
    elif all(is_dense(user) and _alike_filters(user, users[0]) for user in users):
        weight, bias, sizes = _stacked(users)
        moved = insert_conv(split, merged, weight, bias, f"{users[0].name}.siblings", users[0], len(users))
    else:
        return False
    _split(graph, split, moved, [user.outputs[0] for user in users], sizes)
    return True


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: found.value for name, found in node.attributes.items()}


def _alike_filters(a: ir.Node, b: ir.Node) -> bool:
    first, second = conv_weight(a), conv_weight(b)
    return first is not None and second is not None and first.shape == second.shape and geometry(a) == geometry(b)
