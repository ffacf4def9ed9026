"""The exponential moving average (EMA) of the weights, which is evaluated and exported."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ema:
    """A second network whose weights follow those of the trained one.

    The decay warms up as in ``tf.train.ExponentialMovingAverage(decay, num_updates)``: at update n (from 1) it is
    ``min(decay, (1 + n) / (10 + n))``, so that the random first weights are soon forgotten.
    torch's `AveragedModel` and timm's `ModelEmaV3` have other warm-ups.

    Args:
        network: the trained network, not wrapped by DDP or compiled.
        decay: the largest decay.
        buffers: average the running statistics of batch norms too; else `with_statistics` copies them.

    Attributes:
        network: the averaged network, in evaluation mode.
        updates: number of updates.
    """

    def __init__(self, network: nn.Module, decay: float, *, buffers: bool = False) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.decay, self.buffers, self.updates = decay, buffers, 0
        self._source = network

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(self._source.parameters()), weight)
        if self.buffers:
            torch._foreach_lerp_(_statistics(self.network.buffers()), _statistics(self._source.buffers()), weight)

    @torch.no_grad()
    def with_statistics(self) -> nn.Module:
        """Return the averaged network. Copies the current running statistics to it, unless they are averaged too."""
        if not self.buffers:
            for mine, theirs in zip(self.network.buffers(), self._source.buffers(), strict=True):
                mine.copy_(theirs)
        return self.network


def _statistics(buffers: Iterable[Tensor]) -> list[Tensor]:
    return [buffer for buffer in buffers if buffer.is_floating_point()]  # not the count of batches
