"""Optimisers as recipes name them, TensorFlow's RMSProp among them, and which weights L2 is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim

from shrinkserve.config import OptimizerConfig


class RMSProp(optim.Optimizer):
    """RMSProp as ``tf.compat.v1.train.RMSPropOptimizer`` computes it (``ApplyRMSProp``, training_ops.cc).

    ```
    mean_square = decay * mean_square + (1 - decay) * gradient^2          starting at one
    velocity    = momentum * velocity + lr * gradient / sqrt(mean_square + epsilon)
    weight     -= velocity
    ```

    It differs from `torch.optim.RMSprop` in three ways that matter at ShrinkCNN's epsilon of 1.0: the epsilon is inside
    the root, the mean square starts at one rather than zero, and a change of the learning rate does not act on
    what the velocity has already gathered.

    Args:
        params: tensors or groups of them, as for any torch optimiser.
        lr: learning rate.
        decay: of the mean square.
        momentum: of the velocity.
        epsilon: added to the mean square.
        weight_decay: times the weight, added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p] = {"mean_square": torch.ones_like(p), "velocity": torch.zeros_like(p)}
        squares = [self.state[p]["mean_square"] for p in weights]
        velocities = [self.state[p]["velocity"] for p in weights]
        gradients = [p.grad for p in weights if p.grad is not None]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])  # type: ignore[assignment]
        # One fused call over all tensors each: 400 small tensors would cost a launch apiece.
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_addcdiv_(velocities, gradients, roots, group["lr"])
        torch._foreach_sub_(weights, velocities)


def parameter_groups(network: nn.Module, l2: float) -> list[dict[str, Any]]:
    """Weights with and without L2.

    L2 is for the kernels of dense layers and of convolutions that mix channels. Depthwise kernels, batch norms and
    biases have none. The loss has ``l2 * sum(w^2)``, whose gradient is ``2 * l2 * w``.
    """
    decayed = {
        module.weight
        for module in network.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    others = [p for p in network.parameters() if p not in decayed]
    return [
        {"params": [p for p in network.parameters() if p in decayed], "weight_decay": 2 * l2},
        {"params": others, "weight_decay": 0.0},
    ]


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> optim.Optimizer:
    """The optimiser of a recipe over a network's weights; AdamW's betas are ``(momentum, decay)``."""
    groups = parameter_groups(network, config.l2)
    if config.name == "rmsprop":
        return RMSProp(groups, config.lr, config.decay, config.momentum, config.epsilon)
    if config.name == "sgd":
        return optim.SGD(groups, config.lr, config.momentum)
    return optim.AdamW(groups, config.lr, (config.momentum, config.decay), config.epsilon)
