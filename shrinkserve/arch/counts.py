"""Costs of a network, computed from its spec: parameters, multiply-accumulates, activations.

The conventions of the published figures apply. A multiply-accumulate counts once. Only convolutions and dense layers
have multiply-accumulates. The running statistics of a batch norm are not parameters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from shrinkserve.arch.shapes import Shape, node_shapes
from shrinkserve.arch.spec import Spec, inputs, order

KINDS = ("convolution", "depthwise", "dense", "batch_norm")
IN_PLACE = ("batch_norm", "activation", "dropout")
CELL = re.compile(r"(stage\d+)\.(cell\d+)\.")


@dataclass(frozen=True)
class Count:
    """The cost of one operation.

    Attributes:
        name: the node.
        kind: one of `KINDS`, or the operation if it has no parameters.
        shape: of its output, without the batch.
        parameters: trained values.
        statistics: running means and variances.
        macs: multiply-accumulates per image.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int = 0
    statistics: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Block:
    """The cost of a cell, the stem or the head: the sum of its operations. `shape` is the last output."""

    name: str
    shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """The cost of a network.

    Attributes:
        input_size: height and width of the image that `macs` and activations are for.
        operations: one per node, in topological order.
        activations: output values of all operations per image; training keeps them all.
        peak_activations: most output values in memory at once per image during inference, with batch norm, activation
            and dropout in place.
    """

    input_size: int
    operations: tuple[Count, ...]
    activations: int
    peak_activations: int

    @property
    def parameters(self) -> dict[str, int]:
        """Return the trained values by kind."""
        return {kind: sum(c.parameters for c in self.operations if c.kind == kind) for kind in KINDS}

    @property
    def statistics(self) -> int:
        """Return the number of running means and variances."""
        return sum(count.statistics for count in self.operations)

    @property
    def macs(self) -> dict[str, int]:
        """Return the multiply-accumulates per image, by kind."""
        kinds = KINDS[:3]
        return {kind: sum(c.macs for c in self.operations if c.kind == kind) for kind in kinds}

    @property
    def blocks(self) -> list[Block]:
        """Return the costs of the stem, the cells (``stageN.cellM``) and the head."""
        groups: dict[str, list[Count]] = {}
        for count in self.operations:
            groups.setdefault(block_name(count.name), []).append(count)
        return [_summed(name, members) for name, members in groups.items()]

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "input_size": self.input_size,
            "classes": self.operations[-1].shape[0],
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "running_statistics": self.statistics,
            "macs": {**self.macs, "total": sum(self.macs.values())},
            "activations": {"all": self.activations, "peak": self.peak_activations},
            "operations": dict(Counter(operation.kind for operation in self.operations)),
            "blocks": [asdict(block) for block in self.blocks],
        }


def count(spec: Spec, input_size: int | None = None) -> Counts:
    """Return the costs of a network.

    Args:
        spec: a valid network.
        input_size: height and width of the image; that of the spec if None.

    Raises:
        SpecError: names the node whose shapes do not fit at this size.
    """
    shapes = node_shapes(spec, input_size)
    operations = tuple(_count(spec, name, shapes) for name in order(spec))
    size = next(c.shape[-1] for c in operations if c.kind == "input")
    activations = sum(math.prod(c.shape) for c in operations)
    return Counts(size, operations, activations, _peak(spec, shapes))


def block_name(name: str) -> str:
    """Return the cell of an operation, or the first part of its name if it is in no cell."""
    cell = CELL.match(name)
    return f"{cell[1]}.{cell[2]}" if cell else name.partition(".")[0]


def _count(spec: Spec, name: str, shapes: Mapping[str, Shape]) -> Count:
    attributes, shape = spec.nodes[name], shapes[name]
    op = attributes["op"]
    if op == "batch_norm":
        return Count(name, op, shape, parameters=2 * shape[0], statistics=2 * shape[0])
    if op == "conv":
        channels, groups = shapes[inputs(spec, name)[0]][0], attributes["groups"]
        kernel = channels // groups * attributes["kernel"] ** 2
        kind = "depthwise" if groups == channels > 1 else "convolution"
    elif op == "dense":
        kernel, kind = shapes[inputs(spec, name)[0]][0], "dense"
    else:
        return Count(name, op, shape)
    parameters = shape[0] * (kernel + attributes["bias"])
    return Count(name, kind, shape, parameters=parameters, macs=math.prod(shape) * kernel)


def _peak(spec: Spec, shapes: Mapping[str, Shape]) -> int:
    """Return the peak number of values in memory; a tensor is freed after its last reader."""
    owner: dict[str, str] = {}  # operation -> the operation that allocated the memory of its output
    readers: dict[str, int] = {}
    live = peak = 0
    for name in order(spec):
        sources = inputs(spec, name)
        in_place = spec.nodes[name]["op"] in IN_PLACE and readers[owner[sources[0]]] == 1
        owner[name] = owner[sources[0]] if in_place else name
        if in_place:
            readers[owner[name]] = spec.out_degree(name)
            continue
        readers[name] = spec.out_degree(name)
        live += math.prod(shapes[name])
        peak = max(peak, live)
        for source in sources:
            memory = owner[source]
            readers[memory] -= 1
            if not readers[memory]:
                live -= math.prod(shapes[memory])
    return peak


def _summed(name: str, members: Iterable[Count]) -> Block:
    members = list(members)
    parameters, macs = sum(c.parameters for c in members), sum(c.macs for c in members)
    return Block(name, members[-1].shape, parameters, macs)
