"""The base of graph passes, and edits of graphs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from shrinkserve.exporting.graph import unique_names
from shrinkserve.exporting.passes.nodes import (
    CHANNELS,
    Array,
    all_known,
    concat_of,
    conv_bias,
    conv_weight,
    is_depthwise,
)

AttributeValue = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


class GraphPass(ir.passes.InPlacePass):
    """A rewrite, repeated until it applies nowhere.

    Exact in real arithmetic: outputs change in the last bits only, because sums are computed in another order. A pass
    changes nodes of the main graph only, and applies only where the shapes that it depends on are known.

    Args:
        scope: prefix of the names of the nodes to rewrite, e.g. ``"stage2."``; every node by default.
    """

    once = False
    """Make one sweep only, for a pass that might always find something to do."""

    def __init__(self, scope: str = "") -> None:
        super().__init__()
        self.scope = scope

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while self.rewrite(model.graph):
            RemoveUnusedNodesPass()(model)
            modified = True
            if self.once:
                break
        if modified:
            unique_names(model)
        return ir.passes.PassResult(model, modified)

    def nodes(self, graph: ir.Graph) -> Iterator[ir.Node]:
        """Return the nodes in scope, in the graph's order."""
        return (node for node in graph if (node.name or "").startswith(self.scope))

    @abstractmethod
    def rewrite(self, graph: ir.Graph) -> bool:
        """Rewrite every match; return True if anything changed."""


class OverConcat(GraphPass):
    """A rewrite of the reader of a concat into nodes that read the concat's inputs.

    Args:
        scope: see `GraphPass`.
        alone: apply only if the concat has no other reader, so that it disappears. Otherwise it stays, and one reader
            of the joined tensor is faster than two readers of its parts.
    """

    def __init__(self, scope: str = "", *, alone: bool = False) -> None:
        super().__init__(scope)
        self.alone = alone

    def concat(self, value: ir.Value | None) -> ir.Node | None:
        """Return the concat that produces `value`, if this pass may split it."""
        node = concat_of(value)
        return None if node is None or (self.alone and len(node.outputs[0].uses()) > 1) else node


def sum_shape(values: Sequence[ir.Value]) -> ir.Shape | None:
    """Return the shape of a sum of tensors of one rank, with broadcasting; None if unknown."""
    shapes = all_known(value.shape for value in values)
    if shapes is None or len({len(shape) for shape in shapes}) != 1:
        return None
    dims: list[int | ir.SymbolicDim] | None = all_known(
        _broadcast([shape[axis] for shape in shapes]) for axis in range(len(shapes[0]))
    )
    return None if dims is None else ir.Shape(dims)


def _broadcast(sizes: Sequence[int | ir.SymbolicDim]) -> int | ir.SymbolicDim | None:
    larger = [size for size in sizes if size != 1]
    return 1 if not larger else larger[0] if all(size == larger[0] for size in larger) else None


def add_all(before: ir.Node, values: Sequence[ir.Value], names: Sequence[str]) -> ir.Value:
    """Insert the sum of `values`, one addition after the other; return the result.

    Args:
        before: the additions come right before this node.
        values: at least one.
        names: of the additions, one less than the values.
    """
    total = values[0]
    for value, name in zip(values[1:], names, strict=True):
        added = insert(before, "Add", [total, value], name)
        added.shape = sum_shape([total, value])
        total = added
    return total


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add a constant to the graph and return it."""
    taken = graph.initializers
    unique = next(c for c in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if c not in taken)
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)  # it makes 0-d arrays 1-d
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> ir.Value:
    """Insert a node with one output right before another node; return the output, which has the node's name."""
    node = ir.node(op_type, inputs, dict(attributes or {}), name=name)
    node.outputs[0].name = name
    first = inputs[0]
    node.outputs[0].type = None if first is None else first.type
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def split_filters(conv: ir.Node, sizes: Sequence[int], inputs: Sequence[ir.Value], names: str) -> bool:
    """Replace a convolution by several with a part of its filters each, joined by a Concat.

    Args:
        conv: dense or depthwise.
        sizes: filters of each part.
        inputs: input of each part.
        names: added to the names of the parts, with a number.

    Returns:
        False, with the graph unchanged, if the parts are not all of the filters.
    """
    weight, bias, depthwise = conv_weight(conv), conv_bias(conv), is_depthwise(conv)
    if weight is None or sum(sizes) != len(weight):
        return False
    cuts = np.cumsum(sizes)[:-1]
    biases = [None] * len(sizes) if bias is None else np.split(bias, cuts)
    parts = [
        insert_conv(conv, x, part, shift, f"{conv.name}.{names}{number}", conv, len(part) if depthwise else 1)
        for number, (x, part, shift) in enumerate(zip(inputs, np.split(weight, cuts), biases, strict=True))
    ]
    replace(conv.outputs[0], insert(conv, "Concat", parts, f"{conv.name}.joined", {"axis": CHANNELS}))
    return True


def insert_conv(
    before: ir.Node, x: ir.Value, weight: Array, bias: Array | None, name: str, like: ir.Node, group: int = 1
) -> ir.Value:
    """Insert a convolution right before another node, with the geometry of `like`; return its output."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    inputs = [x, add_constant(graph, f"{name}.weight", weight)]
    if bias is not None:
        inputs.append(add_constant(graph, f"{name}.bias", bias))
    attributes = {key: value.value for key, value in like.attributes.items()}
    result = insert(before, "Conv", inputs, name, {**attributes, "group": group})
    return with_channels(result, like.outputs[0], weight.shape[0])


def set_conv(graph: ir.Graph, conv: ir.Node, weight: Array, bias: Array | None, group: int | None = None) -> None:
    """Set the weights and groups of a convolution in place."""
    if group is not None:
        conv.attributes["group"] = ir.AttrInt64("group", group)
    conv.replace_input_with(1, add_constant(graph, f"{conv.name}.weight", weight))
    if bias is not None:
        conv.resize_inputs(3)
        conv.replace_input_with(2, add_constant(graph, f"{conv.name}.bias", bias))


def with_channels(value: ir.Value, like: ir.Value, count: int) -> ir.Value:
    """Set the shape of `value` to that of `like` with `count` channels, if known; return `value`."""
    if like.shape is not None:
        value.shape = ir.Shape([*like.shape[:CHANNELS], count, *like.shape[CHANNELS + 1 :]])
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Replace `old` by `new` in all readers and in the graph's outputs."""
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}.before"
    new.shape = new.shape or old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
