"""Rewrite a concat of convolutions into a sum of wider convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, add_all, insert_conv, replace
from shrinkserve.exporting.passes.nodes import (
    Array,
    all_known,
    concat_sizes,
    conv_bias,
    conv_weight,
    dense_producer,
    is_channel_concat,
    sum_terms,
)


class ConcatToSum(GraphPass):
    """``[A x, B y] = [A, 0] x + [0, B] y``, also if a part is itself a sum of convolutions.

    This costs multiplications and saves a copy. If padding would fill the last block of each part, the wider filters
    need fewer blocks than the parts.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if is_channel_concat(node):
                modified |= _widen(node)
        return modified


def _widen(concat: ir.Node) -> bool:
    terms = all_known(all_known(dense_producer(term) for term in sum_terms(value)) for value in concat.inputs)
    sizes = concat_sizes(concat)
    if sizes is None or terms is None:
        return False
    starts = np.cumsum([0, *sizes])
    placed = [(conv, int(start)) for start, convs in zip(starts, terms, strict=False) for conv in convs]
    wide = [_placed(concat, conv, start, int(starts[-1])) for conv, start in placed]
    replace(concat.outputs[0], add_all(concat, wide, [f"{conv.name}.added" for conv, _ in placed[1:]]))
    return True


def _placed(concat: ir.Node, conv: ir.Node, start: int, width: int) -> ir.Value:
    weight, bias, x = conv_weight(conv), conv_bias(conv), conv.inputs[0]
    assert weight is not None
    assert x is not None
    wide_bias = None if bias is None else _rows(bias, start, width)
    return insert_conv(concat, x, _rows(weight, start, width), wide_bias, f"{conv.name}.wide", conv)


def _rows(array: Array, start: int, width: int) -> Array:
    result = np.zeros((width, *array.shape[1:]), array.dtype)
    result[start : start + len(array)] = array
    return result
