"""Costs of a network, computed from its spec: parameters, multiply-accumulates, activations.

The conventions of the published figures apply. A multiply-accumulate counts once. Only convolutions and dense layers
have multiply-accumulates. The running statistics of a batch norm are not parameters.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from shrinkserve.arch.shapes import Shape, node_shapes
from shrinkserve.arch.spec import Spec, inputs, order

KINDS = ("convolution", "depthwise", "dense", "batch_norm")
IN_PLACE = ("batch_norm", "activation", "dropout")
CELL = re.compile(r"(\w+)\.(cell\d+|\d+)\.")


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

    def __repr__(self) -> str:
        """Return the sums; `operations` has hundreds of entries."""
        parameters, macs = sum(self.parameters.values()), sum(self.macs.values())
        sums = f"parameters={parameters}, macs={macs}, activations={self.activations}"
        return f"Counts(input_size={self.input_size}, operations: {len(self.operations)}, {sums})"

    @property
    def parameters(self) -> dict[str, int]:
        """Return the trained values by kind."""
        return self._by_kind(KINDS, "parameters")

    @property
    def statistics(self) -> int:
        """Return the number of running means and variances."""
        return sum(count.statistics for count in self.operations)

    @property
    def macs(self) -> dict[str, int]:
        """Return the multiply-accumulates per image, by kind."""
        return self._by_kind(KINDS[:3], "macs")

    def _by_kind(self, kinds: Sequence[str], cost: Literal["parameters", "macs"]) -> dict[str, int]:
        """Return sums for `kinds`, and for each other kind that has such a cost."""
        found = dict.fromkeys(kinds, 0)
        for operation in self.operations:
            if operation.kind in kinds or getattr(operation, cost):
                found[operation.kind] = found.get(operation.kind, 0) + getattr(operation, cost)
        return found

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


def count(spec: Spec) -> Counts:
    """Return the costs of a valid network."""
    shapes = node_shapes(spec)
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


def peak_values(sources: Mapping[str, Sequence[str]], values: Mapping[str, int], in_place: Collection[str]) -> int:
    """Return the peak number of values in memory; a tensor is freed after its last reader.

    Args:
        sources: what each operation reads, in topological order. A name that is read and not in it is an input.
        values: size of each output and input.
        in_place: operations that overwrite their first source if nothing else reads it.
    """
    reads = Counter(source for read in sources.values() for source in read)
    owner = {name: name for name in values if name not in sources}  # operation -> the one that allocated its memory
    readers = {name: reads[name] for name in owner}
    live = peak = sum(values[name] for name in owner)
    for name, read in sources.items():
        reused = name in in_place and readers[owner[read[0]]] == 1
        owner[name] = owner[read[0]] if reused else name
        readers[owner[name]] = reads[name]
        if reused:
            continue
        live += values[name]
        peak = max(peak, live)
        for source in read:
            memory = owner[source]
            readers[memory] -= 1
            if not readers[memory]:
                live -= values[memory]
    return peak


def _peak(spec: Spec, shapes: Mapping[str, Shape]) -> int:
    sources = {name: inputs(spec, name) for name in order(spec) if inputs(spec, name)}
    in_place = {name for name in sources if spec.nodes[name]["op"] in IN_PLACE}
    return peak_values(sources, {name: math.prod(shape) for name, shape in shapes.items()}, in_place)


def _summed(name: str, members: Iterable[Count]) -> Block:
    members = list(members)
    parameters, macs = sum(c.parameters for c in members), sum(c.macs for c in members)
    return Block(name, members[-1].shape, parameters, macs)
