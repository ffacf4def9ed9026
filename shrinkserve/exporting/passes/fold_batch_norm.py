"""Fold batch normalisation into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, replace, set_conv
from shrinkserve.exporting.passes.nodes import attribute, constant, conv_bias, conv_weight, is_operator, producer


class FoldBatchNorm(GraphPass):
    """``gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is a convolution with scaled weights and another bias.

    onnxscript's rule is not used: it computes in float32, folds batch norms in training mode, and does not keep the
    node's name, by which later passes find the stages.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for norm in self.nodes(graph):
            if (
                is_operator(norm, "BatchNormalization")
                and not attribute(norm, "training_mode", 0)
                and not any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
            ):
                conv = producer(norm.inputs[0], "Conv")
                modified |= conv is not None and _fold(graph, conv, norm)
        return modified


def _fold(graph: ir.Graph, conv: ir.Node, norm: ir.Node) -> bool:
    weight, parameters = conv_weight(conv), [constant(value) for value in norm.inputs[1:]]
    if weight is None or any(value is None for value in parameters):
        return False
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in parameters)
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    bias = conv_bias(conv)
    shift = beta + ((0 if bias is None else bias.astype(np.float64)) - mean) * factor
    scaled = (weight * factor[:, None, None, None]).astype(weight.dtype)
    set_conv(graph, conv, scaled, shift.astype(weight.dtype))
    replace(norm.outputs[0], conv.outputs[0])
    return True
