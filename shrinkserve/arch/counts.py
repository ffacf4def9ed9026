"""What a network costs, from its description alone: parameters, multiply-accumulates, activations.

Conventions are those of the published figures: a multiply-accumulate is one; convolutions and dense layers count, batch
norm, activations and pooling do not; the running statistics of a batch norm are not parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shrinkserve.arch.shapes import Shape, infer
from shrinkserve.arch.spec import Spec, inputs, order

KINDS = ("convolution", "depthwise", "dense", "batch_norm")
IN_PLACE = ("batch_norm", "activation", "dropout")
CELL = re.compile(r"(stage\d+)\.(cell\d+)\.")


@dataclass(frozen=True)
class Count:
    """The cost of one operation.

    Attributes:
        name: the node.
        kind: one of `KINDS`, or the operation where it has no parameters.
        shape: of its output, without the batch.
        parameters: trained values.
        statistics: values that are kept but not trained.
        macs: multiply-accumulates an image.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int = 0
    statistics: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Block:
    """What a cell, the stem or the head costs: the sum of its operations; `shape` is that of the last."""

    name: str
    shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """The cost of a network.

    Attributes:
        input_size: height and width of the image that `macs` and activations are for.
        operations: one a node, in topological order.
        activations: values that the operations give, an image: what training keeps.
        peak_activations: the most values that are alive at once when an image runs through in topological order and
            batch norm, activation and dropout work in place, as inference engines do.
    """

    input_size: int
    operations: tuple[Count, ...]
    activations: int
    peak_activations: int

    @property
    def parameters(self) -> dict[str, int]:
        """Trained values by kind."""
        return {kind: sum(c.parameters for c in self.operations if c.kind == kind) for kind in KINDS}

    @property
    def statistics(self) -> int:
        """Running means and variances."""
        return sum(count.statistics for count in self.operations)

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates an image, by kind."""
        kinds = KINDS[:3]
        return {kind: sum(c.macs for c in self.operations if c.kind == kind) for kind in kinds}

    @property
    def blocks(self) -> list[Block]:
        """The network as stem, cells and head; a cell's name is ``stageN.cellM``, others are a name's first part."""
        groups: dict[str, list[Count]] = {}
        for count in self.operations:
            groups.setdefault(block_name(count.name), []).append(count)
        return [_summed(name, members) for name, members in groups.items()]


def count(spec: Spec, input_size: int | None = None) -> Counts:
    """Count a network.

    Args:
        spec: a network that was checked.
        input_size: height and width of the image; the description's own when None.

    Raises:
        SpecError: shapes that do not fit at this size, naming the node.
    """
    shapes = infer(spec, input_size)
    operations = tuple(_count(spec, name, shapes) for name in order(spec))
    size = next(c.shape[-1] for c in operations if c.kind == "input")
    activations = sum(math.prod(c.shape) for c in operations)
    return Counts(size, operations, activations, _peak(spec, shapes))


def block_name(name: str) -> str:
    """The cell that an operation belongs to, or the first part of its name."""
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
    """Walks the order of execution; a tensor lives from its operation to its last reader."""
    owner: dict[str, str] = {}  # operation -> the one whose memory holds its answer
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
