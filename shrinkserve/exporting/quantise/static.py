"""Eight-bit graphs: QuantizeLinear/DequantizeLinear pairs with static scales, one graph a target.

The targets cannot share one graph without loss. x86 kernels take uint8 activations as they are and shift signed ones
first: OpenVINO is 5 % faster with unsigned ones, ONNX Runtime 2.5 times. ONNX Runtime wants whole chains in eight bits,
OpenVINO only the inputs of weighted layers, and fuses the rest itself. TensorRT takes symmetric int8 only, with float
biases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.exporting.quantise.calibration import ActivationRange

QuantiseTarget = Literal["onnxruntime", "openvino", "tensorrt"]
TARGETS: tuple[QuantiseTarget, ...] = get_args(QuantiseTarget)
WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class Scheme:
    """How one target wants its quantised graph.

    Attributes:
        operators: whose inputs are quantised.
        symmetric: activations int8 with zero point 0, else uint8 with a zero point.
        outputs: whether what the operators compute is quantised as well, so that whole chains stay in eight bits.
    """

    operators: tuple[str, ...]
    symmetric: bool
    outputs: bool

    @property
    def levels(self) -> int:
        return 255 if self.symmetric else 256


_ELEMENTWISE = ("Relu", "Clip", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "GlobalAveragePool", "Reshape", "Flatten")
SCHEMES: dict[QuantiseTarget, Scheme] = {
    "onnxruntime": Scheme((*WEIGHTED, *_ELEMENTWISE), symmetric=False, outputs=True),
    "openvino": Scheme(WEIGHTED, symmetric=False, outputs=False),
    "tensorrt": Scheme((*WEIGHTED, "Add"), symmetric=True, outputs=False),
}


def quantise(
    model: ir.Model, ranges: Mapping[str, ActivationRange], target: QuantiseTarget, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Insert QDQ pairs; weights are int8 with a scale a channel, biases stay float32 in the file.

    ONNX Runtime turns the biases into int32 itself when it loads the graph; TensorRT refuses int32 ones.

    Args:
        model: float32; is not changed.
        ranges: what each tensor's quantisation covers, from `activations.clip`.
        target: whose rules to follow.
        keep_float: names of nodes that stay in float32, besides the normalisation and the softmax.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    scheme, source = SCHEMES[target], _prepared(model)
    if scheme.outputs:
        ranges = _tied(source, ranges)
    data = {
        name: TensorData(lowest=np.float32(min(low, 0)), highest=np.float32(max(high, 0)))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        ir.to_proto(source),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if scheme.symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=[*normalisation(source), *keep_float],
        op_types_to_quantize=list(scheme.operators),
        extra_options=_options(scheme),
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return _finished(quantizer.model.model)


def _options(scheme: Scheme) -> dict[str, Any]:
    return {
        "ActivationSymmetric": scheme.symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": [] if scheme.outputs else list(scheme.operators),
    }


def _prepared(model: ir.Model) -> ir.Model:
    source = ir.from_proto(ir.to_proto(model))
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(source)
    common.ShapeInferencePass()(source)
    return source


def _tied(model: ir.Model, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """One range for all that meets in a concat, so that it copies bytes and rescales nothing (7 % of the time).

    Max pooling belongs to the group: what it computes keeps the scale of what it reads.
    """
    groups: dict[str, set[str]] = {name: {name} for name in ranges}
    for node in model.graph:
        if node.op_type in {"Concat", "MaxPool"}:
            names = [str(v.name) for v in (*node.inputs, *node.outputs) if v is not None and str(v.name) in ranges]
            merged = set().union(*(groups[name] for name in names))
            groups.update(dict.fromkeys(merged, merged))
    return {
        name: (min(ranges[n][0] for n in group), max(ranges[n][1] for n in group)) for name, group in groups.items()
    }


def _finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.value_info.clear()  # stale: its names and types are those of the float graph
    onnx.checker.check_model(proto, full_check=True)
    return proto


def normalisation(model: ir.Model) -> list[str]:
    """Names of the nodes before the first weighted one: pixels become what the network wants, in float32."""
    names = []
    for node in model.graph:
        if node.op_type in WEIGHTED:
            break
        names.append(str(node.name))
    return names


def weighted_nodes(model: ir.Model) -> list[str]:
    """Names of the nodes that carry weights, in the order of the graph."""
    return [str(node.name) for node in model.graph if node.op_type in WEIGHTED]
