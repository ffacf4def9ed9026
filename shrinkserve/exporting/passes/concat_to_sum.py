"""A concat of convolutions is a sum of wider ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import (
    Array,
    GraphPass,
    attribute,
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


class ConcatToSum(GraphPass):
    """``[A x, B y] = [A, 0] x + [0, B] y``, also where a part is a sum of convolutions itself.

    More multiplications, but no copy: and where padding would fill each part's last block, the wider filters fit
    into fewer blocks than the parts took.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in self.nodes(graph):
            if is_channel_concat(node):
                modified |= _widen(node)
        return modified


def _widen(concat: ir.Node) -> bool:
    terms = [_terms(value) for value in concat.inputs]
    sizes = concat_sizes(concat)
    if sizes is None or not all(terms):
        return False
    starts = np.cumsum([0, *sizes])
    total: ir.Value | None = None
    for start, convs in zip(starts, terms, strict=False):
        for conv in convs:
            wide = _placed(concat, conv, int(start), int(starts[-1]))
            if total is not None:
                wide = insert(concat, "Add", [total, wide], f"{conv.name}.added")
                wide.shape = concat.outputs[0].shape
            total = wide
    assert total is not None
    replace(concat.outputs[0], total)
    return True


def _terms(value: ir.Value | None) -> list[ir.Node]:
    """The dense convolutions whose sum `value` is; empty where it is something else or is read elsewhere too."""
    conv = producer(value, "Conv")
    if conv is not None:
        return [conv] if is_dense(conv) else []
    add = producer(value, "Add")
    if add is None:
        return []
    left, right = (_terms(operand) for operand in add.inputs)
    return [*left, *right] if left and right else []


def _placed(concat: ir.Node, conv: ir.Node, start: int, width: int) -> ir.Value:
    weight, bias, x = conv_weight(conv), conv_bias(conv), conv.inputs[0]
    assert weight is not None
    assert x is not None
    assert attribute(conv, "group", 1) == 1
    wide_bias = None if bias is None else _rows(bias, start, width)
    return insert_conv(concat, x, _rows(weight, start, width), wide_bias, f"{conv.name}.wide", conv)


def _rows(array: Array, start: int, width: int) -> Array:
    result = np.zeros((width, *array.shape[1:]), array.dtype)
    result[start : start + len(array)] = array
    return result
