"""Rewrite a convolution over a concat into a sum of convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import OverConcat, add_all, insert_conv, replace
from shrinkserve.exporting.passes.nodes import concat_sizes, conv_bias, conv_weight, is_dense


class ConvOverConcat(OverConcat):
    """``W [x, y] = W_x x + W_y y``: the joined tensor disappears.

    ONNX Runtime adds the second product inside the second convolution.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for conv in self.nodes(graph):
            concat = self.concat(conv.inputs[0] if conv.inputs else None)
            if concat is not None and is_dense(conv):
                modified |= _split(conv, concat)
        return modified


def _split(conv: ir.Node, concat: ir.Node) -> bool:
    weight, sizes = conv_weight(conv), concat_sizes(concat)
    if weight is None or sizes is None or sum(sizes) != weight.shape[1]:
        return False
    inputs = [value for value in concat.inputs if value is not None]
    parts = np.split(weight, np.cumsum(sizes)[:-1], axis=1)
    products = [
        insert_conv(conv, x, part, None if number else conv_bias(conv), f"{conv.name}.part{number}", conv)
        for number, (x, part) in enumerate(zip(inputs, parts, strict=True))
    ]
    names = [f"{conv.name}.sum{number}" for number in range(1, len(products))]
    replace(conv.outputs[0], add_all(conv, products, names))
    return True
