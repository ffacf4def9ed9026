"""Eight-bit graphs: QuantizeLinear/DequantizeLinear pairs with static scales, a graph for each target.

The targets cannot share one graph without loss. x86 kernels read uint8 activations directly and have to shift signed
ones: OpenVINO is 5 % faster with unsigned activations, ONNX Runtime 2.5 times. ONNX Runtime needs chains of operators
in eight bits. OpenVINO needs only the inputs of weighted layers, and fuses the rest itself. TensorRT accepts only
symmetric int8, with float biases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import networkx as nx
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.errors import ArtifactError
from shrinkserve.exporting import graph
from shrinkserve.exporting.passes.editing import add_constant
from shrinkserve.exporting.passes.nodes import attribute, constant, is_captured, is_operator
from shrinkserve.exporting.quantise.calibration import ActivationRange
from shrinkserve.terminal import quiet

QuantiseTarget = Literal["onnxruntime", "openvino", "tensorrt"]
TARGETS: tuple[QuantiseTarget, ...] = get_args(QuantiseTarget)
WEIGHTED = ("Conv", "Gemm")
LARGEST = 1e30
"""Values from here on have no useful scale."""
QDQ_OPSET = 13
"""The first opset with a scale for each channel."""


@dataclass(frozen=True)
class Scheme:
    """Form of the quantised graph for one target.

    Attributes:
        operators: operators whose inputs are quantised.
        symmetric: activations are int8 with zero point 0; otherwise uint8 with a zero point.
        outputs: quantise the outputs of the operators as well, so that chains of operators stay in eight bits.
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
    """Return a graph with QDQ pairs: int8 weights with a scale for each channel, float32 biases.

    ONNX Runtime converts the biases to int32 when it loads the graph; TensorRT rejects int32 biases.

    Args:
        model: float32; it is not changed.
        ranges: of the tensors, from `calibration.clip`.
        target: runtime of the result.
        keep_float: names of nodes that stay in float32, besides the normalisation and the softmax.

    Raises:
        ArtifactError: the graph cannot be converted to `QDQ_OPSET`, or onnxruntime cannot quantise it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    scheme, source = SCHEMES[target], _prepared(model)
    ranges = _tied(source, ranges) if scheme.outputs else ranges
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
        nodes_to_exclude=[*normalisation(source), *_unquantisable(source, ranges), *keep_float],
        op_types_to_quantize=list(scheme.operators),
        extra_options={
            "ActivationSymmetric": scheme.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": [] if scheme.outputs else list(scheme.operators),
        },
    )
    try:
        with quiet(""):  # the quantiser warns through the root logger
            quantizer.quantize_model()
        return _finished(quantizer.model.model)
    except Exception as exc:  # onnxruntime's quantiser fails with any class on graphs that it does not know
        reason = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise ArtifactError(f"onnxruntime cannot quantise the graph ({reason})", hint="leave int8 out of --to") from exc


def _unquantisable(model: ir.Model, ranges: Mapping[str, ActivationRange]) -> list[str]:
    """Return the names of the nodes that stay in float32.

    Their values have no range (tensors without elements), or one that no scale covers, e.g. the -inf of an attention
    mask, or a subgraph reads them, in which the quantiser does not follow what it renames.
    """
    found = []
    for node in model.graph:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        computed = [v for v in values if v.producer() is not None]
        unknown = any(is_captured(v) or (v.dtype == ir.DataType.FLOAT and v.name not in ranges) for v in computed)
        arrays = [array for v in values if (array := constant(v)) is not None]
        peaks = [np.abs(array).max() for array in arrays if array.size]
        peaks += [max(map(abs, ranges[str(v.name)])) for v in values if v.name in ranges]
        if unknown or not all(peak < LARGEST for peak in peaks):  # False for NaN
            found.append(str(node.name))
    return found


def _prepared(model: ir.Model) -> ir.Model:
    source = ir.from_proto(ir.to_proto(model))
    graph.raise_opset(source, QDQ_OPSET)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(source)
    for node in source.graph:
        if is_operator(node, "Gemm"):
            _flatten_bias(source, node)
    graph.unique_names(source)
    graph.infer_shapes(source)
    return source


def _flatten_bias(model: ir.Model, gemm: ir.Node) -> None:
    """Give a Gemm a bias [classes], the only form that the quantiser knows, instead of [1, classes] or a number."""
    bias, weight = (constant(gemm.inputs[i]) if len(gemm.inputs) > i else None for i in (2, 1))
    if bias is None or weight is None or (bias.ndim == 1 and bias.size > 1):
        return
    width = weight.shape[0 if attribute(gemm, "transB", 0) else 1]
    if bias.size in {1, width}:
        flat = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), (width,)))
        gemm.replace_input_with(2, add_constant(model.graph, f"{gemm.name}.bias", flat))


def _tied(model: ir.Model, ranges: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
    """Give all tensors around a concat one range, so that it copies bytes without rescaling (7 % of the time).

    Max pooling belongs to the group: its output keeps the scale of its input.
    """
    neighbours: nx.Graph[str] = nx.Graph()
    neighbours.add_nodes_from(ranges)
    for node in model.graph:
        if node.op_type in {"Concat", "MaxPool"}:
            values = (*node.inputs, *node.outputs)
            nx.add_path(neighbours, [v.name for v in values if v is not None and v.name in ranges])
    tied: dict[str, ActivationRange] = {}
    for group in nx.connected_components(neighbours):
        lows, highs = zip(*(ranges[name] for name in group), strict=True)
        tied |= dict.fromkeys(group, (min(lows), max(highs)))
    return tied


def _finished(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.value_info.clear()  # names and types of the float graph
    model = ir.from_proto(proto)
    common.TopologicalSortPass()(model)  # the quantiser's own does not look into subgraphs
    sorted_proto = ir.to_proto(model)
    onnx.checker.check_model(sorted_proto, full_check=True)
    return sorted_proto


def normalisation(model: ir.Model) -> list[str]:
    """Return the names of the nodes before the first weighted one: the normalisation, which stays in float32."""
    names = []
    for node in model.graph:
        if node.op_type in WEIGHTED:
            break
        names.append(str(node.name))
    return names
