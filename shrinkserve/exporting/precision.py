"""Sixteen-bit graphs: strongly typed, with float32 kept where the range demands it.

Precision lives in the graph as tensor types and casts, not in a builder's flags: that is the only form TensorRT 11
takes, and what a runtime then computes can be read off the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting.parity import Tolerance
from shrinkserve.exporting.quantise.calibration import ActivationHistogram, observe
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState

HEADROOM = 8.0
"""A tensor stays float32 when an unseen image that exceeds the observed peak by this factor would overflow."""
BFLOAT16_OPSET = 22
"""The first opset whose convolution and pooling take bfloat16."""
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset({"Softmax", "LogSoftmax", "Exp", "Pow", "ReduceSum", "ReduceMean", "LayerNormalization"})
"""Operators that exponentiate or accumulate: wrong first in sixteen bits, and cheap in a classifier."""

DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
TOLERANCES = {"float16": Tolerance(0.01), "bfloat16": Tolerance(0.08)}
"""Mantissas of 11 and 8 bits round at 2^-11 and 2^-8: twenty roundings for the worst logit of the worst image."""


@dataclass(frozen=True)
class Lower:
    """The step to float16 or bfloat16.

    Args:
        precision: the type of weights and activations.
        calibration: uint8 [N, S, S, 3], images whose activations tell where float16 would overflow.
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

    def parameters(self) -> dict[str, Any]:
        return {"precision": self.precision, "calibration_images": len(self.calibration), "headroom": HEADROOM}

    def run(self, source: Path, target: Path, samples: Samples) -> dict[str, Any]:  # noqa: ARG002
        """Write the sixteen-bit graph; the record names every node that stayed in float32, and why."""
        model = ir.load(source)
        kept = lower(model, DTYPES[self.precision], observe(model, self.calibration))
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        target.write_bytes(proto.SerializeToString())
        return {"float32_nodes": kept}


def lower(model: ir.Model, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram]) -> dict[str, str]:
    """Retype a float32 graph in place; inputs and outputs keep their types.

    Args:
        model: computes in float32.
        dtype: FLOAT16 or BFLOAT16.
        seen: distribution of each tensor, from `activations.observe`.

    Returns:
        name of each float32 node that stayed so -> why.

    Raises:
        ArtifactError: the graph has control flow, whose inner graphs would capture retyped tensors.
    """
    if any(graph is not model.graph for graph in _graphs(model)):
        raise ArtifactError(
            f"{model.graph.name}: control flow cannot be retyped", hint="export float32 or int8 instead"
        )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ShapeInferencePass()(model)
    if dtype == ir.DataType.BFLOAT16:
        _raise_opset(model, BFLOAT16_OPSET)
    kept = _kept(model, dtype, seen)
    _Retyping(model, dtype).apply(set(kept))
    common.RemoveUnusedNodesPass()(model)
    common.ShapeInferencePass()(model)
    return kept


def _graphs(model: ir.Model) -> list[Any]:
    return [node.graph for node in model.graph.all_nodes()]


def _raise_opset(model: ir.Model, wanted: int) -> None:
    import onnxscript.version_converter

    if model.graph.opset_imports.get("", 0) < wanted:
        onnxscript.version_converter.convert_version(model, wanted, fallback=True)


def _kept(model: ir.Model, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram]) -> dict[str, str]:
    """Which float nodes stay float32, and why."""
    reasons: dict[str, str] = {}
    weighted = False
    for node in model.graph:
        weighted = weighted or node.op_type in WEIGHTED
        if not any(v is not None and v.dtype == ir.DataType.FLOAT for v in (*node.inputs, *node.outputs)):
            continue
        reason = _reason(node, dtype, seen, weighted)
        if reason is not None:
            reasons[str(node.name)] = reason
    return reasons


def _reason(node: ir.Node, dtype: ir.DataType, seen: Mapping[str, ActivationHistogram], weighted: bool) -> str | None:
    if not weighted:
        return "normalisation of the input"
    if node.op_type in SENSITIVE:
        return f"{node.op_type} accumulates"
    if dtype == ir.DataType.FLOAT16:
        limit = float(np.finfo(np.float16).max) / HEADROOM
        for value in (*node.inputs, *node.outputs):
            peak = _peak(value, seen)
            if peak > limit:
                return f"values up to {peak:.4g}" if value in node.outputs else f"reads values up to {peak:.4g}"
    return None


def _peak(value: ir.Value | None, seen: Mapping[str, ActivationHistogram]) -> float:
    if value is None or value.dtype != ir.DataType.FLOAT:
        return 0.0
    if value.const_value is not None:
        array = value.const_value.numpy()
        return float(np.abs(array).max()) / HEADROOM if array.size else 0.0  # constants are known, not observed
    return seen[str(value.name)].peak if str(value.name) in seen else 0.0


class _Retyping:
    """One walk through the graph in order; every tensor has at most one cast each way."""

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        self.model, self.graph, self.dtype = model, model.graph, dtype
        self.opset = model.graph.opset_imports.get("", 0)
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.narrow: set[ir.Value] = set()  # computed in sixteen bits

    def apply(self, kept: set[str]) -> None:
        for node in list(self.graph):
            if str(node.name) in kept:
                self._feed(node, {i: ir.DataType.FLOAT for i, v in enumerate(node.inputs) if v in self.narrow})
            elif any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
                takes = [i for i, v in enumerate(node.inputs) if v is not None and self._is_float(v)]
                self._feed(node, {i: self.dtype for i in takes if _accepts(node, i, self.dtype, self.opset)})
                for value in node.outputs:
                    if value.dtype == ir.DataType.FLOAT:
                        self._retype(value)
        self._restore_outputs()

    def _is_float(self, value: ir.Value) -> bool:
        return value.dtype == ir.DataType.FLOAT or value in self.narrow

    def _feed(self, node: ir.Node, wanted: Mapping[int, ir.DataType]) -> None:
        for index, dtype in wanted.items():
            value = node.inputs[index]
            if value is not None and value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype))

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self.casts:
            self.casts[key] = self._constant(value, dtype) if value.const_value is not None else _cast(value, dtype)
        return self.casts[key]

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        name = f"{value.name}.{dtype.name.lower()}"
        tensor = ir.tensor(value.const_value.numpy().astype(dtype.numpy()), name=name)
        constant = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
        self.graph.initializers[name] = constant
        return constant

    def _retype(self, value: ir.Value) -> None:
        value.type = ir.TensorType(self.dtype)
        self.narrow.add(value)

    def _restore_outputs(self) -> None:
        """The graph's outputs keep their name and float32."""
        for index, value in enumerate(self.graph.outputs):
            if value in self.narrow:
                name, value.name = value.name, f"{value.name}.{self.dtype.name.lower()}"
                wide = self.casts.get((value, ir.DataType.FLOAT)) or _cast(value, ir.DataType.FLOAT)
                wide.name = name
                self.graph.outputs[index] = wide


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A Cast right after the producer of `value`; of an input, before the first node."""
    name = f"{value.name}.{dtype.name.lower()}"
    cast = ir.node("Cast", [value], attributes={"to": dtype}, name=f"{name}.cast")
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(dtype), value.shape
    producer = value.producer()
    if producer is not None:
        producer.append(cast)
    elif isinstance(value.graph, ir.Graph):
        value.graph.insert_before(value.graph[0], cast)
    return cast.outputs[0]


def _accepts(node: ir.Node, index: int, dtype: ir.DataType, opset: int) -> bool:
    """Whether the operator's schema lets this input have `dtype`; e.g. the scales of a Resize must stay float32."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return f"tensor({dtype.name.lower()})" in formal.types
