"""A network as data: a `networkx.DiGraph` of named operations.

A node is one operation. Its name is dotted (``stage2.cell1.left.depthwise``), its attribute ``op`` is a key of `OPS`
and the other attributes are those that `OPS` lists for it, all of them, nothing by default. An edge carries ``slot``,
its position among the inputs of its head. Channels, height and width between operations are not stored: they
follow from the input (`shrinkserve.arch.shapes`). One description is therefore one network, and two graphs are the
same network when they are isomorphic with equal attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import networkx as nx

from shrinkserve.errors import SpecError

Spec: TypeAlias = "nx.DiGraph[str]"


@dataclass(frozen=True)
class Attribute:
    """What one attribute of an operation may be.

    Attributes:
        kind: its type; a float may be given as an int.
        low: smallest value.
        high: largest value; it bounds what a description from outside can make a process allocate.
        choices: the allowed words, for a string.
    """

    kind: type
    low: float = 0
    high: float = 1
    choices: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Whether `value` has the type and lies in the range; a bool is not a number, NaN is in no range."""
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
"""Operation -> its attributes. ``size`` is height and width in pixels; ``decay`` is TensorFlow's moving-average
momentum, 1 minus torch's; ``channels`` and ``units`` are those of the output."""

MANY = 64
ARITY: Mapping[str, tuple[int, int]] = {"input": (0, 0), "concat": (2, MANY), "add": (2, MANY)}
"""Fewest and most inputs of an operation; those that are not named take exactly one."""


def add(spec: Spec, name: str, op: str, *inputs: str, **attributes: Any) -> str:
    """Add one operation that reads `inputs` in this order, and return its name.

    Raises:
        SpecError: the name is taken, an input is not there yet, or is given twice (an edge exists once).
    """
    if name in spec:
        raise SpecError(f"{name}: two operations have this name", hint="give each its own")
    if unknown := [source for source in inputs if source not in spec]:
        raise SpecError(f"{name}: reads from {', '.join(unknown)}, which is not defined before it")
    if len(set(inputs)) < len(inputs):
        raise SpecError(f"{name}: reads the same tensor twice", found=", ".join(inputs))
    spec.add_node(name, op=op, **attributes)
    for slot, source in enumerate(inputs):
        spec.add_edge(source, name, slot=slot)
    return name


def inputs(spec: Spec, name: str) -> list[str]:
    """What an operation reads, in the order of its slots."""
    return sorted(spec.pred[name], key=lambda source: spec.edges[source, name]["slot"])


def order(spec: Spec) -> Iterable[str]:
    """The operations so that each follows what it reads; in the order of the description where that is left open."""
    position = {name: index for index, name in enumerate(spec)}
    return nx.lexicographical_topological_sort(spec, key=position.__getitem__)


def input_node(spec: Spec) -> str:
    """The name of the operation that stands for the image."""
    return next(name for name in spec if spec.nodes[name]["op"] == "input")


def output_node(spec: Spec) -> str:
    """The name of the operation that gives the logits."""
    return next(name for name in spec if not spec.out_degree(name))
