"""Rewrite a depthwise convolution over a concat into a concat of depthwise convolutions."""

from __future__ import annotations

import onnx_ir as ir

from shrinkserve.exporting.passes.editing import OverConcat, split_filters
from shrinkserve.exporting.passes.nodes import concat_sizes, is_depthwise


class DepthwiseOverConcat(OverConcat):
    """``D [x, y] = [D_x x, D_y y]``: readers of the halves can then read them before they are joined."""

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for conv in self.nodes(graph):
            concat = self.concat(conv.inputs[0] if conv.inputs else None)
            sizes = None if concat is None else concat_sizes(concat)
            if concat is not None and sizes is not None and is_depthwise(conv):
                inputs = [value for value in concat.inputs if value is not None]
                modified |= split_filters(conv, sizes, inputs, "part")
        return modified
