"""Graph passes, one in each file. Each is exact in real arithmetic."""

from shrinkserve.exporting.passes.chain_sums import ChainSums
from shrinkserve.exporting.passes.concat_to_sum import ConcatToSum
from shrinkserve.exporting.passes.conv_beside_concat import ConvBesideConcat
from shrinkserve.exporting.passes.conv_over_concat import ConvOverConcat
from shrinkserve.exporting.passes.depthwise_over_concat import DepthwiseOverConcat
from shrinkserve.exporting.passes.elementwise_over_concat import ElementwiseOverConcat
from shrinkserve.exporting.passes.even_pads import EvenPads
from shrinkserve.exporting.passes.fold_batch_norm import FoldBatchNorm
from shrinkserve.exporting.passes.global_pool import GlobalPool
from shrinkserve.exporting.passes.merge_sums import MergeSums
from shrinkserve.exporting.passes.pad_channels import PadChannels

__all__ = [
    "ChainSums",
    "ConcatToSum",
    "ConvBesideConcat",
    "ConvOverConcat",
    "DepthwiseOverConcat",
    "ElementwiseOverConcat",
    "EvenPads",
    "FoldBatchNorm",
    "GlobalPool",
    "MergeSums",
    "PadChannels",
]
