"""Rank layers by the error of the logits when only this layer is quantised."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from shrinkserve.artifact import LOGITS
from shrinkserve.exporting.passes.editing import add_constant
from shrinkserve.exporting.quantise.calibration import ActivationRange
from shrinkserve.exporting.quantise.static import WEIGHTED, Scheme
from shrinkserve.runtimes.onnx import quiet_options
from shrinkserve.runtimes.predictor import Images, Logits

Array = npt.NDArray[np.float32]


def rank(
    model: ir.Model, ranges: Mapping[str, ActivationRange], scheme: Scheme, images: Images
) -> list[tuple[str, float]]:
    """Return each layer's error of the logits when only its weights and its input are quantised, the worst first.

    Args:
        model: float32, with constants as initializers; it is restored afterwards.
        ranges: of the activations, from `calibration.clip`.
        scheme: the rounding to imitate.
        images: uint8 [N, S, S, 3]; a dozen images order the layers well.

    Returns:
        Node names with root mean square errors, in units of the logits' standard deviation.
    """
    right = _logits(model, images)
    errors = {}
    for node in [node for node in model.graph if node.op_type in WEIGHTED]:
        value, weight = node.inputs[:2]
        if value is None or weight is None or weight.const_value is None or str(value.name) not in ranges:
            continue
        rounding = _round_trip(value, ranges[str(value.name)], scheme)
        node.replace_input_with(0, rounding[-1].outputs[0])
        node.prepend(rounding)
        exact, weight.const_value = weight.const_value, _rounded_weight(weight.const_value, node)
        errors[str(node.name)] = relative_error(right, _logits(model, images))
        weight.const_value = exact
        node.replace_input_with(0, value)
        parameters = [str(v.name) for v in rounding[0].inputs[1:] if v is not None]
        model.graph.remove(rounding, safe=True)
        for name in parameters:
            del model.graph.initializers[name]
    return sorted(errors.items(), key=lambda item: -item[1])


def relative_error(right: Logits, found: Logits) -> float:
    """Return the root mean square error in units of the standard deviation of the right logits."""
    right, found = right.astype(np.float64), found.astype(np.float64)  # squares of 1e20 are infinite in float32
    return float(np.sqrt(np.mean((right - found) ** 2)) / max(float(right.std()), 1e-9))


def _logits(model: ir.Model, images: Images) -> Logits:
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, quiet_options(), providers=["CPUExecutionProvider"])
    logits: Logits = session.run([LOGITS], {session.get_inputs()[0].name: images})[0]
    return logits


def _round_trip(value: ir.Value, limits: ActivationRange, scheme: Scheme) -> list[ir.Node]:
    """Return QuantizeLinear and DequantizeLinear nodes for `value`."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    kind = np.int8 if scheme.symmetric else np.uint8
    scale = max(2 * max(-low, high) if scheme.symmetric else high - low, 1e-9) / (scheme.levels - 1)
    zero = 0 if scheme.symmetric else round(-low / scale)
    assert isinstance(value.graph, ir.Graph)
    parameters = [
        add_constant(value.graph, f"{value.name}.ranked_scale", np.array(scale, np.float32)),
        add_constant(value.graph, f"{value.name}.ranked_zero", np.array(zero, kind)),
    ]
    quantised = ir.node("QuantizeLinear", [value, *parameters])
    return [quantised, ir.node("DequantizeLinear", [quantised.outputs[0], *parameters])]


def _rounded_weight(weight: ir.TensorProtocol, node: ir.Node) -> ir.TensorProtocol:
    """Return weights rounded to eight bits with a scale for each output channel, in float32."""
    array: Array = weight.numpy()
    flipped = node.op_type == "Gemm" and "transB" not in node.attributes
    channels: Array = array.T if flipped else array
    peak = np.abs(channels.reshape(len(channels), -1)).max(axis=1)
    scale = np.maximum(peak, 1e-9).reshape(-1, *[1] * (channels.ndim - 1)) / 127
    rounded = (np.round(channels / scale) * scale).astype(np.float32)
    return ir.tensor(np.ascontiguousarray(rounded.T if flipped else rounded), name=weight.name)
