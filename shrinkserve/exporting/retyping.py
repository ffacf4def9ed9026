"""Give the nodes of a graph another float type, with casts where types meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

FLOAT = ir.DataType.FLOAT


def schema_of(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    """Return the schema of a node; None for other domains and for control flow, whose types depend on subgraphs."""
    if node.domain or any(
        a.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for a in node.attributes.values()
    ):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None


@dataclass
class _Group:
    """Inputs and outputs of a node that must have one type, e.g. all of type ``T``."""

    inputs: list[int] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)
    types: frozenset[str] = frozenset()


class Retyping:
    """Retypes the nodes in their order. Each tensor gets at most one cast in each direction."""

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        self.graph, self.dtype = model.graph, dtype
        self.opset = model.opset_imports.get("", 0)
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.narrow: set[ir.Value] = set()  # computed in sixteen bits

    def apply(self, kept: set[str]) -> None:
        """Retype all nodes but those named `kept`."""
        for node in list(self.graph):
            schema = schema_of(node, self.opset)
            if schema is None or str(node.name) in kept:
                self._feed(node, range(len(node.inputs)), FLOAT)
                continue
            for group in _groups(node, schema):
                self._retype(node, group)
        self._widen_captured()
        self._restore_outputs()

    def _retype(self, node: ir.Node, group: _Group) -> None:
        """Give a group of inputs and outputs one type.

        Outputs become narrow only with inputs of their type: an attribute decides the type of a Cast's or a
        ConstantOfShape's output. Groups without such outputs, e.g. of a comparison, are computed in float32.
        """
        floats = [i for i in group.inputs if self._is_float(node.inputs[i])]
        outputs = [value for value in group.outputs if value.dtype == FLOAT]
        accepted = f"tensor({self.dtype.name.lower()})" in group.types
        narrow = accepted and bool(floats and outputs)
        if len(floats) > 1 or outputs or not accepted:  # a single input without such outputs takes either type
            self._feed(node, floats, self.dtype if narrow else FLOAT)
        for value in outputs if narrow else ():
            value.type = ir.TensorType(self.dtype)
            self.narrow.add(value)

    def _is_float(self, value: ir.Value | None) -> bool:
        return value is not None and (value.dtype == FLOAT or value in self.narrow)

    def _feed(self, node: ir.Node, indices: Iterable[int], dtype: ir.DataType) -> None:
        for index in indices:
            value = node.inputs[index]
            if value is not None and self._is_float(value) and value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype))

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self.casts:
            self.casts[key] = self._constant(value, dtype) if value.const_value is not None else _cast(value, dtype)
        return self.casts[key]

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        name = f"{value.name}.{dtype.name.lower()}"
        array = value.const_value.numpy()
        if dtype == ir.DataType.FLOAT16:  # masks of -1e38 or -inf stay the lowest number
            limit = np.finfo(np.float16).max
            array = np.clip(array, -limit, limit)
        tensor = ir.tensor(array.astype(dtype.numpy()), name=name)
        constant = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(constant)
        return constant

    def _widen_captured(self) -> None:
        """Give subgraphs float32 versions of the tensors that they read from the main graph."""
        for value in self.narrow:
            for user, index in list(value.uses()):
                if user.graph is not self.graph:
                    user.replace_input_with(index, self._as(value, FLOAT))

    def _restore_outputs(self) -> None:
        """Give the graph's outputs their name and float32 back."""
        for index, value in enumerate(self.graph.outputs):
            if value in self.narrow:
                name, value.name = value.name, f"{value.name}.{self.dtype.name.lower()}"
                wide = self.casts.get((value, FLOAT)) or _cast(value, FLOAT)
                wide.name = name
                self.graph.outputs[index] = wide


def _groups(node: ir.Node, schema: onnx.defs.OpSchema) -> list[_Group]:
    """Return the groups of inputs and outputs that share a type by the operator's schema."""
    groups: dict[str, _Group] = {}
    for number in range(len(node.inputs)):
        formal = schema.inputs[min(number, len(schema.inputs) - 1)]
        group = groups.setdefault(formal.type_str, _Group(types=frozenset(formal.types)))
        group.inputs.append(number)
    for number, value in enumerate(node.outputs):
        formal = schema.outputs[min(number, len(schema.outputs) - 1)]
        groups.setdefault(formal.type_str, _Group(types=frozenset(formal.types))).outputs.append(value)
    return list(groups.values())


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Insert a Cast right after the producer of `value`, or before the first node for an input."""
    name = f"{value.name}.{dtype.name.lower()}"
    cast = ir.node("Cast", [value], attributes={"to": dtype}, name=f"{name}.cast")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(dtype), value.shape
    producer = value.producer()
    if producer is not None:
        producer.append(cast)
    elif isinstance(value.graph, ir.Graph):
        value.graph.insert_before(value.graph[0], cast)
    return cast.outputs[0]
