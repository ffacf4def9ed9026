"""Whether a description holds together: every fault at once, each naming its node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import networkx as nx

from shrinkserve.arch.shapes import Shape, output_shape
from shrinkserve.arch.spec import ARITY, OPS, Spec, inputs, order
from shrinkserve.errors import SpecError

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
MAX_NAME = 200
SHOWN = 20
"""Faults that a message lists; a description that is wrong throughout has thousands."""


def check(spec: Spec) -> None:
    """Check a network: names, attributes, inputs, one image in, one vector of logits out, no cycle, shapes that fit.

    Raises:
        SpecError: with every fault, each beginning with the node's name.
    """
    faults = [*_name_faults(spec), *_attribute_faults(spec), *_slot_faults(spec), *_flow_faults(spec)]
    # Shapes follow from attributes and edges, so they tell nothing more while those are wrong.
    faults = faults or list(_shape_faults(spec))
    if faults:
        hidden = len(faults) - SHOWN
        more = [f"and {hidden} more"] if hidden > 0 else []
        raise SpecError("; ".join(faults[:SHOWN] + more))


def _name_faults(spec: Spec) -> Iterator[str]:
    for name in spec:
        if not isinstance(name, str) or len(name) > MAX_NAME or not NAME.fullmatch(name):
            yield f"{name!r:.80}: not a name, expected letters, digits and '_' in parts joined by dots"
            continue
        # The compiled module is a tree by the dots, in which a node is a leaf.
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if (prefix := ".".join(parts[:depth])) in spec:
                yield f"{name}: {prefix} is the name of another operation, expected one that only groups"


def _attribute_faults(spec: Spec) -> Iterator[str]:
    for name, attributes in spec.nodes(data=True):
        op = attributes.get("op")
        known = OPS.get(op) if isinstance(op, str) else None
        if known is None:
            yield f"{name}: unknown op {op!r:.80}, known: {', '.join(OPS)}"
            continue
        for key in attributes.keys() - known.keys() - {"op"}:
            yield f"{name}: {op} has no attribute {key!r:.80}, known: {', '.join(known) or 'none'}"
        for key, rule in known.items():
            if key not in attributes:
                yield f"{name}: {op} needs the attribute {key}, expected {rule}"
            elif not rule.accepts(attributes[key]):
                yield f"{name}: {key}: expected {rule}, found {attributes[key]!r:.80}"


def _slot_faults(spec: Spec) -> Iterator[str]:
    for name, attributes in spec.nodes(data=True):
        op = attributes.get("op")
        slots: list[Any] = [edge.get("slot") for edge in spec.pred[name].values()]
        if not all(type(slot) is int for slot in slots) or sorted(slots) != list(range(len(slots))):
            yield f"{name}: expected its inputs in slots 0..{max(0, len(slots) - 1)}, found {slots!r:.80}"
        fewest, most = ARITY.get(op, (1, 1)) if isinstance(op, str) else (0, len(slots))
        if not fewest <= len(slots) <= most:
            wanted = fewest if fewest == most else f"{fewest}..{most}"
            yield f"{name}: {op} reads {len(slots)} tensors, expected {wanted}"


def _flow_faults(spec: Spec) -> Iterator[str]:
    images = [name for name in spec if spec.nodes[name].get("op") == "input"]
    if len(images) != 1:
        yield f"expected one input operation, found {', '.join(map(str, images)) or 'none'}"
    if not nx.is_directed_acyclic_graph(spec):
        circle = [str(tail) for tail, _ in nx.find_cycle(spec)]
        yield f"{circle[0]}: lies on a cycle: {' -> '.join([*circle, circle[0]])}"
        return
    ends = [name for name in spec if not spec.out_degree(name)]
    logits = [name for name in ends if spec.nodes[name].get("op") == "dense"]
    if len(logits) != 1:
        yield f"expected one dense operation at the end, for the logits, found {', '.join(map(str, logits)) or 'none'}"
    for name in ends:
        if name not in logits:
            yield f"{name}: its answer is read by no operation"
    if len(images) == 1:
        for name in spec.nodes - nx.descendants(spec, images[0]) - {images[0]}:
            yield f"{name}: not reached from {images[0]}"


def _shape_faults(spec: Spec) -> Iterator[str]:
    shapes: dict[str, Shape] = {}
    for name in order(spec):
        sources = inputs(spec, name)
        if all(source in shapes for source in sources):  # what follows a fault is not a fault of its own
            try:
                shapes[name] = output_shape(spec.nodes[name], [shapes[source] for source in sources])
            except SpecError as fault:
                yield f"{name}: {fault}"
