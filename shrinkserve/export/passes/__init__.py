"""Rewrites of ONNX graphs, one a file, each exact in real arithmetic: (model) -> (model, modified)."""

from shrinkserve.export.passes.chain_sums import ChainSums
from shrinkserve.export.passes.concat_to_sum import ConcatToSum
from shrinkserve.export.passes.conv_beside_concat import ConvBesideConcat
from shrinkserve.export.passes.conv_over_concat import ConvOverConcat
from shrinkserve.export.passes.depthwise_over_concat import DepthwiseOverConcat
from shrinkserve.export.passes.elementwise_over_concat import ElementwiseOverConcat
from shrinkserve.export.passes.fold_batch_norm import FoldBatchNorm
from shrinkserve.export.passes.global_pool import GlobalPool
from shrinkserve.export.passes.merge_siblings import MergeSiblings
from shrinkserve.export.passes.merge_sums import MergeSums
from shrinkserve.export.passes.pad_channels import PadChannels

__all__ = [
    "ChainSums",
    "ConcatToSum",
    "ConvBesideConcat",
    "ConvOverConcat",
    "DepthwiseOverConcat",
    "ElementwiseOverConcat",
    "FoldBatchNorm",
    "GlobalPool",
    "MergeSiblings",
    "MergeSums",
    "PadChannels",
]
