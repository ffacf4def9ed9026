"""Split a convolution that is added to a concat where the concat is joined."""

from __future__ import annotations

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, split_filters
from shrinkserve.exporting.passes.nodes import concat_of, concat_sizes, dense_producer, is_operator


class ConvBesideConcat(GraphPass):
    """``W x + [u, v]``: with ``W x`` as ``[W_1 x, W_2 x]`` the sum can be computed before the halves are joined."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for add in self.nodes(graph):
            if not is_operator(add, "Add"):
                continue
            for position in (0, 1):
                conv, concat = dense_producer(add.inputs[position]), concat_of(add.inputs[1 - position])
                if conv is None or concat is None:
                    continue
                sizes, x = concat_sizes(concat), conv.inputs[0]
                if sizes is not None and x is not None:
                    modified |= split_filters(conv, sizes, [x] * len(sizes), "rows")
        return modified
