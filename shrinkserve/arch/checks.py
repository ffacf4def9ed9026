"""Whether a description holds together: every fault at once, each naming its node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import networkx as nx

from shrinkserve.arch.shapes import Shape, output_shape
from shrinkserve.arch.spec import ARITY, OPS, Spec, inputs, order
from shrinkserve.errors import SpecError

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
MAX_NAME = 200
SHOWN = 20


class SpecProblem(NamedTuple):
    """One thing that is wrong: the node, or "" where it is the network as a whole, and what."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node:.{MAX_NAME}}: {self.text}" if self.node else self.text


def check(spec: Spec) -> None:
    """Check a network: names, attributes, inputs, one image in, one vector of logits out, no cycle, shapes that fit.

    Raises:
        SpecError: with every fault, each beginning with the node's name.
    """
    if found := problems(spec):
        raise SpecError(listed(found))


def problems(spec: Spec) -> list[SpecProblem]:
    """Everything that is wrong with a network; an empty list when it holds together."""
    found = [*_name_faults(spec), *_attribute_faults(spec), *_slot_faults(spec), *_flow_faults(spec)]
    # Shapes follow from attributes and edges, so they tell nothing more while those are wrong.
    return found or list(_shape_faults(spec))


def listed(found: Sequence[object]) -> str:
    """Faults as one line; a description that is wrong throughout has thousands, of which it shows the first."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(map(str, found[:SHOWN])) + more


def _name_faults(spec: Spec) -> Iterator[SpecProblem]:
    for name in spec:
        if not isinstance(name, str) or len(name) > MAX_NAME or not NAME.fullmatch(name):
            yield SpecProblem(f"{name!r}", "not a name, expected letters, digits and '_' in parts joined by dots")
            continue
        # The compiled module is a tree by the dots, in which an operation is a leaf.
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if (prefix := ".".join(parts[:depth])) in spec:
                yield SpecProblem(name, f"{prefix} is another operation, expected a name that only groups")


def _attribute_faults(spec: Spec) -> Iterator[SpecProblem]:
    for name, attributes in spec.nodes(data=True):
        op = attributes.get("op")
        known = OPS.get(op) if isinstance(op, str) else None
        if known is None:
            yield SpecProblem(str(name), f"unknown op {op!r:.80}, known: {', '.join(OPS)}")
            continue
        for key in attributes:
            if key not in known and key != "op":
                yield SpecProblem(str(name), f"{op} has no attribute {key!r:.80}, known: {', '.join(known) or 'none'}")
        for key, rule in known.items():
            if key not in attributes:
                yield SpecProblem(str(name), f"{op} needs the attribute {key}, expected {rule}")
            elif not rule.accepts(attributes[key]):
                yield SpecProblem(str(name), f"{key}: expected {rule}, found {attributes[key]!r:.80}")


def _slot_faults(spec: Spec) -> Iterator[SpecProblem]:
    for name, attributes in spec.nodes(data=True):
        op = attributes.get("op")
        slots: list[Any] = [edge.get("slot") for edge in spec.pred[name].values()]
        if not all(type(slot) is int for slot in slots) or sorted(slots) != list(range(len(slots))):
            wanted = f"expected its inputs in slots 0..{max(0, len(slots) - 1)}"
            yield SpecProblem(str(name), f"{wanted}, found {', '.join(map(str, slots)):.80}")
        fewest, most = ARITY.get(op, (1, 1)) if isinstance(op, str) else (0, len(slots))
        if not fewest <= len(slots) <= most:
            number = fewest if fewest == most else f"{fewest}..{most}"
            yield SpecProblem(str(name), f"{op:.80} reads {len(slots)} tensors, expected {number}")


def _flow_faults(spec: Spec) -> Iterator[SpecProblem]:
    if not nx.is_directed_acyclic_graph(spec):
        circle = [str(edge[0]) for edge in nx.find_cycle(spec)]
        yield SpecProblem(circle[0], f"lies on a cycle: {' -> '.join([*circle[:SHOWN], circle[0]])}")
        return
    images = [name for name in spec if spec.nodes[name].get("op") == "input"]
    if len(images) != 1:
        yield SpecProblem("", f"expected one input operation, found {', '.join(map(str, images[:SHOWN])) or 'none'}")
    ends = [name for name in spec if not spec.out_degree(name)]
    logits = [name for name in ends if spec.nodes[name].get("op") == "dense"]
    if len(logits) != 1:
        found = ", ".join(map(str, logits[:SHOWN])) or "none"
        yield SpecProblem("", f"expected one dense operation at the end, for the logits, found {found}")
    yield from (SpecProblem(str(name), "its answer is read by no operation") for name in ends if name not in logits)
    if len(images) == 1:
        reached = nx.descendants(spec, images[0]) | {images[0]}
        yield from (SpecProblem(str(name), f"not reached from {images[0]}") for name in spec if name not in reached)


def _shape_faults(spec: Spec) -> Iterator[SpecProblem]:
    shapes: dict[str, Shape] = {}
    for name in order(spec):
        sources = inputs(spec, name)
        if all(source in shapes for source in sources):  # what follows a fault is not a fault of its own
            try:
                shapes[name] = output_shape(spec.nodes[name], [shapes[source] for source in sources])
            except SpecError as exc:
                yield SpecProblem(name, str(exc))
