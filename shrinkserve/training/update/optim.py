"""The optimisers that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn, optim

from shrinkserve.config import OptimizerConfig


class ParameterGroup(TypedDict):
    """Parameters with the same options. `head` is True for those of the classifier."""

    params: list[nn.Parameter]
    weight_decay: float
    head: bool


class RMSProp(optim.Optimizer):
    """RMSProp as in ``tf.compat.v1.train.RMSPropOptimizer`` (``ApplyRMSProp``, training_ops.cc).

    ```
    mean_square = decay * mean_square + (1 - decay) * gradient^2          starting at one
    velocity    = momentum * velocity + lr * gradient / sqrt(mean_square + epsilon)
    weight     -= velocity
    ```

    `torch.optim.RMSprop` differs in three ways that matter at ShrinkCNN's epsilon of 1.0: its epsilon is outside the
    root, its mean square starts at zero, and a change of the learning rate scales the whole velocity. timm's
    `RMSpropTF` computes the same (a test compares them), but timm needs torchvision, and it has no fused loss scaling.

    A loss scaler for float16 passes `grad_scale` and `found_inf` (`torch.amp.GradScaler`), so that skipping an update
    with overflown gradients needs no copy from the GPU.

    Args:
        params: tensors or groups of them, as for any torch optimiser.
        lr: learning rate.
        decay: of the mean square.
        momentum: of the velocity.
        epsilon: added to the mean square.
        weight_decay: times the weight, added to the gradient.
    """

    _step_supports_amp_scaling = True  # read by torch.amp.GradScaler

    def __init__(
        self,
        params: Iterable[Tensor] | Sequence[ParameterGroup],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(params, defaults)  # type: ignore[arg-type]

    @property
    def _overflow(self) -> Tensor | None:
        """1.0 if a gradient has overflown, else 0.0; None without a loss scaler, which sets `found_inf`."""
        found: Tensor | None = getattr(self, "found_inf", None)
        return None if found is None else found.squeeze()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights once."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: Mapping[str, float]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p] = {"mean_square": torch.ones_like(p), "velocity": torch.zeros_like(p)}
        squares = [self.state[p]["mean_square"] for p in weights]
        velocities = [self.state[p]["velocity"] for p in weights]
        gradients = self._gradients(weights, group["weight_decay"])
        decay, momentum = self._factor(group["decay"]), self._factor(group["momentum"])
        # Each call handles all tensors: 400 small tensors would need a kernel launch each.
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
        roots = torch._foreach_add(squares, group["epsilon"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_addcdiv_(velocities, gradients, roots, group["lr"])
        if (overflow := self._overflow) is None:
            torch._foreach_sub_(weights, velocities)
        else:
            torch._foreach_sub_(weights, torch._foreach_mul(velocities, 1 - overflow))

    def _gradients(self, weights: list[Tensor], weight_decay: float) -> list[Tensor]:
        """Return the gradients without loss scale and with L2; zeros if one has overflown."""
        gradients = [p.grad for p in weights if p.grad is not None]
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:
            gradients = list(torch._foreach_mul(gradients, scale.double().reciprocal().float().squeeze()))
        if weight_decay:
            gradients = list(torch._foreach_add(gradients, weights, alpha=weight_decay))
        if (overflow := self._overflow) is None:
            return gradients
        keep, zero = overflow == 0, gradients[0].new_zeros(())
        return [torch.where(keep, gradient, zero) for gradient in gradients]

    def _factor(self, value: float) -> Tensor | float:
        """Return a decay factor: 1 if a gradient has overflown, so that the state stays as it is."""
        overflow = self._overflow
        return value if overflow is None else overflow + (1 - overflow) * value


def parameter_groups(network: nn.Module, l2: float, head: tuple[str, ...] = ()) -> list[ParameterGroup]:
    """Return the trained weights by classifier or backbone, and with or without L2.

    Kernels of dense layers and of convolutions that mix channels have it. Depthwise kernels, batch norms and biases
    have none. The loss has ``l2 * sum(w^2)``, so the gradient is ``2 * l2 * w``.

    Args:
        network: the trained network.
        l2: see above.
        head: prefixes of the classifier's names.
    """
    decayed = {
        module.weight
        for module in network.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    groups: list[ParameterGroup] = []
    for in_head in (False, True):
        parts = [p for n, p in network.named_parameters() if p.requires_grad and n.startswith(head or "?") == in_head]
        for decay, l2_applies in ((2 * l2, True), (0.0, False)):
            if params := [p for p in parts if (p in decayed) == l2_applies]:
                groups.append({"params": params, "weight_decay": decay, "head": in_head})
    return groups


def build_optimizer(network: nn.Module, config: OptimizerConfig, head: tuple[str, ...] = ()) -> optim.Optimizer:
    """Return the optimiser of a recipe for a network; AdamW's betas are ``(momentum, decay)``.

    Args:
        network: the trained network.
        config: of the recipe.
        head: prefixes of the classifier's names, see `parameter_groups`.
    """
    groups = parameter_groups(network, config.l2, head)
    if config.name == "rmsprop":
        return RMSProp(groups, config.lr, config.decay, config.momentum, config.epsilon)
    # On a GPU the fused kernels skip overflown gradients without reading a value back.
    fused = True if all(p.is_cuda for p in network.parameters()) else None
    if config.name == "sgd":
        return optim.SGD([{**group} for group in groups], config.lr, config.momentum, fused=fused)
    betas = (config.momentum, config.decay)
    return optim.AdamW([{**group} for group in groups], config.lr, betas, config.epsilon, fused=fused)


def state_names(config: OptimizerConfig) -> set[str]:
    """Return the names of the tensors that an optimiser keeps for each weight."""
    if config.name == "adamw":
        return {"exp_avg", "exp_avg_sq", "step"}
    if config.name == "sgd":
        return {"momentum_buffer"} if config.momentum else set()
    return {"mean_square", "velocity"}
