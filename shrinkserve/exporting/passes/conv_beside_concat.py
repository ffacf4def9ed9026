"""A convolution that is added to a concat can be cut where the concat is joined."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import (
    CHANNELS,
    GraphPass,
    concat_sizes,
    conv_bias,
    conv_weight,
    insert,
    insert_conv,
    is_channel_concat,
    is_dense,
    producer,
    replace,
)


class ConvBesideConcat(GraphPass):
    """``W x + [u, v]``: with ``W x`` as ``[W_1 x, W_2 x]`` the sum can be taken before the halves are joined."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for add in self.nodes(graph):
            if add.op_type != "Add":
                continue
            for position in (0, 1):
                conv, other = producer(add.inputs[position], "Conv"), add.inputs[1 - position]
                concat = None if other is None else other.producer()
                if conv is not None and is_dense(conv) and is_channel_concat(concat):
                    assert concat is not None
                    modified |= _cut(conv, concat_sizes(concat))
        return modified


def _cut(conv: ir.Node, sizes: list[int] | None) -> bool:
    weight, bias, x = conv_weight(conv), conv_bias(conv), conv.inputs[0]
    if weight is None or x is None or sizes is None:
        return False
    cuts = np.cumsum(sizes)[:-1]
    biases = [None] * len(sizes) if bias is None else np.split(bias, cuts)
    parts = [
        insert_conv(conv, x, rows, shift, f"{conv.name}.rows{number}", conv)
        for number, (rows, shift) in enumerate(zip(np.split(weight, cuts), biases, strict=True))
    ]
    replace(conv.outputs[0], insert(conv, "Concat", parts, f"{conv.name}.joined", {"axis": CHANNELS}))
    return True
