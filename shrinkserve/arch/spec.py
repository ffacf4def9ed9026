"""Network spec: a `networkx.DiGraph` of named operations.

A node is one operation with a dotted name such as ``stage2.cell1.left.depthwise``. Its attribute ``op`` is a key of
`OPS`, which lists the other attributes; all are required. The attribute ``slot`` of an edge is its position among the
inputs of the operation that reads it. Shapes are not stored; `shrinkserve.arch.shapes` infers them. Two specs describe
the same network if their graphs are isomorphic with equal attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import networkx as nx

from shrinkserve.errors import SpecError

Spec: TypeAlias = "nx.DiGraph[str]"
Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, Any]
"""Attributes of a node; `OPS` gives their types."""


@dataclass(frozen=True)
class Attribute:
    """Rule for one attribute of an operation.

    Attributes:
        kind: its type; an int is also a valid float.
        low: smallest value.
        high: largest value; limits the memory that an untrusted spec can allocate.
        choices: allowed values of a string.
    """

    kind: type
    low: float = 0
    high: float = 1
    choices: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Return True if `value` has the type and is in the range. A bool is not a number; NaN is in no range."""
        if self.kind is str:
            return value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        right = isinstance(value, (int, self.kind)) and not isinstance(value, bool)
        return right and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        if self.kind is str:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        return f"{'a whole number' if self.kind is int else 'a number'} in {self.low:g}..{self.high:g}"


CHANNELS = Attribute(int, 1, 65536)
EXTENT = Attribute(int, 1, 64)
FRACTION = Attribute(float, 0, 1)
FLAG = Attribute(bool)

OPS: Mapping[str, Mapping[str, Attribute]] = {
    "input": {"channels": CHANNELS, "size": CHANNELS},
    "conv": {"channels": CHANNELS, "kernel": EXTENT, "stride": EXTENT, "groups": CHANNELS, "bias": FLAG},
    "batch_norm": {"epsilon": FRACTION, "decay": FRACTION},
    "activation": {"function": Attribute(str, choices=("relu", "silu"))},
    "max_pool": {"kernel": EXTENT, "stride": EXTENT},
    "concat": {},
    "add": {},
    "global_avg_pool": {},
    "dropout": {"rate": FRACTION},
    "dense": {"units": CHANNELS, "bias": FLAG},
}
"""Operation -> its attributes. ``size`` is height and width in pixels. ``decay`` is 1 minus torch's momentum, as in
TensorFlow. ``channels`` and ``units`` are those of the output."""

MANY = 64
"""Largest number of inputs of a concat or an addition."""
ARITY: Mapping[str, tuple[int, int]] = {"input": (0, 0), "concat": (2, MANY), "add": (2, MANY)}
"""Minimum and maximum number of inputs; operations that are not listed have exactly one."""


def add(spec: Spec, name: str, op: str, *inputs: str, **attributes: Value) -> str:
    """Add an operation that reads `inputs` in this order, and return its name.

    Raises:
        SpecError: the name exists, an input does not exist, or two inputs are the same.
    """
    if name in spec:
        raise SpecError(f"{name}: two operations have this name", hint="rename one of them")
    if unknown := [source for source in inputs if source not in spec]:
        raise SpecError(f"{name}: unknown input {', '.join(unknown)}", hint="add it first")
    if len(set(inputs)) < len(inputs):
        raise SpecError(f"{name}: reads a tensor twice", found=", ".join(inputs))
    spec.add_node(name, op=op, **attributes)
    for slot, source in enumerate(inputs):
        spec.add_edge(source, name, slot=slot)
    return name


def inputs(spec: Spec, name: str) -> list[str]:
    """Return the inputs of an operation in the order of its slots."""
    return sorted(spec.pred[name], key=lambda source: spec.edges[source, name]["slot"])


def order(spec: Spec) -> Iterable[str]:
    """Return the operations in topological order; in the order of insertion where that leaves a choice."""
    position = {name: index for index, name in enumerate(spec)}
    return nx.lexicographical_topological_sort(spec, key=position.__getitem__)


def input_node(spec: Spec) -> str:
    """Return the name of the operation for the image."""
    return next(name for name in spec if spec.nodes[name]["op"] == "input")


def output_node(spec: Spec) -> str:
    """Return the name of the operation that computes the logits."""
    return next(name for name in spec if not spec.out_degree(name))
