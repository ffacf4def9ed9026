"""A depthwise convolution over a concat is a concat of depthwise convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import (
    CHANNELS,
    OverConcat,
    concat_sizes,
    conv_bias,
    conv_weight,
    insert,
    insert_conv,
    is_depthwise,
    replace,
)


class DepthwiseOverConcat(OverConcat):
    """``D [x, y] = [D_x x, D_y y]``: what reads the halves can then take them before they are joined."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for conv in self.nodes(graph):
            concat = self.concat(conv.inputs[0] if conv.inputs else None)
            if concat is not None and is_depthwise(conv):
                modified |= _split(conv, concat)
        return modified


def _split(conv: ir.Node, concat: ir.Node) -> bool:
    weight, bias, sizes = conv_weight(conv), conv_bias(conv), concat_sizes(concat)
    if weight is None or sizes is None:
        return False
    cuts = np.cumsum(sizes)[:-1]
    biases = [None] * len(sizes) if bias is None else np.split(bias, cuts)
    parts = []
    for number, (x, part, shift) in enumerate(zip(concat.inputs, np.split(weight, cuts), biases, strict=True)):
        assert x is not None
        parts.append(insert_conv(conv, x, part, shift, f"{conv.name}.part{number}", conv, group=len(part)))
    replace(conv.outputs[0], insert(conv, "Concat", parts, f"{conv.name}.joined", {"axis": CHANNELS}))
    return True
