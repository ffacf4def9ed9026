"""The exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ema:
    """A second network whose weights follow those of the one that is trained.

    The decay warms up as in ``tf.train.ExponentialMovingAverage(decay, num_updates)``: at update n (from 1) it is
    ``min(decay, (1 + n) / (10 + n))``, so that the first weights, which are random, are soon forgotten.

    Args:
        network: the network that is trained; not wrapped by DDP or compiled.
        decay: the largest decay.
        buffers: average the batch norms' running statistics too; else they are taken as they are.

    Attributes:
        network: the averaged network, in evaluation mode.
        updates: how many there were.
    """

    def __init__(self, network: nn.Module, decay: float, *, buffers: bool = False) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.decay, self.buffers, self.updates = decay, buffers, 0
        self._source = network

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the weights as they are now."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(self._source.parameters()), weight)
        if self.buffers:
            torch._foreach_lerp_(_statistics(self.network.buffers()), _statistics(self._source.buffers()), weight)

    @torch.no_grad()
    def settle(self) -> nn.Module:
        """The averaged network, with the running statistics of the one that is trained unless they are averaged."""
        if not self.buffers:
            for mine, theirs in zip(self.network.buffers(), self._source.buffers(), strict=True):
                mine.copy_(theirs)
        return self.network


def _statistics(buffers: Iterable[Tensor]) -> list[Tensor]:
    return [buffer for buffer in buffers if buffer.is_floating_point()]  # not the count of batches
