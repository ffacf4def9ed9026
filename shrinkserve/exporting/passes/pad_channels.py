"""Pad channels to a multiple of the runtime's block, so that no tensor leaves the blocked layout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, add_constant, insert, set_conv
from shrinkserve.exporting.passes.layout import ChannelLayout
from shrinkserve.exporting.passes.nodes import (
    CHANNELS,
    Array,
    all_known,
    attribute,
    channels,
    constant,
    conv_bias,
    conv_weight,
    is_captured,
    is_channel_concat,
    is_depthwise,
    is_operator,
)

BY_CHANNEL = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
"""Operators with one input that work on each channel by itself: padding does not mix with other channels."""
SAME = frozenset({"Add", "Mul", "Sub"})

Layouts = dict[ir.Value, ChannelLayout]


class PadChannels(GraphPass):
    """Pad the outputs of convolutions with filters of zeros, and their readers with weights of zero.

    ONNX Runtime stores blocks of 16 (AVX-512) or 8 channels together, and reorders tensors that do not fill their
    blocks. A padded channel is multiplied by zero before it could meet another channel.

    Only convolutions of one group grow. Padding each group of a grouped convolution made networks up to 2.8 times
    slower. Tensors that a subgraph reads are not padded.

    Args:
        block: channels of a block.
    """

    # A sum with a tensor that cannot be padded removes the padding of a convolution; the next sweep would pad it again.
    once = True

    def __init__(self, block: int) -> None:
        super().__init__()  # in the entire graph: a padded tensor has padded neighbours
        self.block = block

    def rewrite(self, graph: ir.Graph) -> bool:
        if not any(self._grows(node) for node in graph):
            return False
        layouts: Layouts = {}
        for node in graph:
            layout = self._carry(graph, node, layouts)
            if layout is None:
                _restore(node, layouts)
            elif not layout.is_dense:
                layouts[node.outputs[0]] = layout
                _widen(node.outputs[0], layout.size)
        return True

    def _grows(self, node: ir.Node) -> bool:
        weight = conv_weight(node)
        if weight is None or attribute(node, "group", 1) != 1 or node.outputs[0].is_graph_output():
            return False
        return bool(weight.shape[0] % self.block) and not is_captured(node.outputs[0])

    def _carry(self, graph: ir.Graph, node: ir.Node, layouts: Layouts) -> ChannelLayout | None:
        """Fit a node to its inputs' layouts; return the layout of its output, or None if it cannot read padding."""
        if conv_weight(node) is not None and not is_depthwise(node):
            return self._fit_conv(graph, node, layouts)
        if not any(value in layouts for value in node.inputs) or len(node.outputs) != 1:
            return None
        if is_captured(node.outputs[0]) or node.outputs[0].is_graph_output():
            return _fit_gemm(graph, node, layouts) if is_operator(node, "Gemm") else None
        if is_operator(node, *BY_CHANNEL) or _drops_pixels(node):
            return layouts.get(_first(node))
        if is_channel_concat(node):
            return _joined(node, layouts)
        fits = {"Conv": _fit_depthwise, "Gemm": _fit_gemm, **dict.fromkeys(SAME, _fit_same)}
        return fits[node.op_type](graph, node, layouts) if is_operator(node, *fits) else None

    def _fit_conv(self, graph: ir.Graph, node: ir.Node, layouts: Layouts) -> ChannelLayout | None:
        weight, bias, group = conv_weight(node), conv_bias(node), attribute(node, "group", 1)
        assert weight is not None
        before = layouts.get(_first(node))
        parts = None if before is None else before.parts(group)
        if before is not None and parts is None:
            _restore(node, layouts)
        if parts is not None:
            split = np.split(weight, group)
            weight = np.concatenate([part.spread(own, 1) for part, own in zip(parts, split, strict=True)])
        after = ChannelLayout.blocked(weight.shape[0], group, self.block if self._grows(node) else 1)
        set_conv(graph, node, after.spread(weight), None if bias is None else after.spread(bias))
        return after


