"""Sixteen-bit graphs: strongly typed, with float32 where the range of values demands it.

The precision is in the graph, as tensor types and casts, and not in flags of a builder: TensorRT 11 accepts no other
form, and the file shows what a runtime computes.

onnxruntime's `convert_float_to_float16` is not used: it knows no bfloat16, does not look at values in the graph, and
leaves Cast nodes to float32 inside, which makes the graph of a torchvision ViT invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.parity import TOLERANCES, Tolerance
from shrinkserve.exporting.quantise.calibration import ActivationHistogram, observe
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.retyping import FLOAT, Retyping, schema_of
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState

HEADROOM = 8.0
"""A tensor stays float32 if an image that exceeds the observed peak by this factor would overflow."""
BFLOAT16_OPSET = 22
"""The first opset whose convolution and pooling accept bfloat16."""
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset({"Softmax", "LogSoftmax", "Exp", "Log", "Pow", "ReduceSum", "ReduceMean", "LayerNormalization"})
"""Operators that exponentiate or accumulate: they lose accuracy first, and are cheap in a classifier."""
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
    Retyping(model, dtype).apply(set(kept))
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
        reason = "no schema of its types" if schema_of(node, opset) is None else _reason(node, dtype, seen, weighted)
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
    with np.errstate(over="ignore"):
        return bool(array.any() and not array.astype(np.float16).any())
