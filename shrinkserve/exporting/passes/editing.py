"""What graph passes are written with: predicates on nodes, and edits that keep names and weights in order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from shrinkserve.exporting.graph import unique_names

Array = npt.NDArray[Any]
CHANNELS = 1
"""The axis of the channels in every image tensor: [N, C, H, W]."""


class GraphPass(ir.passes.InPlacePass):
    """One rewrite, applied wherever it fits until it fits nowhere.

    Exact in real arithmetic: outputs may change in the last bits only, as sums are taken in another order.

    Args:
        scope: only where nodes' names begin with it, e.g. ``"stage2."``; all of the graph by default.
    """

    def __init__(self, scope: str = "") -> None:
        super().__init__()
        self.scope = scope

    once = False
    """Whether one sweep is all there is to do."""

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
        """The nodes in scope, in the graph's order."""
        return (node for node in graph if (node.name or "").startswith(self.scope))

    @abstractmethod
    def rewrite(self, graph: ir.Graph) -> bool:
        """Rewrite what fits now; True where anything was changed."""


class OverConcat(GraphPass):
    """A rewrite of what reads a concat, so that it reads the parts.

    Args:
        scope: see `GraphPass`.
        alone: only where nobody else reads the concat; it is then never made. Elsewhere it stays, and a reader that
            takes it in one piece is faster than one that takes it in two.
    """

    def __init__(self, scope: str = "", *, alone: bool = False) -> None:
        super().__init__(scope)
        self.alone = alone

    def concat(self, value: ir.Value | None) -> ir.Node | None:
        """The concat that makes `value`, where this pass may take it apart."""
        node = concat_of(value)
        return None if node is None or (self.alone and len(node.outputs[0].uses()) > 1) else node


def constant(value: ir.Value | None) -> Array | None:
    """The array that a tensor always is, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value` if it is an `op_type` and nobody else reads what it makes."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != op_type or node.domain not in {"", "ai.onnx"}:
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, as a plain Python value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_channel_concat(node: ir.Node | None) -> bool:
    """A Concat of image tensors along their channels."""
    return node is not None and node.op_type == "Concat" and attribute(node, "axis", None) == CHANNELS


def concat_of(value: ir.Value | None) -> ir.Node | None:
    """The Concat of image tensors along their channels that makes `value`, if one does."""
    node = None if value is None else value.producer()
    return node if is_channel_concat(node) else None


def conv_weight(node: ir.Node) -> Array | None:
    """A two-dimensional convolution's constant weights [F, C / group, kh, kw], or None where it is something else."""
    if node.op_type != "Conv" or any(constant(value) is None for value in node.inputs[1:] if value is not None):
        return None
    weight = constant(node.inputs[1])
    return weight if weight is not None and weight.ndim == 4 else None


def conv_bias(node: ir.Node) -> Array | None:
    """A convolution's constant bias [F], or None where it has none."""
    return constant(node.inputs[2]) if len(node.inputs) > 2 else None


def is_depthwise(node: ir.Node) -> bool:
    """A convolution with constant weights in which every channel is filtered by itself."""
    weight = conv_weight(node)
    return weight is not None and weight.shape[1] == 1 and weight.shape[0] == attribute(node, "group", 1)


def is_dense(node: ir.Node) -> bool:
    """A convolution with constant weights in which every output reads every channel."""
    return conv_weight(node) is not None and attribute(node, "group", 1) == 1


def geometry(node: ir.Node) -> tuple[Any, ...]:
    """What must be equal for two convolutions to walk over an image alike."""
    weight = conv_weight(node)
    assert weight is not None
    ones, zeros = [1, 1], [0, 0, 0, 0]
    walk = [attribute(node, "strides", ones), attribute(node, "pads", zeros), attribute(node, "dilations", ones)]
    return (weight.shape[2:], *map(tuple, walk), attribute(node, "auto_pad", "NOTSET"))


def channels(value: ir.Value | None) -> int | None:
    """How many channels an image tensor has, where its shape says so."""
    if value is None or value.shape is None or len(value.shape) <= CHANNELS:
        return None
    size = value.shape[CHANNELS]
    return size if isinstance(size, int) else None


def concat_sizes(concat: ir.Node) -> list[int] | None:
    """The channels of what a concat joins, or None where a shape does not say so."""
    sizes = [channels(value) for value in concat.inputs]
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new weight of the graph."""
    taken = graph.initializers
    unique = next(c for c in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if c not in taken)
    tensor = ir.tensor(np.ascontiguousarray(array), name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], name: str, attributes: Mapping[str, Any] = {}
) -> ir.Value:
    """A new node with one output, right before another; its output has the same name and a shape of its own."""
    node = ir.node(op_type, inputs, dict(attributes), name=name)
    node.outputs[0].name = name
    first = inputs[0]
    node.outputs[0].type = None if first is None else first.type
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def insert_conv(
    before: ir.Node, x: ir.Value, weight: Array, bias: Array | None, name: str, like: ir.Node, group: int = 1
) -> ir.Value:
    """A new convolution right before another node, with the geometry of `like`."""
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    inputs = [x, add_constant(graph, f"{name}.weight", weight)]
    if bias is not None:
        inputs.append(add_constant(graph, f"{name}.bias", bias))
    attributes = {key: value.value for key, value in like.attributes.items()}
    result = insert(before, "Conv", inputs, name, {**attributes, "group": group})
    return with_channels(result, like.outputs[0], weight.shape[0])


def set_conv(graph: ir.Graph, conv: ir.Node, weight: Array, bias: Array | None, group: int | None = None) -> None:
    """Give a convolution other weights and groups in place."""
    if group is not None:
        conv.attributes["group"] = ir.AttrInt64("group", group)
    conv.replace_input_with(1, add_constant(graph, f"{conv.name}.weight", weight))
    if bias is not None:
        conv.resize_inputs(3)
        conv.replace_input_with(2, add_constant(graph, f"{conv.name}.bias", bias))


def with_channels(value: ir.Value, like: ir.Value, count: int) -> ir.Value:
    """Give `value` the shape of `like` with `count` channels, where that is known."""
    if like.shape is not None:
        value.shape = ir.Shape([*like.shape[:CHANNELS], count, *like.shape[CHANNELS + 1 :]])
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of `old`, the graph's outputs included, read `new`."""
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}.before"
    new.shape = new.shape or old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
