"""The network of a run: its precision, the batch that it needs, and its construction by the recipe."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from shrinkserve import arch
from shrinkserve.arch.code import CodeNetwork, Description, build, smallest_batch
from shrinkserve.arch.module import set_stochastic_depth
from shrinkserve.config import Recipe
from shrinkserve.errors import ConfigError
from shrinkserve.training.processes.distributed import DistContext

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the precision of forward and backward passes on a device."""
    if recipe.train.precision != "auto":
        return PRECISIONS[recipe.train.precision]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def least_batch(spec: Description, recipe: Recipe) -> int:
    """Return the number of images that batch norm needs at the smallest size of the training images.

    Raises:
        ConfigError: the recipe's batches are smaller.
    """
    if recipe.schedule.sizes and not isinstance(spec, CodeNetwork):
        spec = arch.from_recipe(replace(recipe.model, input_size=min(recipe.schedule.sizes)), 2)
    needed = smallest_batch(spec)
    if recipe.train.batch_size < needed:
        expected = f"at least {needed}, because batch norm sees 1x1 maps at this input size"
        raise ConfigError("train.batch_size", expected=expected, found=recipe.train.batch_size)
    return needed


def build_network(spec: Description, recipe: Recipe, ranks: DistContext) -> nn.Module:
    """Return a network with random weights, with the recipe's stochastic depth and kind of batch norm.

    Raises:
        ConfigError: torch has no synchronised batch norm on this device.
    """
    network = build(spec)
    set_stochastic_depth(network, recipe.model.stochastic_depth)
    if recipe.train.sync_batch_norm and ranks.world > 1:
        if not ranks.on_gpu:
            raise ConfigError("train.sync_batch_norm: torch supports it on GPUs only", hint="remove the key")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            # With a fixed decay nothing reads the counter of batches, and it costs a kernel per update.
            module.num_batches_tracked = None
    return network
