"""Give convolutions equal padding on opposite sides."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from shrinkserve.exporting.passes.editing import GraphPass, set_conv
from shrinkserve.exporting.passes.nodes import attribute, conv_bias, conv_weight


class EvenPads(GraphPass):
    """Embed the kernel of a convolution with uneven padding into a larger one with zeros.

    A kernel of 3 with pads (0, 1) becomes a kernel of 4, with a zero in front, and pads (1, 1): the same products for
    every input size. cuDNN has no uneven padding, and ONNX Runtime's CUDA provider fails on some of these convolutions
    (microsoft/onnxruntime#26274). Every plan has this pass, because a GPU may also run the default file. ShrinkCNN has
    one such convolution, its first; the larger kernel adds 2 % of multiply-accumulates.
    """

    def rewrite(self, graph: ir.Graph) -> bool:
        return sum(_even(graph, node) for node in self.nodes(graph) if uneven(node)) > 0


def uneven(node: ir.Node) -> bool:
    """Return True for a two-dimensional convolution whose pads differ on opposite sides."""
    pads = attribute(node, "pads", [0, 0, 0, 0])
    return conv_weight(node) is not None and len(pads) == 4 and pads[:2] != pads[2:]


def _even(graph: ir.Graph, conv: ir.Node) -> bool:
    weight, pads = conv_weight(conv), attribute(conv, "pads", [0, 0, 0, 0])
    dilations = attribute(conv, "dilations", [1, 1])
    assert weight is not None
    larger = [max(begin, end) for begin, end in zip(pads[:2], pads[2:], strict=True)]
    zeros = [(pad - pads[axis], pad - pads[axis + 2]) for axis, pad in enumerate(larger)]
    if any(count % dilations[axis] for axis, counts in enumerate(zeros) for count in counts):
        return False
    steps = [(front // dilations[axis], back // dilations[axis]) for axis, (front, back) in enumerate(zeros)]
    padded = np.pad(weight, [(0, 0), (0, 0), *steps])
    set_conv(graph, conv, padded, conv_bias(conv))
    conv.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", padded.shape[2:])
    conv.attributes["pads"] = ir.AttrInt64s("pads", [*larger, *larger])
    return True
