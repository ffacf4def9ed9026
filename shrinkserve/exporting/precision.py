"""Sixteen-bit graphs: strongly typed, with float32 where the range of values demands it.

The precision is in the graph, as tensor types and casts, and not in flags of a builder: TensorRT 11 accepts no other
form, and the file shows what a runtime computes.

onnxruntime's `convert_float_to_float16` is not used: it knows no bfloat16, does not look at values in the graph, and
leaves Cast nodes to float32 inside, which makes the graph of a torchvision ViT invalid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.parity import TOLERANCES, Tolerance
from shrinkserve.exporting.quantise.calibration import ActivationHistogram, observe
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState

HEADROOM = 8.0
"""A tensor stays float32 if an image that exceeds the observed peak by this factor would overflow."""
BFLOAT16_OPSET = 22
"""The first opset whose convolution and pooling accept bfloat16."""
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset({"Softmax", "LogSoftmax", "Exp", "Log", "Pow", "ReduceSum", "ReduceMean", "LayerNormalization"})
"""Operators that exponentiate or accumulate: they lose accuracy first, and are cheap in a classifier."""
FLOAT = ir.DataType.FLOAT
DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Lower:
    """The step to float16 or bfloat16.

    Args:
        precision: the type of weights and activations.
        calibration: uint8 [N, S, S, 3], images whose activations show where float16 would overflow.
    """

    precision: Literal["float16", "bfloat16"]
    calibration: npt.NDArray[np.uint8] = field(repr=False)
    requires: StepState = ONNX

    @property
    def name(self) -> str:
        return self.precision

    @property
    def ensures(self) -> StepState:
        return StepState("onnx", self.precision)

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES[self.precision]

    def parameters(self) -> dict[str, object]:
        return {"precision": self.precision, "calibration_images": len(self.calibration), "headroom": HEADROOM}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> StepDetails:
        """Write the sixteen-bit graph; report every node that stayed in float32, with the reason."""
        model = graph.load(source)
        kept = lower(model, DTYPES[self.precision], observe(model, self.calibration))
        graph.save(model, target)
        return {"float32_nodes": kept}


def lower(model: ir.Model, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram]) -> dict[str, str]:
    """Retype a float32 graph in place; inputs, outputs and subgraphs keep their types.

    Args:
        model: a float32 graph from `graph.load`.
        dtype: FLOAT16 or BFLOAT16.
        seen: distribution of each tensor, from `calibration.observe`.

    Returns:
        Name of each node that stays in float32 -> reason.

    Raises:
        ArtifactError: the types of some tensors are unknown.
    """
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph.infer_shapes(model)
    for node in model.graph:
        if any(value.name and value.dtype is None for value in node.outputs):
            operator = ".".join(filter(None, (node.domain, node.op_type)))
            hint = "export the network with standard ONNX operators"
            raise ArtifactError(f"{dtype.name.lower()}: unknown types", found=f"operator {operator}", hint=hint)
    if dtype == ir.DataType.BFLOAT16:
        graph.raise_opset(model, BFLOAT16_OPSET)
    kept = _kept(model, dtype, seen)
    _Retyping(model, dtype).apply(set(kept))
    common.RemoveUnusedNodesPass()(model)
    graph.infer_shapes(model)
    return kept


def _kept(model: ir.Model, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram]) -> dict[str, str]:
    """Return the float nodes that stay in float32, with the reason."""
    reasons: dict[str, str] = {}
    opset, weighted, logarithms = model.opset_imports.get("", 0), False, _before_logarithms(model)
    for node in model.graph:
        weighted = weighted or node.op_type in WEIGHTED
        if not any(v is not None and v.dtype == FLOAT for v in (*node.inputs, *node.outputs)):
            continue
        reason = "no schema of its types" if _schema(node, opset) is None else _reason(node, dtype, seen, weighted)
        if reason is None and node in logarithms:
            reason = "a logarithm reads it"
        if reason is not None:
            reasons[str(node.name)] = reason
    return reasons


def _before_logarithms(model: ir.Model) -> set[ir.Node]:
    """Return the nodes between a weighted layer and a Log: small probabilities become zero in sixteen bits."""
    found: set[ir.Node] = set()
    waiting = [node for node in model.graph if node.op_type == "Log"]
    while waiting:
        node = waiting.pop()
        if node in found or node.op_type in WEIGHTED:
            continue
        found.add(node)
        producers = [value.producer() for value in node.inputs if value is not None]
        waiting += [producer for producer in producers if producer is not None]
    return found


def _reason(node: ir.Node, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram], weighted: bool) -> str | None:
    if not weighted:
        return "normalisation of the input"
    if node.op_type in SENSITIVE:
        return f"{node.op_type} accumulates"
    if dtype == ir.DataType.FLOAT16:
        limit = float(np.finfo(np.float16).max) / HEADROOM
        for value in (*node.inputs, *node.outputs):
            peak = _peak(value, seen)
            if _underflows(value):
                return "a constant that would become zero"
            if peak > limit:
                return f"values up to {peak:.4g}" if value in node.outputs else f"reads values up to {peak:.4g}"
    return None


def _peak(value: ir.Value | None, seen: Mapping[str, ActivationHistogram]) -> float:
    if value is None or value.dtype != FLOAT:
        return 0.0
    if value.const_value is not None:
        array = value.const_value.numpy()
        return float(np.abs(array).max()) / HEADROOM if array.size else 0.0  # constants need no headroom
    return seen[str(value.name)].peak if str(value.name) in seen else 0.0


def _underflows(value: ir.Value | None) -> bool:
    """Return True for a constant of which all values become zero in float16, e.g. a lower limit of 1e-30."""
    if value is None or value.dtype != FLOAT or value.const_value is None:
        return False
    array = value.const_value.numpy()
    return bool(array.any() and not array.astype(np.float16).any())


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
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


class _Retyping:
    """Retypes the nodes in their order. Each tensor gets at most one cast in each direction."""

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        self.graph, self.dtype = model.graph, dtype
        self.opset = model.opset_imports.get("", 0)
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.narrow: set[ir.Value] = set()  # computed in sixteen bits

    def apply(self, kept: set[str]) -> None:
        for node in list(self.graph):
            schema = _schema(node, self.opset)
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
        narrow = bool(floats and outputs) and f"tensor({self.dtype.name.lower()})" in group.types
        if len(floats) > 1 or outputs or not self._accepts_narrow(group):
            self._feed(node, floats, self.dtype if narrow else FLOAT)
        for value in outputs if narrow else ():
            value.type = ir.TensorType(self.dtype)
            self.narrow.add(value)

    def _accepts_narrow(self, group: _Group) -> bool:
        return f"tensor({self.dtype.name.lower()})" in group.types

    def _is_float(self, value: ir.Value | None) -> bool:
        return value is not None and (value.dtype == FLOAT or value in self.narrow)

    def _feed(self, node: ir.Node, indices: Iterator[int] | range | list[int], dtype: ir.DataType) -> None:
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
