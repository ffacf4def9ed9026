"""Updates to compare the trainer with: a plain loop, and timm's, on the same network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shrinkserve import arch
from shrinkserve.arch.module import Concat, compile_spec
from shrinkserve.config import Recipe
from shrinkserve.data import TrainBatch


def network_of(recipe: Recipe, classes: int, device: torch.device) -> nn.Module:
    """Return the network of a recipe in its simple form, with `torch.cat` for a concat."""
    torch.manual_seed(recipe.train.seed)
    network = compile_spec(arch.from_recipe(recipe.model, classes))
    for module in network.modules():
        if isinstance(module, Concat):
            module.forward = lambda *tensors: torch.cat(tensors, dim=1)  # type: ignore[method-assign]
    return network.to(device)


def placed(batch: TrainBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(batch.images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, torch.as_tensor(batch.labels).to(device)


class Plain:
    """Simple update: eager, NCHW, float32, tensor by tensor."""

    def __init__(self, recipe: Recipe, classes: int, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.network = network_of(recipe, classes, device)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.squares = [torch.ones_like(p) for p in self.network.parameters()]
        self.velocities = [torch.zeros_like(p) for p in self.network.parameters()]

    def __call__(self, batch: TrainBatch) -> float:
        images, labels = placed(batch, self.device)
        logits = self.network(images.contiguous())
        loss = cross_entropy(logits, labels, label_smoothing=self.recipe.train.label_smoothing)
        self.network.zero_grad()
        loss.backward()
        config, rate = self.recipe.optimizer, self.recipe.optimizer.lr * len(batch) / 256
        with torch.no_grad():
            for p, square, velocity in zip(self.network.parameters(), self.squares, self.velocities, strict=True):
                assert p.grad is not None
                square.mul_(config.decay).addcmul_(p.grad, p.grad, value=1 - config.decay)
                velocity.mul_(config.momentum).addcdiv_(p.grad, (square + config.epsilon).sqrt(), value=rate)
                p.sub_(velocity)
            for name, p in self.network.named_parameters():
                self.average[name].lerp_(p, 1e-3)
        return loss.item()


class Timm:
    """Update of timm's `train.py` with timm's RMSpropTF, loss, AMP without a scaler, and ModelEmaV3.

    Args:
        recipe: recipe of the run.
        classes: number of logits.
        device: device of the computation.
        amp: use its options ``--amp --amp-dtype bfloat16 --channels-last``, else its defaults, float32 and NCHW.
    """

    def __init__(self, recipe: Recipe, classes: int, device: torch.device, *, amp: bool) -> None:
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        self.device, self.amp = device, amp
        self.layout = torch.channels_last if amp else torch.contiguous_format
        network: Any = network_of(recipe, classes, device)
        self.network = network.to(memory_format=self.layout)
        self.loss = LabelSmoothingCrossEntropy(recipe.train.label_smoothing)
        config = recipe.optimizer
        rate = config.lr * recipe.train.batch_size / config.reference_batch
        self.optimizer = create_optimizer_v2(
            self.network, "rmsproptf", rate, momentum=config.momentum, alpha=config.decay, eps=config.epsilon
        )
        self.average = ModelEmaV3(self.network, recipe.train.ema_decay)

    def __call__(self, batch: TrainBatch) -> float:
        images, labels = placed(batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.loss(self.network(images.contiguous(memory_format=self.layout)), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update(self.network)
        return float(loss.item())
