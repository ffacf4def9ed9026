"""A convolution over a concat is a sum of convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import (
    OverConcat,
    concat_sizes,
    conv_bias,
    conv_weight,
    insert,
    insert_conv,
    is_dense,
    replace,
)


class ConvOverConcat(OverConcat):
    """``W [x, y] = W_x x + W_y y``: the joined tensor is never made.

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
    if weight is None or sizes is None:
        return False
    total: ir.Value | None = None
    parts = np.split(weight, np.cumsum(sizes)[:-1], axis=1)
    for number, (x, part) in enumerate(zip(concat.inputs, parts, strict=True)):
        assert x is not None
        product = insert_conv(conv, x, part, None if number else conv_bias(conv), f"{conv.name}.part{number}", conv)
        if total is not None:
            product = insert(conv, "Add", [total, product], f"{conv.name}.sum{number}")
            product.shape = conv.outputs[0].shape
        total = product
    assert total is not None
    replace(conv.outputs[0], total)
    return True
