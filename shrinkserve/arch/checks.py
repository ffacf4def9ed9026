"""Checks of a network spec. All problems are reported at once, each with the name of its node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import networkx as nx

from shrinkserve.arch.shapes import Shape, output_shape
from shrinkserve.arch.spec import ARITY, OPS, Spec, inputs, order
from shrinkserve.errors import SpecError

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
MAX_NAME = 200
SHOWN = 20


class SpecProblem(NamedTuple):
    """One problem: the name of the node, or "" for the whole network, and a description."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node:.{MAX_NAME}}: {self.text}" if self.node else self.text


def check_spec(spec: Spec) -> None:
    """Check names, attributes, inputs and shapes; require one image input, one logits output and no cycle.

    Raises:
        SpecError: lists all problems, each with the name of its node.
    """
    if found := spec_problems(spec):
        raise SpecError(join_messages(found))


def spec_problems(spec: Spec) -> list[SpecProblem]:
    """Return all problems of a network; empty if it is valid."""
    found = [*_name_problems(spec), *_attribute_problems(spec), *_slot_problems(spec), *_flow_problems(spec)]
    # Shapes follow from attributes and edges: their problems would only repeat those.
    return found or list(_shape_problems(spec))


def join_messages(found: Sequence[object]) -> str:
    """Join messages into one line, showing at most `SHOWN`."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(map(str, found[:SHOWN])) + more


def _name_problems(spec: Spec) -> Iterator[SpecProblem]:
    for name in spec:
        if not isinstance(name, str) or len(name) > MAX_NAME or not NAME.fullmatch(name):
            yield SpecProblem(f"{name!r}", "invalid name, expected letters, digits and '_' in parts joined by dots")
            continue
        # Dots become nested torch modules, and only the leaves are operations.
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if (prefix := ".".join(parts[:depth])) in spec:
                yield SpecProblem(name, f"{prefix} is an operation, so it cannot also be a group")


def _attribute_problems(spec: Spec) -> Iterator[SpecProblem]:
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


def _slot_problems(spec: Spec) -> Iterator[SpecProblem]:
    for name, attributes in spec.nodes(data=True):
        op = attributes.get("op")
        slots: list[object] = [edge.get("slot") for edge in spec.pred[name].values()]
        if not all(type(slot) is int for slot in slots) or set(slots) != set(range(len(slots))):
            wanted = f"expected inputs in slots 0..{max(0, len(slots) - 1)}"
            yield SpecProblem(str(name), f"{wanted}, found {', '.join(map(str, slots)):.80}")
        fewest, most = ARITY.get(op, (1, 1)) if isinstance(op, str) else (0, len(slots))
        if not fewest <= len(slots) <= most:
            number = fewest if fewest == most else f"{fewest}..{most}"
            yield SpecProblem(str(name), f"{op:.80} reads {len(slots)} tensors, expected {number}")


def _flow_problems(spec: Spec) -> Iterator[SpecProblem]:
    if not nx.is_directed_acyclic_graph(spec):
        cycle = [str(edge[0]) for edge in nx.find_cycle(spec)]
        yield SpecProblem(cycle[0], f"is part of a cycle: {' -> '.join([*cycle[:SHOWN], cycle[0]])}")
        return
    images = [name for name in spec if spec.nodes[name].get("op") == "input"]
    if len(images) != 1:
        yield SpecProblem("", f"expected one input operation, found {', '.join(map(str, images[:SHOWN])) or 'none'}")
    ends = [name for name in spec if not spec.out_degree(name)]
    logits = [name for name in ends if spec.nodes[name].get("op") == "dense"]
    if len(logits) != 1:
        found = ", ".join(map(str, logits[:SHOWN])) or "none"
        yield SpecProblem("", f"expected one dense operation at the end, for the logits, found {found}")
    yield from (SpecProblem(str(name), "no operation reads its output") for name in ends if name not in logits)
    if len(images) == 1:
        reached = nx.descendants(spec, images[0]) | {images[0]}
        yield from (SpecProblem(str(name), f"not connected to {images[0]}") for name in spec if name not in reached)


def _shape_problems(spec: Spec) -> Iterator[SpecProblem]:
    shapes: dict[str, Shape] = {}
    for name in order(spec):
        sources = inputs(spec, name)
        if all(source in shapes for source in sources):  # consequences of an earlier problem are not reported
            try:
                shapes[name] = output_shape(spec.nodes[name], [shapes[source] for source in sources])
            except SpecError as exc:
                yield SpecProblem(name, str(exc))
