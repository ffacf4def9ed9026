"""Predicates on nodes and edges, and readers of their weights, for graph passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar

import numpy.typing as npt
import onnx_ir as ir

T = TypeVar("T")
Array = npt.NDArray[Any]
CHANNELS = 1
"""The axis of the channels in every image tensor: [N, C, H, W]."""


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of a constant tensor; None for others."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_operator(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Return True for a node with one of these operators of the standard domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def is_captured(value: ir.Value) -> bool:
    """Return True if a subgraph, e.g. a branch of an If, reads the tensor."""
    return any(user.graph is not value.graph for user in value.consumers())


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that produces `value`, if it is an `op_type` and has no other reader."""
    node = None if value is None else value.producer()
    if value is None or node is None or not is_operator(node, op_type):
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str, default: object) -> Any:
    """Return the value of an attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_channel_concat(node: ir.Node | None) -> bool:
    """Return True for a Concat along the channels."""
    return node is not None and is_operator(node, "Concat") and attribute(node, "axis", None) == CHANNELS


def concat_of(value: ir.Value | None) -> ir.Node | None:
    """Return the Concat along the channels that produces `value`, if there is one."""
    node = None if value is None else value.producer()
    return node if is_channel_concat(node) else None


def conv_weight(node: ir.Node) -> Array | None:
    """Return the constant weights [F, C / group, kh, kw] of a two-dimensional convolution; None for other nodes."""
    if not is_operator(node, "Conv") or any(constant(value) is None for value in node.inputs[1:] if value is not None):
        return None
    weight = constant(node.inputs[1])
    return weight if weight is not None and weight.ndim == 4 else None


def conv_bias(node: ir.Node) -> Array | None:
    """Return the constant bias [F] of a convolution; None without a bias."""
    return constant(node.inputs[2]) if len(node.inputs) > 2 else None


def is_depthwise(node: ir.Node) -> bool:
    """Return True for a convolution with constant weights that filters every channel by itself."""
    weight = conv_weight(node)
    return weight is not None and weight.shape[1] == 1 and weight.shape[0] == attribute(node, "group", 1)


def is_dense(node: ir.Node) -> bool:
    """Return True for a convolution with constant weights in which every output reads every channel."""
    return conv_weight(node) is not None and attribute(node, "group", 1) == 1


def dense_producer(value: ir.Value | None) -> ir.Node | None:
    """Return the dense convolution that produces `value`, if there is one and it has no other reader."""
    conv = producer(value, "Conv")
    return conv if conv is not None and is_dense(conv) else None


def sum_terms(value: ir.Value | None) -> list[ir.Value]:
    """Return the terms of a sum from left to right, through all partial sums without other readers."""
    add = producer(value, "Add")
    if add is None:
        return [] if value is None else [value]
    return [term for operand in add.inputs for term in sum_terms(operand)]


def geometry(node: ir.Node) -> tuple[object, ...]:
    """Return the kernel size, strides, padding and dilations of a convolution, for comparison."""
    weight = conv_weight(node)
    assert weight is not None
    ones, zeros = [1, 1], [0, 0, 0, 0]
    walk = [attribute(node, "strides", ones), attribute(node, "pads", zeros), attribute(node, "dilations", ones)]
    return (weight.shape[2:], *map(tuple, walk), attribute(node, "auto_pad", "NOTSET"))


def all_known(values: Iterable[T | None]) -> list[T] | None:
    """Return the values; None if one of them is None."""
    given = list(values)
    known = [value for value in given if value is not None]
    return known if len(known) == len(given) else None


def channels(value: ir.Value | None) -> int | None:
    """Return the number of channels of an image tensor; None if unknown."""
    if value is None or value.shape is None or len(value.shape) <= CHANNELS:
        return None
    size = value.shape[CHANNELS]
    return size if isinstance(size, int) else None


def concat_sizes(concat: ir.Node) -> list[int] | None:
    """Return the channels of each input of a concat; None if one is unknown."""
    return all_known(channels(value) for value in concat.inputs)