def _fit_depthwise(graph: ir.Graph, node: ir.Node, layouts: Layouts) -> ChannelLayout | None:
    layout, weight, bias = layouts.get(_first(node)), conv_weight(node), conv_bias(node)
    if layout is None or weight is None or len(layout.places) != len(weight):
        return None
    set_conv(graph, node, layout.spread(weight), None if bias is None else layout.spread(bias), group=layout.size)
    return layout


def _fit_same(graph: ir.Graph, node: ir.Node, layouts: Layouts) -> ChannelLayout | None:
    """Give both operands one layout, by moving the filters of a convolution that has no other reader."""
    values = [value for value in node.inputs if value is not None]
    found = all_known(_layout(value, layouts) for value in values)
    if found is None or len({len(value.shape or ()) for value in values}) > 1:
        return None
    if found[0] == found[1]:
        return found[0]
    for value, own, other in zip(values, found, reversed(found), strict=True):
        conv = value.producer()
        if conv is None or not _is_movable(value, conv) or len(own.places) != len(other.places):
            continue
        weight, bias = conv_weight(conv), conv_bias(conv)
        assert weight is not None
        moved_bias = None if bias is None else other.spread(own.gathered(bias))
        set_conv(graph, conv, other.spread(own.gathered(weight)), moved_bias)
        _widen(value, other.size)
        layouts[value] = other
        return other
    return None


def _is_movable(value: ir.Value, conv: ir.Node) -> bool:
    return conv_weight(conv) is not None and attribute(conv, "group", 1) == 1 and len(value.uses()) == 1


def _fit_gemm(graph: ir.Graph, node: ir.Node, layouts: Layouts) -> ChannelLayout | None:
    weight, layout = constant(node.inputs[1]), layouts.get(_first(node))
    if layout is None or weight is None or attribute(node, "transA", 0):
        return None
    axis = 1 if attribute(node, "transB", 0) else 0
    if weight.shape[axis] != len(layout.places):
        return None
    node.replace_input_with(1, add_constant(graph, f"{node.name}.padded.weight", layout.spread(weight, axis)))
    return ChannelLayout.dense(weight.shape[1 - axis])


def _drops_pixels(node: ir.Node) -> bool:
    """Return True for a Flatten of [N, C, 1, 1] to [N, C]."""
    x = _first(node)
    if not is_operator(node, "Flatten") or attribute(node, "axis", 1) != CHANNELS or x.shape is None:
        return False
    return all(size == 1 for size in x.shape[CHANNELS + 1 :])


def _restore(node: ir.Node, layouts: Layouts) -> None:
    """Remove the padding from the inputs of a node that cannot read it."""
    for position, value in enumerate(node.inputs):
        if value is None or value not in layouts:
            continue
        places: Array = np.array(layouts[value].places, np.int64)
        assert isinstance(node.graph, ir.Graph)
        index = add_constant(node.graph, f"{value.name}.places", places)
        plain = insert(node, "Gather", [value, index], f"{value.name}.plain", {"axis": CHANNELS})
        plain.shape = value.shape
        _widen(plain, len(places))
        node.replace_input_with(position, plain)


def _layout(value: ir.Value, layouts: Layouts) -> ChannelLayout | None:
    """Return the layout of a tensor; None if its number of channels is unknown."""
    count = channels(value)
    return layouts.get(value) or (None if count is None else ChannelLayout.dense(count))


def _joined(concat: ir.Node, layouts: Layouts) -> ChannelLayout | None:
    found = all_known(_layout(value, layouts) for value in concat.inputs if value is not None)
    return None if found is None else ChannelLayout.joined(found)


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _widen(value: ir.Value, size: int) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([*value.shape[:CHANNELS], size, *value.shape[CHANNELS + 1 :]])
